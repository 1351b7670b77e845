"""Read a teacher's reply as a correction, and judge it.

A reply is `Incorrect Step`, `Explanation`, `Correct Solution`; models write these in many ways (Markdown, JSON, code
fences, without braces, renumbered, with the first steps told again, in other languages). The parser takes what can
be taken without guessing at content. The judge keeps a correction by the paper's rule alone, its final answer equals
the gold answer (arXiv 2310.20689, section 2.1), unless further checks are asked to reject.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_local.answers import compare_answers, cut_at_next_question, extract_answer
from lema_local.arithmetic import find_claims
from lema_local.records import Correction, Prediction, Question, ReasoningPath
from lema_local.steps import number_steps, split_steps, state_answer

CheckName = Literal[
    "final_answer",
    "step_exists",
    "first_steps_unchanged",
    "starts_at_step",
    "arithmetic_holds",
    "differs_from_mistake",
    "is_no_gold_copy",
]
CHECKS: Mapping[CheckName, str] = {
    "final_answer": "its final answer is not the gold answer",
    "step_exists": "the step it names does not exist",
    "first_steps_unchanged": "it changes the steps before the one it names",
    "starts_at_step": "it does not go on from the step it names",
    "arithmetic_holds": "its arithmetic does not hold",
    "differs_from_mistake": "it repeats the mistake",
    "is_no_gold_copy": "it copies the gold rationale",
}
"""Every check that is recorded, with the words for a correction that fails it."""

MAX_REPLY = 200_000
"""Characters; a longer reply is no correction."""
_SIMILAR = 0.75
"""From this ratio on two steps are the same step in other words."""


def list_steps(path: ReasoningPath | Prediction) -> list[str]:
    """Return a path's steps; the last one states its final answer, where it has one."""
    steps = split_steps(cut_at_next_question(path.text))
    if path.final_answer is None:
        return steps
    if steps and extract_answer(steps[-1]) == path.final_answer:
        return steps
    return [*steps, state_answer(path.final_answer)]


