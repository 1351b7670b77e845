"""Find the final answer in a reasoning path.

A final answer is one that the path claims: `The answer is X`, `#### X`, `\\boxed{X}`, `Answer: X`, `X is the
answer`. The last claim counts, because a path may correct itself; a number that merely stands last is no claim.
Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lema_local.answers.choices import find_choices, read_letter
from lema_local.answers.numbers import parse_number
from lema_local.answers.surface import MAX_ANSWER_CHARS, clean_answer, find_closing

# A few-shot prompt teaches a model to go on with the next question; nothing behind that belongs to this one.
_NEXT_QUESTION = re.compile(
    r"\n[ \t]*(?:[#*_>]{1,4}[ \t]*)?"
    r"(?:Q|Question|Problem|Exercise|Instruction|Human|User)[ \t]*\d*[ \t]*(?:\*\*[ \t]*)?:"
    r"|\n[ \t]*#{2,4}[ \t]*(?:Instruction|Question|Problem|Input)\b"
    r"|<\|(?:im_start|start_header_id|eot_id|im_end|endoftext|end_of_text)\|>|</s>"
    r"|\nPlease solve the following math problem\.",
    re.IGNORECASE,
)


def cut_at_next_question(text: str) -> str:
    """Return a path up to the question that the model made up behind its answer.

    A path that begins by repeating the question is not cut there.
    """
    if "\n" not in text and "<" not in text:
        return text
    start = len(text) - len(text.lstrip())
    match = _NEXT_QUESTION.search(text, start)
    return text if match is None else text[: match.start()]


@dataclass(frozen=True, slots=True)
class Claim:
    """A final answer as a path states it."""

    answer: str
    """The cleaned answer; empty where the path breaks off before it."""
    is_finished: bool
    """Something follows the answer, so that a cut at `max_tokens` cannot have shortened it."""


_CLAIM = re.compile(
    r"""
      (?P<hash>\#\#\#\#)
    | \\f?box(?:ed)?\s*(?P<box>\{)
    | \\boxed\s+(?P<bare>[\w./-]+)
    | \banswers?(?:\s+(?:to|for|of)\s+(?:this|the|our|your)\s[^\n.:]{1,80}?)?
        \s*(?:\*\*|__)?\s*
        (?P<is>(?:(?:would|must|should|will|has\s+to|can\s+only)\s+be|is|are|was|equals|=)(?![a-zA-Z])|:)
    | \b(?:option|choice)\s+is(?=[\s:*(]+[A-J]\b)(?P<option>)
    | (?P<behind>\bis\s+the\s+(?:final\s+|correct\s+|right\s+)?answer\b(?!\s+to\b))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_STANDARD = "he answer is "
_STANDARD_TAIL = re.compile(r"[ $]*(-?\$?\d{1,3}(?:,\d{3})+|-?\$?\d+(?:\.\d+)?)(\.?\s*)")


def extract_answer(text: str, *, choices: Sequence[str] | None = None) -> str | None:
    """Return the final answer that a reasoning path claims, cleaned; None where it claims none.

    Args:
        text: The path, already cut at a next question.
        choices: The choices of a multiple-choice question; an answer that names one by letter is the letter.
    """
    claim = find_claim(text, choices=choices)
    return claim.answer if claim and claim.answer else None


def find_claim(text: str, *, choices: Sequence[str] | None = None) -> Claim | None:
    """Return the last claim of a final answer in a path; None where there is none."""
    if choices is None and (quick := _find_standard_claim(text)) is not None:
        return quick
    found = None
    for match in _CLAIM.finditer(text):
        claim = _read_claim(text, match)
        if claim is not None:
            found = claim
    if choices is not None:
        return _name_choice(found, text, choices)
    return found


def _find_standard_claim(text: str) -> Claim | None:
    """Return a plain number behind `The answer is` in the last line: most paths, and a tenth of the time."""
    start = text.rfind(_STANDARD)
    if start < 0:
        return None
    match = _STANDARD_TAIL.fullmatch(text, start + len(_STANDARD))
    if match is None:
        return None
    return Claim(match[1].replace("$", ""), is_finished=bool(match[2]))


def _read_claim(text: str, match: re.Match[str]) -> Claim | None:
    if match["box"]:
        return _read_box(text, match.start("box"))
    if match["bare"]:
        return Claim(clean_answer(match["bare"]), match.end() < len(text))
    if match["behind"]:
        return _read_sentence_before(text, match.start())
    if match["hash"]:
        return _read_line(text, match.end())
    return _read_sentence(text, match.end())


def _read_box(text: str, opening: int) -> Claim:
    closing = find_closing(text, opening)
    if closing < 0:
        line = text[opening + 1 : opening + 1 + MAX_ANSWER_CHARS].split("\n", 1)[0]
        return Claim(clean_answer(line), is_finished=False)
    return Claim(clean_answer(text[opening + 1 : closing]), is_finished=True)


def _read_line(text: str, start: int) -> Claim:
    line, newline, _ = text[start:].lstrip(" \t").partition("\n")
    return Claim(_trim_prose(clean_answer(line)), bool(newline))


_DISPLAY = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_MATHS_OPENS = re.compile(r"\$\$|\\\[|\\\(|\$(?![\d.,]+(?:[^$\w\\^]|$))")
# A full stop ends a sentence before a space or the end; `3.5`, `p.m.` and `St. Louis` do not.
_SENTENCE_END = re.compile(
    r"(?<![ap]\.m)(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bvs)[.!?](?=[\s*\")$]|$)|\n"
)
_LEAD = re.compile(
    r"[\s:*_]*(?:(?:simply|just|therefore|thus|then|clearly|equal\s+to|given\s+by|option|choice)\b[\s:*_]*)*"
)


def _read_sentence(text: str, start: int) -> Claim | None:
    """Return the claim behind `answer is`; None where what stands there is no answer (`not 5`, `as follows`)."""
    lead = _LEAD.match(text, start)
    begin = lead.end() if lead else start
    if begin >= len(text):
        return Claim("", is_finished=False)
    display = _MATHS_OPENS.match(text, begin)
    if display:
        end = text.find(_DISPLAY[display[0]], display.end())
        if end > 0:
            rest = _SENTENCE_END.search(text, end)
            # `$5$ dollars`, `$3$ and $4$`: the sentence says it whole.
            if (
                display[0] in ("$$", "\\[")
                or rest is None
                or not text[end + len(display[0]) : rest.start()].strip(" .*")
            ):
                return _accept(text[display.end() : end], is_finished=True)
    stop = _SENTENCE_END.search(text, begin, begin + 4 * MAX_ANSWER_CHARS)
    end = stop.start() if stop else len(text)
    return _accept(text[begin:end], is_finished=stop is not None)


_CONCLUDING = re.compile(r"^(?:(?:so|thus|hence|therefore|then|and|that)\b[\s,]*)+", re.IGNORECASE)


def _read_sentence_before(text: str, end: int) -> Claim | None:
    """Return the claim before `is the answer`: the last number or the whole start of the sentence."""
    begin = max(text.rfind("\n", 0, end), text.rfind(". ", 0, end) + 1, text.rfind(", so ", 0, end) + 4, 0)
    return _accept(
        _CONCLUDING.sub("", text[max(begin, end - MAX_ANSWER_CHARS) : end].strip()), is_finished=True
    )


_NO_ANSWER = re.compile(
    r"(?:let|let's|we|i|to|first|as|not|that|wrong|correct|incorrect|right|in|given|found|obtained|shown|below|"
    r"above|unclear|unknown|based|calculated|determined|explained|step|also|still|therefore|it|this|what|how)\b",
    re.IGNORECASE,
)
_MATHS = re.compile(r"[\d\\^=+]")
MAX_WORDS = 8


def _accept(raw: str, *, is_finished: bool) -> Claim | None:
    """Return the claim, or None where the words are no answer."""
    answer = (
        _trim_prose(clean_answer(raw[: 2 * MAX_ANSWER_CHARS])) if len(raw) < 2 * MAX_ANSWER_CHARS else raw
    )
    if not answer:
        return None if is_finished else Claim("", is_finished=False)
    if _NO_ANSWER.match(answer) or (not _MATHS.search(answer) and len(answer.split()) > MAX_WORDS):
        return None
    return Claim(answer, is_finished)


_CLAUSE = re.compile(
    r"\s*(?:[;(]|,?\s+(?:because|since|as|which|where|when|so|therefore|thus|i\.e\.|but|after|if)\b|,(?=\s+[a-zA-Z])|\s-\s(?=[a-zA-Z]))"
)
_ARITHMETIC = re.compile(r"[\d\s.,+\-*/x\u00d7()$%]*[+\-*/x][\d\s.,+\-*/x()$%a-zA-Z]*")
_REASON = re.compile(r",?\s+(?:because|since|which\s+is|so)\b", re.IGNORECASE)


def _trim_prose(answer: str) -> str:
    """Return an answer without the words that go on behind it: `72 clips, since 48+24=72` becomes `72 clips`."""
    if parse_number(answer) is not None or "\\" in answer:
        return answer
    left, equals, right = answer.rpartition("=")
    if equals and _ARITHMETIC.fullmatch(left.strip()) and parse_number(right.strip()) is not None:
        return right.strip()
    clause = _CLAUSE.search(answer)
    if (
        clause
        and parse_number(answer[: clause.start()].strip()) is not None
        and not _goes_on(answer[clause.start() :])
    ):
        return answer[: clause.start()].strip()
    return _REASON.split(answer, maxsplit=1)[0].strip()


_LIST_GOES_ON = re.compile(r"\s*,?\s*(?:and|or)\b\s*[-\d$]")


def _goes_on(rest: str) -> bool:
    return _LIST_GOES_ON.match(rest) is not None


def _name_choice(claim: Claim | None, text: str, choices: Sequence[str]) -> Claim | None:
    """Return the claim with its letter alone where it names a choice by letter."""
    if claim is None or not claim.answer:
        last_line = text.strip().rpartition("\n")[2]
        if read_letter(clean_answer(last_line)) is None or not find_choices(last_line, choices):
            return claim
        claim = Claim(clean_answer(last_line), is_finished=True)
    letter = read_letter(claim.answer)
    if letter and find_choices(claim.answer, choices):
        return Claim(letter[0], claim.is_finished)
    return claim


def find_boxed(text: str) -> str | None:
    """Return what the last `\\boxed{}` of a text holds, as it stands; None where there is none."""
    opening = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if opening < 0:
        return None
    start = text.find("{", opening)
    if start < 0 or text[opening:start].strip() not in ("\\boxed", "\\fbox"):
        bare = re.match(r"\\f?box(?:ed)?\s+([^\s$]+)", text[opening:])
        return bare[1] if bare else None
    closing = find_closing(text, start)
    return text[start + 1 : closing].strip() if closing >= 0 else None
