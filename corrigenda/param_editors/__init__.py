"""Parameter editors: printing proven edits into the weights, and taking them back to the bit.

``editor("memit").apply(lm, edits)`` returns a :class:`~corrigenda.param_editors.update.Consolidation`.
"""
