"""Reports: several results files side by side, as one self-contained HTML page or as Markdown.

==================  =================================================================================
``entries``         results files, read together with their journals; what may be compared with what
``significance``    whether two methods differ, case by case
``tables``          the tables of Yao et al. 2023 and what goes beyond them, free of any output format
``charts``          SVG: retention curves, reliability against locality, heat map by relation
``page``            HTML
``markdown``        Markdown
==================  =================================================================================
"""

from corrigenda.eval.report.writing import write_report

__all__ = ["write_report"]
