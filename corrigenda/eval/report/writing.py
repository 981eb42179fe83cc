"""Write a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corrigenda.errors import EvaluationError
from corrigenda.eval.report.content import sections_of
from corrigenda.eval.report.entries import read_entries
from corrigenda.eval.report.markdown import to_markdown
from corrigenda.eval.report.page import to_html


def write_report(results: Sequence[Path], out: Path, *, title: str = "Editing methods compared") -> None:
    """Write the report of ``results`` to ``out``, as HTML or Markdown by its ending.

    Raises:
        EvaluationError: No results, one is no results file, another ending, or the file cannot be written.
    """
    kinds = {".html": to_html, ".md": to_markdown}
    if out.suffix not in kinds:
        raise EvaluationError(f"a report cannot be written as {out.name}", remedy="Name it .html or .md.")
    entries = read_entries(results)
    text = kinds[out.suffix](entries, sections_of(entries), title)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(
            f"the report cannot be written to {out}: {error.strerror or error}", remedy="Name a writable place."
        ) from error
