"""Answers: find the final answer in a reasoning path, compare it with the gold one, say which rule decided."""

from lema_local.answers.comparison import Comparison, compare_answers, vote_key
from lema_local.answers.extraction import cut_at_next_question, extract_answer
from lema_local.answers.grading import Grade, check_gold, grade_answer, grade_path

__all__ = [
    "Comparison",
    "Grade",
    "check_gold",
    "compare_answers",
    "cut_at_next_question",
    "extract_answer",
    "grade_answer",
    "grade_path",
    "vote_key",
]
