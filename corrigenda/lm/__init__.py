"""A language model as this package sees it: loading, tokens, hooks, greedy continuations, scores.

Nothing is imported here, so that :mod:`corrigenda.lm.packages` stays free of torch.
"""
