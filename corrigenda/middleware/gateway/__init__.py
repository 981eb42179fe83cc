"""The gateway: an OpenAI-compatible server in front of any upstream or a local model, that answers by the edits."""