class UnparseableReply(ValueError):
    """A reply that is no correction; `reason` says why, for the record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NothingWrong(UnparseableReply):
    """A reply that says that no step is incorrect."""


@dataclass(frozen=True, slots=True)
class ParsedCorrection:
    """A teacher's reply as data."""

    incorrect_step: int
    """1-based; whether the original has that many steps is for the judge."""
    explanation: str
    corrected_steps: list[str]
    """From the incorrect step on, without `Step k:`; the last one states the final answer where the reply did."""
    first_label: int | None = None
    """The number that the reply gave the first corrected step; None where it gave none or counted from 1 again."""
    restated_steps: list[str] = field(default_factory=list)
    """The steps before the incorrect one as the reply told them again, if it did."""

    @property
    def corrected_solution(self) -> str:
        """Lines `Step k: ...` from the incorrect step on, as a `Correction` record holds them."""
        return number_steps(self.corrected_steps, self.incorrect_step)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the checks say of a correction."""

    final_answer: str | None
    verdict: Literal["accepted", "rejected"]
    reason: str | None
    checks: dict[str, bool]


def judge_correction(
    parsed: ParsedCorrection,
    question: Question,
    original_steps: Sequence[str],
    rejecting_checks: Collection[CheckName] = (),
    seen_in_reply: Mapping[str, bool] | None = None,
) -> Judgement:
    """Return the verdict on a correction and every check's outcome.

    Args:
        parsed: The correction.
        question: With the gold answer.
        original_steps: The mistake's steps.
        rejecting_checks: Checks that reject besides `final_answer`, which always does.
        seen_in_reply: Outcomes that only the reply itself shows, for a correction read back from its record.

    Raises:
        LemaError: If the gold answer cannot be parsed.
    """
    final_answer = extract_answer(parsed.corrected_solution, choices=question.choices)
    is_right = final_answer is not None and bool(
        compare_answers(question.gold_answer, final_answer, choices=question.choices).is_equal
    )
    checks: dict[str, bool] = {
        "final_answer": is_right,
        **_check_form(parsed, question, original_steps),
        **(seen_in_reply or {}),
    }
    failed = [name for name in CHECKS if not checks[name] and name in {"final_answer", *rejecting_checks}]
    reason = _word_reason(failed, final_answer, question) if failed else None
    return Judgement(final_answer, "rejected" if failed else "accepted", reason, checks)


def _check_form(
    parsed: ParsedCorrection, question: Question, original_steps: Sequence[str]
) -> dict[str, bool]:
    position = parsed.incorrect_step
    before = original_steps[: position - 1]
    gold = {_bare(line) for line in split_steps(question.gold_rationale or "")}
    corrected = [_bare(step) for step in parsed.corrected_steps]
    return {
        "step_exists": position <= len(original_steps),
        "first_steps_unchanged": not parsed.restated_steps or _same(parsed.restated_steps, before),
        "starts_at_step": parsed.first_label in (None, position),
        "arithmetic_holds": all(
            claim.is_true for step in parsed.corrected_steps for claim in find_claims(step)
        ),
        "differs_from_mistake": not _same(parsed.corrected_steps, original_steps[position - 1 :]),
        "is_no_gold_copy": not gold or not gold <= set(corrected),
    }


def _word_reason(failed: Sequence[CheckName], final_answer: str | None, question: Question) -> str:
    if failed[0] != "final_answer":
        return "; ".join(CHECKS[name] for name in failed)
    if final_answer is None:
        return "it states no final answer"
    return f"its final answer {final_answer[:80]} is not the gold answer {question.gold_answer[:80]}"


def choose_nested(corrections: Iterable[Correction], count: int | None) -> list[Correction]:
    """Return `count` of the corrections in their order (None: all), those of least hash: the choices are nested.

    The hash is of what names a correction, not of its words or place: it is the same in every run and order.
    """
    given = list(corrections)
    if count is None or count >= len(given):
        return given
    chosen = set(sorted(range(len(given)), key=lambda place: _rank(given[place]))[:count])
    return [one for place, one in enumerate(given) if place in chosen]


def _rank(one: Correction) -> str:
    named = (one.question_id, one.student, one.sample_index, one.teacher, one.attempt)
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


# --- parsing ------------------------------------------------------------------------------------------------

_STEP = r"(?:Steps?|Schritte?|[ÉE]tapes?|Pasos?|Passos?|Passaggi?o?|Stap|Krok|Шаг|步骤|ステップ|단계)"
# "Step 3", "3.", "第3步", "3단계" at the beginning of a line, with a colon or a full stop.
_STEP_LABEL = re.compile(
    rf"^[ \t]*(?:[-*•][ \t]+)?\[?(?:{_STEP}[ \t]*(?P<a>\d+)|第[ \t]*(?P<b>\d+)[ \t]*步|(?P<c>\d+)[ \t]*단계"
    r"|(?P<d>\d+)(?=[.)][ \t]))[ \t]*[\].:)：—–-]+[ \t]*",  # noqa: RUF001
    re.IGNORECASE | re.MULTILINE,
)
_STEP_NUMBER = re.compile(rf"(?:{_STEP}|第|#)?[ \t]*\(?(\d+)", re.IGNORECASE)
_HEADINGS: Mapping[str, str] = {
    "incorrect_step": r"(?:(?:the )?(?:first )?(?:incorrect|wrong|erroneous) step|falscher schritt|étape incorrecte"
    r"|paso incorrecto|passo incorreto|passaggio (?:errato|sbagliato)|неверный шаг"
    r"|错误的?步骤|誤ったステップ|잘못된 단계)",
    "explanation": r"(?:explanation(?: of [^:\n]{0,40}| why [^:\n]{0,40})?|reason|why|erklärung|explication|explicación"
    r"|explicação|spiegazione|объяснение|解释|説明|설명)",
    "solution": r"(?:(?:the )?(?:correct(?:ed)?|right|revised|fixed) (?:solution|steps?|answer|version)|correction"
    r"|korrekte lösung|solution correcte|solución correcta|solução corr?eta|soluzione corretta|правильное решение"
    r"|正确的?(?:解答|解法|解)|正しい(?:解答|解法)|올바른 풀이)",
}
_HEADING = re.compile(
    r"^[ \t]*(?:\d+[.)][ \t]+|[-*•][ \t]+)?(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _HEADINGS.items())
    + r")(?:[ \t]*\([^()\n]{0,60}\))?[ \t]*(?:[:：]|$)",  # noqa: RUF001
    re.IGNORECASE | re.MULTILINE,
)
_WORDS = ("one|first", "two|second", "three|third", "four|fourth", "five|fifth", "six|sixth", "seven|seventh",
          "eight|eighth", "nine|ninth", "ten|tenth")  # fmt: skip
_STEP_IN_WORDS = tuple(
    re.compile(rf"(?:the )?(?:(?:{words}) step|step (?:{words}))\b", re.IGNORECASE) for words in _WORDS
)
_NEXT_QUESTION = re.compile(r"^[ \t]*(?:Question|Original Solution)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_INLINE = re.compile(
    r"(?<=\S)[ \t]+(?=(?:Explanation|Correct(?:ed)? Solution|Step[ \t]+\d+)[ \t]*:)", re.IGNORECASE
)
_TRAILING_COMMA = re.compile(r",(?=\s*[\]}])")
# A backslash that begins a LaTeX command; JSON would read \frac as a form feed and "rac".
_LATEX_IN_JSON = re.compile(
    r"(?<!\\)\\(?=[^\"\\/bfnrtu]|(?:frac|forall|floor|text|tfrac|times|tan|theta|tau|to\b|triangle|right|rho|rangle"
    r"|boxed|begin|beta|binom|bar|big|ne\b|neq|nabla|neg|notin|underline|union|uparrow))"
)
_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*$", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
_ELLIPSIS = re.compile(
    r"^[ \t]*[\[(]?(?:\.{3,}|…|(?:steps?|rest) .{0,30}(?:unchanged|same|as before).{0,20})[\])]?[ \t]*$",
    re.IGNORECASE,
)
_NOTHING_WRONG = re.compile(
    r"^\W*(?:none|no\b.{0,20}\bstep|there (?:is|are) no|n/?a\b|all (?:the )?steps are correct)", re.IGNORECASE
)
_STATES_ANSWER = re.compile(
    r"\b(?:(?:so|thus|therefore|hence),? )?(?:the|our) (?:final |correct )?answer is\b:?", re.IGNORECASE
)
_OTHER_ANSWER = re.compile(
    r"^(?:#{2,4}|(?:final |correct )?answer\s*[:=])\s*(?P<answer>\S.*?)\.?$", re.IGNORECASE
)


def parse_reply(text: str, original_steps: Sequence[str]) -> ParsedCorrection:
    """Return the correction that a reply holds.

    Args:
        text: The reply as it came; a reply to a prompt that ends with the cue may begin with ` Step 3.`
        original_steps: The mistake's steps, to tell first steps told again from renumbered ones.

    Raises:
        UnparseableReply: With the reason; a reply is data, and a bad one no error of the program.
    """
    if len(text) > MAX_REPLY:
        raise UnparseableReply(f"the reply has {len(text)} characters")
    text = _THINKING.sub("", text).strip()
    if not text:
        raise UnparseableReply("the reply is empty")
    sections = _read_json(text) or _read_sections(_cut_next_question(text))
    if not (sections["explanation"] and sections["solution"]) and _INLINE.search(text):
        sections = _read_sections(_cut_next_question(_INLINE.sub("\n", text)))  # all in one line
    position = _read_position(sections["incorrect_step"])
    explanation = " ".join(sections["explanation"].split()).strip(" {}")
    if not explanation:
        raise UnparseableReply("the reply gives no explanation")
    labels, steps = _read_steps(sections["solution"])
    return _align(position, explanation, labels, steps, original_steps)


def read_location(text: str) -> int:
    """Return the incorrect step, 1-based, that a reply names which was to name nothing else.

    Raises:
        UnparseableReply: If it names none.
    """
    text = _EMPHASIS.sub("", _FENCE.sub("", _THINKING.sub("", text))).strip()
    if not text:
        raise UnparseableReply("the reply is empty")
    headed = next((m for m in _HEADING.finditer(text) if m.lastgroup == "incorrect_step"), None)
    return _read_position(text[headed.end() :].strip() if headed else text)


def read_named_step(text: str) -> int | None:
    """Return the step that a reply names as incorrect, 1-based, whatever else it holds; None where it names none.

    Raises:
        UnparseableReply: If it says nothing of steps.
    """
    text = _THINKING.sub("", text).strip()
    if (found := _read_json(text)) is not None:
        named = found["incorrect_step"]
    else:
        text = _EMPHASIS.sub("", _FENCE.sub("", text))
        headed = next((m for m in _HEADING.finditer(text) if m.lastgroup == "incorrect_step"), None)
        # Without the heading only what goes on behind the cue counts: "Step 3." or "None."
        begins = re.match(rf"{_STEP}\s*\d|\d+\s*[.:]", text, re.IGNORECASE) or _NOTHING_WRONG.match(text)
        if headed is None and not begins:
            raise UnparseableReply("the reply names no incorrect step")
        named = text[headed.end() :].strip() if headed else text
    try:
        return _read_position(named)
    except NothingWrong:
        return None


def _read_json(text: str) -> dict[str, str] | None:
    start = text.find("{")
    if start < 0 or '"' not in text:
        return None
    content = _LATEX_IN_JSON.sub(r"\\\\", text[start:])
    for attempt in (content, _TRAILING_COMMA.sub("", content)):
        try:
            found, _ = json.JSONDecoder(strict=False).raw_decode(attempt)
        except (ValueError, RecursionError):
            continue
        for one in (found, *(found.values() if isinstance(found, dict) else ())):
            values = (
                {_read_key(str(key)): _flatten(value) for key, value in one.items()}
                if isinstance(one, dict)
                else {}
            )
            if "incorrect_step" in values:
                return {name: values.get(name, "") for name in _HEADINGS}
    return None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _cut_next_question(text: str) -> str:
    """Return the reply without what comes where it goes on to a question of its own, behind the solution."""
    solution = next(
        (m for m in _HEADING.finditer(_EMPHASIS.sub("", text)) if m.lastgroup == "solution"), None
    )
    if solution is None:
        return text
    text = _EMPHASIS.sub("", text)
    following = _NEXT_QUESTION.search(text, solution.end())
    return text[: following.start()] if following else text


def _read_key(key: str) -> str:
    words = key.replace("_", " ").replace("-", " ").strip().lower()
    return next((name for name, pattern in _HEADINGS.items() if re.fullmatch(pattern, words)), words)


def _flatten(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(
            f"Step {key}: {item}" if str(key).isdigit() else f"{key}: {item}" for key, item in value.items()
        )
    if isinstance(value, list):
        return "\n".join(_flatten_step(item) if isinstance(item, dict) else str(item) for item in value)
    return str(value)


def _flatten_step(item: dict[Any, Any]) -> str:
    """Return `Step k: ...` of an object such as {"step": 2, "text": "..."}."""
    number = next((value for value in item.values() if isinstance(value, int)), None)
    texts = [value for value in item.values() if isinstance(value, str)]
    text = " ".join(texts) if texts else _flatten(item)
    return f"Step {number}: {text}" if number is not None else text


def _read_sections(text: str) -> dict[str, str]:
    """Cut a reply at its headings; a heading that is written twice counts where it stands last but for the step."""
    text = _EMPHASIS.sub("", _FENCE.sub("", text))
    found: dict[str, str] = {}
    headings = list(_HEADING.finditer(text))
    for heading, end in zip(headings, _ends(headings, text), strict=True):
        name = heading.lastgroup or ""
        if body := text[heading.end() : end].strip():
            found[name] = found.get(name, body) if name == "incorrect_step" else body
    # After the cue `Incorrect Step:` a model goes on with ` Step 3.` and no heading.
    opening = text[: headings[0].start()] if headings else text
    found.setdefault("incorrect_step", opening.strip())
    if not found.get("solution"):
        _cut_solution(found)
    return {name: found.get(name, "") for name in _HEADINGS}


def _ends(matches: Sequence[re.Match[str]], text: str) -> list[int]:
    """Return where the text behind each match ends: at the next one, or at the end."""
    return [match.start() for match in matches[1:]] + [len(text)] if matches else []


def _cut_solution(found: dict[str, str]) -> None:
    """A reply without the heading `Correct Solution`: its steps begin after the explanation's own text."""
    explanation = found.get("explanation", "")
    label = next((m for m in _STEP_LABEL.finditer(explanation) if m.start() > 0), None)
    if label is not None:
        found["explanation"], found["solution"] = (
            explanation[: label.start()].strip(),
            explanation[label.start() :],
        )


