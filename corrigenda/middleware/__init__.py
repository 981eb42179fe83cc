"""Answering in the light of edits, in front of any model."""
