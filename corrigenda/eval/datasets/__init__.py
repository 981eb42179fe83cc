"""Datasets for knowledge editing: strict readers of the published formats, and a small built-in set.

``load(path)`` detects the format from the records; ``load("builtin")`` is the set that ships with the
package.
Readers: ``counterfact``, ``zsre``, ``knowedit``, ``mquake``, ``facts`` (the built-in set's own format) and
``edits`` (plain JSON Lines of edits).
"""

from corrigenda.eval.datasets.detect import BUILTIN, FORMATS, Dataset, load

__all__ = ["BUILTIN", "FORMATS", "Dataset", "load"]