def _read_position(text: str) -> int:
    if _NOTHING_WRONG.search(text):
        raise NothingWrong("the teacher finds no incorrect step")
    for position, pattern in enumerate(_STEP_IN_WORDS, 1):
        if pattern.match(text):
            return position
    number = _STEP_NUMBER.search(text[:200])
    if number is None:
        raise UnparseableReply("the reply names no incorrect step")
    # int() refuses numbers of thousands of digits; a step has few.
    position = int(number.group(1)[:6])
    if position < 1:
        raise UnparseableReply("the reply names step 0 as the incorrect one")
    return position


def _read_steps(text: str) -> tuple[list[int | None], list[str]]:
    """Return the labels and the texts of the steps in a solution, ellipsis and braces removed."""
    body, after = _cut_braces(_EMPHASIS.sub("", text))
    body = "\n".join(line for line in body.splitlines() if not _ELLIPSIS.match(line)).strip()
    matches = list(_STEP_LABEL.finditer(body))
    labels: list[int | None]
    if matches:
        # Text before the first label is an introduction ("Here is ..."), not a step.
        steps = [body[m.end() : end] for m, end in zip(matches, _ends(matches, body), strict=True)]
        labels = [int((m["a"] or m["b"] or m["c"] or m["d"])[:6]) for m in matches]
    else:
        steps = split_steps(body)
        labels = [None] * len(steps)
    told = [(label, step) for label, step in zip(labels, steps, strict=True) if not _ELLIPSIS.match(step)]
    if not any(step.strip() for _, step in told):
        raise UnparseableReply("the reply gives no corrected solution")
    *first, last = [step for _, step in told]
    return [label for label, _ in told], [
        " ".join(step.split()) for step in [*first, *_state_last(last, after)]
    ]


