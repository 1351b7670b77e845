"""Stage 9: write what came of a run, for people.

Reads   the run's folder       whatever is there, finished or not
Writes  report.html, report.md, charts/; the model card README.md into each arm's adapter folder

The report states what the comparison of the arms shows and no more; an unfinished run gives the report of what is
there and says what is not.
"""

from lema_local.report.model_card import write_model_card
from lema_local.report.reading import read_run
from lema_local.report.rendering import write_report

__all__ = ["read_run", "write_model_card", "write_report"]
