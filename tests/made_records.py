"""Records that tests make up."""

from __future__ import annotations

from lema_local.records import Correction, CorrectionVerdict


def make_correction(
    question_id: str, verdict: CorrectionVerdict = "accepted", reason: str | None = None
) -> Correction:
    """Return a correction of the only wrong path of a question."""
    return Correction(
        question_id=question_id, sample_index=0, student="s", teacher="t", teacher_reported=None,
        original_steps=["x"], incorrect_step=1, explanation="e", corrected_solution="c", final_answer="7",
        verdict=verdict, reason=reason, reply_key=None, cost_usd=0.0,
    )  # fmt: skip
