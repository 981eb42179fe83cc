"""What is done with a request that edits concern: one strategy a file, one Protocol, in ``base``."""
