"""Stage 9: write what came of a run, for people.

Reads   the run's folder       whatever is there, finished or not
Writes  report.html, report.md, charts/; the model card README.md into each arm's adapter folder

The report states what the comparison of the arms shows and no more; an unfinished run gives the report of what is
there and says what is not.
"""

from dataclasses import replace

from lema_local.report.comparing import compare_runs
from lema_local.report.data import ReportData
from lema_local.report.examples import choose_corrections
from lema_local.report.files import RunReader
from lema_local.report.model_card import write_model_card
from lema_local.report.outcomes import EXAMPLES
from lema_local.report.reading import read_arms, read_run
from lema_local.report.rendering import write_report
from lema_local.report.summary import describe_matching
from lema_local.runs import RunFolder

__all__ = [
    "EXAMPLES",
    "choose_example_ids",
    "describe_arms",
    "read_run",
    "read_two_runs",
    "write_model_card",
    "write_report",
]


def describe_arms(run: RunFolder) -> list[str]:
    """Say what a run's arms have in common, and what not, as its report does."""
    return describe_matching(read_arms(run))


def choose_example_ids(run: RunFolder, count: int) -> set[str]:
    """Return the training questions whose corrections the report of a run shows."""
    return {one.question_id for one in choose_corrections(RunReader(run.path), count)}


def read_two_runs(first: RunFolder, second: RunFolder) -> ReportData:
    """Return what the report of the first run shows, the second one beside it.

    Raises:
        RunStateError: If one of the folders holds no run.
    """
    data, other = read_run(first), read_run(second)
    names = data.name, other.name
    if names[0] == names[1]:  # of one recipe: the folders tell them apart
        names = first.path.resolve().name, second.path.resolve().name
    if names[0] == names[1]:
        names = str(first.path), str(second.path)
    return replace(data, compared=compare_runs(data, other, names))
