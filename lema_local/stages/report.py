"""Stage 9: write what came of a run, for people.

Reads   the run's folder       whatever is there, finished or not
Writes  report.html, report.md, charts/; the model card README.md into each arm's adapter folder

The report states what the comparison of the arms shows and no more; an unfinished run gives the report of what is
there and says what is not.
"""

from lema_local.report.model_card import write_model_card
from lema_local.report.reading import read_arms, read_run
from lema_local.report.rendering import write_report
from lema_local.report.summary import describe_matching
from lema_local.runs import RunFolder

__all__ = ["describe_arms", "read_run", "write_model_card", "write_report"]


def describe_arms(run: RunFolder) -> list[str]:
    """Say what a run's arms have in common, and what not, as its report does."""
    return describe_matching(read_arms(run))
