"""The paper's own scorers, for comparison with its tables; name them beside every number they give.

Source: described from microsoft/LEMA, inference_code/{utils,evaluation}.py at 94fea82 (arXiv 2310.20689). They are
reproduced with their quirks (`10-3` is 7, `3:30` is 3, `1,000` is not `1000` in MATH), but without `eval`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lema_local.answers.extraction import find_boxed
from lema_local.answers.numbers import parse_number
from lema_local.answers.surface import clean_answer

Scorer = Literal["gsm8k", "rounded", "math", "csqa"]
SCORERS: dict[str, Scorer] = {
    "gsm8k": "gsm8k",
    "svamp": "rounded",
    "asdiv": "rounded",
    "mawps": "rounded",
    "math": "math",
    "math500": "math",
    "csqa": "csqa",
}
"""Dataset: the scorer that the paper uses for it."""


@dataclass(frozen=True, slots=True)
class PaperScore:
    """What a scorer of the paper says of a path."""

    final_answer: str | None
    """As the scorer compared it; None where it found none (which it counts as 0, or as the whole text in csqa)."""
    is_correct: bool
    scorer: Scorer


def choose_scorer(dataset: str | None, gold: str, choices: Sequence[str] | None = None) -> Scorer:
    """Return the paper's scorer of a dataset; for one that the paper does not have, the one for such answers."""
    if dataset in SCORERS:
        return SCORERS[dataset]
    if choices is not None:
        return "csqa"
    return "gsm8k" if parse_number(clean_answer(gold)) is not None else "math"


def score_as_paper(
    text: str, gold: str, *, dataset: str | None = None, choices: Sequence[str] | None = None
) -> PaperScore:
    """Return what the paper's scorer for this dataset says of a path.

    Args:
        text: The whole path.
        gold: The gold answer (csqa: a choice's text or letter).
        dataset: A name of `SCORERS`; None chooses by the kind of the gold answer.
        choices: The choices of a multiple-choice question.
    """
    scorer = choose_scorer(dataset, gold, choices)
    if scorer == "csqa":
        return _score_choice(text, gold, choices or [gold])
    if scorer == "math":
        return _score_maths(text, gold)
    return _score_number(text, gold, scorer)


_PHRASE = "The answer is "


def _score_number(text: str, gold: str, scorer: Scorer) -> PaperScore:
    answer = _read_number(text)
    wanted = _to_float(gold.replace(",", ""))
    found = 0.0 if answer is None else answer
    if scorer == "rounded":
        found, wanted = round(found, 2), round(wanted, 2)
    return PaperScore(None if answer is None else f"{answer:g}", found == wanted, scorer)


def _read_number(text: str) -> float | None:
    """Return the number behind the last `The answer is `; None where the scorer takes 0."""
    text = text.split("\n\nQ: ")[0].split("\n\nQuestion: ")[0].replace("The answer is: ", _PHRASE)
    if _PHRASE not in text:
        return None
    answer = text.split(_PHRASE)[-1].strip()
    answer = answer.removesuffix(".").replace("\u00a3", "").replace("\u20ac", "").replace(",", "")
    answer = re.sub(r"[a-zA-Z]", "", answer.split("=")[-1].split(">>")[-1]).split(":")[0]
    answer = answer.replace("$", "").replace('"', "").strip().removesuffix("%").replace(" ", "")
    try:
        return evaluate_arithmetic(answer) if re.search(r"[+\-*/]", answer) else float(answer)
    except (ValueError, ArithmeticError):
        return None


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


MAX_ARITHMETIC_CHARS = 200
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def evaluate_arithmetic(text: str) -> float:
    """Return the value of plain arithmetic (numbers, + - * / // and brackets) as Python's floats have it.

    Raises:
        ValueError: If it is anything else.
        ArithmeticError: For a division by zero or an overflow.
    """
    if len(text) > MAX_ARITHMETIC_CHARS:
        raise ValueError("too long")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as err:
        raise ValueError(f"no arithmetic: {text!r}") from err
    return float(_evaluate(tree.body))


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.operand))
    raise ValueError("only numbers, + - * / and brackets")


def _score_maths(text: str, gold: str) -> PaperScore:
    text = re.split(r"Q:|Question:", text)[0]
    answer = text.split(_PHRASE)[-1] if _PHRASE in text else find_boxed(text)
    if answer is None:
        return PaperScore(None, False, "math")
    answer = answer.strip(" .$\n")
    return PaperScore(answer, normalize_maths(answer) == normalize_maths(gold), "math")


def normalize_maths(text: str) -> str:
    r"""Return a LaTeX answer in the normal form of the MATH release; equal answers are equal strings there.

    Source: the rules of hendrycks/math, modeling/math_equivalence.py (MIT), in the order they have there; an answer
    that they cannot read stays as it is.
    """
    original = text
    for old, new in _SUBSTITUTIONS:
        text = text.replace(old, new)
    if text.count("\\text{ ") > 1:
        return original
    text = text.split("\\text{ ")[0].replace("\\%", "").replace("%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    slash = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    return f"\\frac{{{int(slash[1])}}}{{{int(slash[2])}}}" if slash else text


_SUBSTITUTIONS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)


def _score_choice(text: str, gold: str, choices: Sequence[str]) -> PaperScore:
    """Take the candidate that is nearest to the answer by Levenshtein distance, the first of equals."""
    answer = text.split(_PHRASE)[-1].strip().strip(".")[:MAX_CHOICE_CHARS]
    distances = [levenshtein(answer, choice) for choice in choices]
    nearest = choices[distances.index(min(distances))]
    if gold not in choices and len(gold) == 1 and "A" <= gold < chr(ord("A") + len(choices)):
        gold = choices[ord(gold) - ord("A")]
    return PaperScore(nearest, nearest == gold, "csqa")


MAX_CHOICE_CHARS = 5000
"""A longer text is as far from every candidate as its length says; the rest cannot change the order much."""


def levenshtein(left: str, right: str) -> int:
    """Return the number of insertions, deletions and replacements between two strings."""
    row = list(range(len(right) + 1))
    for above, one in enumerate(left, 1):
        diagonal, row[0] = row[0], above
        for column, other in enumerate(right, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (one != other)),
            )
    return row[-1]