def _cut_braces(text: str) -> tuple[str, str]:
    """Return what stands in the outer braces and what comes after; LaTeX braces within stay."""
    text = text.strip()
    if not text.startswith("{"):
        # A closing brace by itself ends the solution too.
        body, _, after = text.partition("\n}")
        return body, after
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:index], text[index + 1 :]
    return text[1:], ""


def _state_last(last: str, after: str) -> list[str]:
    """Return the last step cut into what it computes and the answer it states, in the words of the format.

    Where it states none, a line behind the solution may; text behind a stated answer is left out.
    """
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if statement := _read_statement(line):
            before = " ".join([*lines[:index], statement[0]]).strip()
            return [before, statement[1]] if before else [statement[1]]
    behind = (statement for line in after.splitlines() if (statement := _read_statement(line.strip())))
    stated = next(behind, None)
    return [last, stated[1]] if stated else [last]


def _read_statement(line: str) -> tuple[str, str] | None:
    """Return what stands before the stated answer in a line, and the statement."""
    if other := _OTHER_ANSWER.match(line):
        return "", state_answer(other["answer"])
    stated = list(_STATES_ANSWER.finditer(line))
    if not stated:
        return None
    before = line[: stated[-1].start()].strip()
    # "... = 27 dollars, so the answer is 27.": the first part becomes a sentence of its own.
    before = before.rstrip(",;:") + ("." if before.endswith((",", ";", ":")) else "")
    return before, "The answer is" + line[stated[-1].end() :]


