"""Parameter editors: printing proven edits into the weights. Nothing is shipped here yet."""
