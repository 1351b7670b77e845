"""What people think of a run's corrections: their grades with intervals, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from lema_local.errors import InputError
from lema_local.grades import (
    GRADES,
    GRADES_FILE,
    GradeBook,
    Graded,
    correction_id,
    grades_by_reviewer,
)
from lema_local.records import Correction
from lema_local.report.data import GradeLine, GradeShares, Review
from lema_local.report.files import RunReader
from lema_local.report.funnel import ACCEPTED


def summarize_grades(name: str, grades: Iterable[str]) -> GradeShares:
    """Return how often each grade was given, with 95 % Wilson intervals."""
    from lema_local.statistics import wilson_interval

    counts = Counter(grades)
    total = counts.total()
    lines = [
        GradeLine(grade, counts[grade], counts[grade] / total, *wilson_interval(counts[grade], total))
        for grade in (GRADES if total else ())
    ]
    return GradeShares(name, total, lines)


def describe_agreements(own: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say of each two reviewers how far they agree on what both graded.

    Args:
        own: {reviewer: {correction_id: grade}}.
    """
    from lema_local.statistics import cohens_kappa

    lines = []
    for first, second in combinations(own, 2):
        both = sorted(own[first].keys() & own[second].keys())
        if both:
            found = cohens_kappa([own[first][one] for one in both], [own[second][one] for one in both])
            kappa = "-" if found.kappa is None else f"{found.kappa:.2f}"
            lines.append(
                f"{first} and {second}: {found.n} in common, the same grade {found.agreed:.1%}, Cohen's kappa {kappa}"
            )
    return lines


def read_review(reader: RunReader) -> Review | None:
    """Return the grades of the corrections that the run holds now; None where there are none."""
    path = reader.run_dir / GRADES_FILE
    if not path.is_file() or not path.stat().st_size:
        return None
    try:
        marks = GradeBook(path).current()
    except InputError as err:
        reader.tell(str(err))
        return None
    known = {correction_id(one) for one in reader.read(ACCEPTED, Correction)}
    kept = [one for one in marks if one.mark != "skip" and one.correction_id in known]
    gone = sum(one.mark != "skip" for one in marks) - len(kept)
    if gone:
        reader.tell(f"{gone:,} grades are of corrections that this run no longer holds: they are left out")
    return _summarize(kept) if kept else None


def _summarize(marks: Sequence[Graded]) -> Review:
    own = grades_by_reviewer(list(marks))
    teachers: dict[str, list[str]] = {}
    for one in marks:
        teachers.setdefault(one.teacher, []).append(one.mark)
    return Review(
        by_reviewer=[summarize_grades(name, grades.values()) for name, grades in own.items()],
        by_teacher=[summarize_grades(name, given) for name, given in teachers.items()]
        if len(teachers) > 1
        else (),
        agreements=describe_agreements(own),
    )