def _align(
    position: int,
    explanation: str,
    labels: Sequence[int | None],
    steps: list[str],
    original_steps: Sequence[str],
) -> ParsedCorrection:
    """Leave out the first steps where the reply told them again, and see through steps counted from 1 again."""
    first = labels[0]
    if first is None or first < position:
        restated = position - (first or 1)
        told = steps[:restated]
        before = original_steps[(first or 1) - 1 : position - 1]
        if restated and len(steps) > restated and _are_retold(told, before):
            label = labels[restated] if restated < len(labels) else None
            return ParsedCorrection(position, explanation, steps[restated:], label, told)
        if first in (None, 1):
            return ParsedCorrection(position, explanation, steps)
    return ParsedCorrection(position, explanation, steps, first)


def _are_retold(told: Sequence[str], before: Sequence[str]) -> bool:
    if len(told) != len(before):
        return False
    ratios = [_similarity(a, b) for a, b in zip(told, before, strict=True)]
    return sum(ratio >= _SIMILAR for ratio in ratios) * 2 > len(ratios)


def _similarity(one: str, other: str) -> float:
    one, other = _bare(one)[:500], _bare(other)[:500]
    return 1.0 if one == other else difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    return [_bare(step) for step in one] == [_bare(step) for step in other]


def _bare(text: str) -> str:
    """Return a step's text with case, spaces and the closing full stop taken out of account."""
    return "".join(text.lower().split()).rstrip(".")
