"""Datasets for knowledge editing: strict readers of the published formats, and a small built-in set.

``load(path)`` detects the format from the records; ``load("builtin")`` is the set that ships with the
package.
Readers: ``counterfact`` (and multi-CounterFact), ``mquake`` (-CF, -T, -3k-v2), ``zsre``, ``ripple``, ``events``,
``memprompt``, ``knowedit`` (WikiData_counterfact, WikiData_recent, ZsRE, WikiBio), ``convsent``, ``sanitation``,
``facts`` (the built-in set's own format) and ``edits`` (plain JSON Lines of edits). ``hub:owner/name`` reads a set of
one of these formats through the ``datasets`` package. Other tasks (PIQA, …): :mod:`corrigenda.eval.datasets.tasks`.
"""

from corrigenda.eval.datasets.detect import BUILTIN, FORMATS, Dataset, load

__all__ = ["BUILTIN", "FORMATS", "Dataset", "load"]
