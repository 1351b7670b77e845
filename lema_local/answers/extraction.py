"""Find the final answer in a reasoning path.

A final answer is one that the path claims: `The answer is X`, `#### X`, `\\boxed{X}`, `Answer: X`, `X is the
answer`. The last claim counts, because a path may correct itself; a number that merely stands last is no claim.
Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lema_local.answers.choices import find_choices, read_letter
from lema_local.answers.numbers import parse_number
from lema_local.answers.surface import MAX_ANSWER_CHARS, clean_answer, find_closing

# A few-shot prompt teaches a model to go on with the next question; nothing behind that belongs to this one.
_NEXT_QUESTION = re.compile(
    r"\n[ \t]{0,8}(?:[#*_>]{1,4}[ \t]{0,3})?"
    r"(?:Q|Question|Problem|Exercise|Instruction|Human|User)[ \t]{0,3}\d{0,4}[ \t]{0,3}(?:\*\*[ \t]{0,3})?:"
    r"|\n[ \t]{0,8}#{2,4}[ \t]{0,3}(?:Instruction|Question|Problem|Input)\b"
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


# Runs of blanks are bounded: two unbounded ones side by side take quadratic time on a megabyte of spaces.
_CLAIM = re.compile(
    r"""
      (?P<hash>(?<!\#)\#\#\#\#(?!\#))
    | \\f?box(?:ed)?\s{0,3}(?P<box>\{)
    | \\boxed\s{1,3}(?P<bare>[\w./-]{1,40})
    | \banswers?(?:\s{1,3}(?:to|for|of)\s{1,3}(?:this|the|our|your)\s[^\n.:]{1,80}?)?
        \s{0,3}(?:\*\*|__)?\s{0,3}
        (?:(?:(?:would|must|should|will|has\s+to|can\s+only)\s{1,3}be|is|are|was|equals|=)(?![a-zA-Z])|:)
    | \b(?:option|choice)\s{1,3}is(?=[\s:*(]{1,4}[A-J]\b)
    | (?P<tag><answer>)
    | (?P<behind>\bis\s{1,3}the\s{1,3}(?:final\s|correct\s|right\s)?answer\b(?!\s{1,3}to\b))
    """,
    re.VERBOSE | re.IGNORECASE,
)
WINDOW = 2 * MAX_ANSWER_CHARS
MAX_CLAIMS = 100
"""Claims looked at, from the last one back."""
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
    """Return the last claim of a final answer in a path; None where there is none.

    Words behind `answer is` do not displace a number or expression that was claimed before (`The answer will be
    different for others.`).
    """
    if choices is None and (quick := _find_standard_claim(text)) is not None:
        return quick
    matches = deque(_CLAIM.finditer(text), maxlen=MAX_CLAIMS)
    words: Claim | None = None
    while matches:
        match = matches.pop()
        claim = _read_boxes(text, match, matches) if match["box"] else _read_claim(text, match)
        if claim is None:
            continue
        if match["box"] or not claim.answer or _is_maths(claim.answer):
            return _name_choice(claim, text, choices)
        if choices is not None and _names_choice(claim.answer, choices):
            return _name_choice(claim, text, choices)
        words = words or claim
    return _name_choice(words, text, choices)


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
    if match["bare"]:
        return Claim(clean_answer(match["bare"]), match.end() < len(text))
    if match["behind"]:
        return _read_sentence_before(text, match.start())
    if match["hash"]:
        return _read_line(text, match.end())
    if match["tag"]:
        closing = text.find("</answer>", match.end(), match.end() + WINDOW)
        return _accept(text[match.end() : closing], is_finished=True) if closing >= 0 else None
    return _read_sentence(text, match.end())


_BETWEEN_BOXES = re.compile(
    r"[\s$,\\()\[\]]{0,12}(?:\b(?:and|or)\b)?[\s$\\()\[\]]{0,12}(?:[a-zA-Z]\s{0,3}=\s{0,3})?"
)


def _read_boxes(text: str, match: re.Match[str], earlier: deque[re.Match[str]]) -> Claim | None:
    """Return what a box holds, together with the boxes right before it (`$\\boxed{2}$ and $\\boxed{3}$`)."""
    claim = _read_box(text, match.start("box"))
    while claim and earlier and earlier[-1]["box"]:
        opening = earlier[-1].start("box")
        closing = find_closing(text, opening, limit=WINDOW)
        if closing < 0 or not _BETWEEN_BOXES.fullmatch(text, closing + 1, match.start()):
            break
        match = earlier.pop()
        before = _clean(text[opening + 1 : closing])
        claim = claim if before == claim.answer else Claim(f"{before}, {claim.answer}", claim.is_finished)
    return claim


def _read_box(text: str, opening: int) -> Claim | None:
    closing = find_closing(text, opening)
    if closing < 0:
        line = text[opening + 1 : opening + 1 + MAX_ANSWER_CHARS].split("\n", 1)[0]
        return Claim(_clean(line), is_finished=False)
    answer = _clean(text[opening + 1 : closing])
    return Claim(answer, is_finished=True) if answer else None


def _clean(raw: str) -> str:
    """Return a claim cleaned; one that is too long to be an answer stays as it is."""
    return clean_answer(raw) if len(raw) <= WINDOW else raw.strip()


def _read_line(text: str, start: int) -> Claim | None:
    newline = text.find("\n", start)
    return _accept(text[start : newline if newline >= 0 else len(text)], is_finished=newline >= 0)


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
        end = text.find(_DISPLAY[display[0]], display.end(), begin + WINDOW)
        if end > 0:
            rest = _SENTENCE_END.search(text, end, end + WINDOW)
            # `$5$ dollars`, `$3$ and $4$`: the sentence says it whole.
            if (
                display[0] in ("$$", "\\[")
                or rest is None
                or not text[end + len(display[0]) : rest.start()].strip(" .*")
            ):
                return _accept(text[display.end() : end], is_finished=True)
    stop = _SENTENCE_END.search(text, begin, begin + WINDOW)
    end = stop.start() if stop else len(text)
    return _accept(text[begin:end], is_finished=stop is not None)


_CONCLUDING = re.compile(r"^(?:(?:so|thus|hence|therefore|then|and|that)\b[\s,]*)+", re.IGNORECASE)


def _read_sentence_before(text: str, end: int) -> Claim | None:
    """Return the claim that stands before `is the answer`: the sentence from its start."""
    sentence = re.split(r"\n|\.\s|,\s+so\s", text[max(0, end - MAX_ANSWER_CHARS) : end])[-1]
    return _accept(_CONCLUDING.sub("", sentence.strip()), is_finished=True)


_NO_ANSWER = re.compile(
    r"(?:let|let's|we|i|to|first|as|not|that|wrong|correct|incorrect|right|in|given|found|obtained|shown|below|"
    r"above|unclear|unknown|based|calculated|determined|explained|considered|step|part|case|also|still|therefore|it|this|what|how)\b",
    re.IGNORECASE,
)
_MATHS = re.compile(r"[\d\\^=+]")
_MEANS_SOMETHING = re.compile(r"\w")
_LONG_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
MAX_WORDS = 6
"""Words of three letters or more in an answer; with more of them it is a sentence about something else."""


def _is_maths(answer: str) -> bool:
    """Whether an answer is a number, an expression or a letter rather than words."""
    return len(answer) <= 2 or _MATHS.search(answer) is not None or parse_number(answer) is not None


def _accept(raw: str, *, is_finished: bool) -> Claim | None:
    """Return the claim, or None where the words are no answer."""
    answer = _clean(raw)
    if len(answer) <= WINDOW:
        answer = _trim_prose(_close_brackets(answer))
    if not answer:
        return None if is_finished else Claim("", is_finished=False)
    if not _MEANS_SOMETHING.search(answer) or _NO_ANSWER.match(answer):
        return None
    if len(_LONG_WORD.findall(answer[:WINDOW])) > MAX_WORDS:
        return None
    return Claim(answer, is_finished)


def _close_brackets(answer: str) -> str:
    """Return `5` for the `5)` of `(so the answer is 5)`."""
    while answer[-1:] in (")", "]") and sum(map(answer.count, ")]}")) > sum(map(answer.count, "([{")):
        answer = answer[:-1].rstrip(" .")
    return answer


def is_path(text: str) -> bool:
    """Whether a text is a reasoning path rather than a final answer alone: it claims one, or it is prose."""
    return (
        "\n" in text.strip()
        or find_claim(text) is not None
        or len(_LONG_WORD.findall(text[:WINDOW])) > MAX_WORDS
    )


_CLAUSE = re.compile(
    r"\s*(?:[;(]|,?\s+(?:because|since|as|which|where|when|so|therefore|thus|i\.e\.|but|after|if)\b|,(?=\s+[a-zA-Z])|\s-\s(?=[a-zA-Z]))"
)
_ARITHMETIC = re.compile(r"(?=.*\d)[\d\s.,+\-*/x\u00d7()$%]*[+\-*/x][\d\s.,+\-*/x()$%a-zA-Z]*", re.DOTALL)
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


def _names_choice(answer: str, choices: Sequence[str]) -> bool:
    return len(answer) <= MAX_ANSWER_CHARS and bool(find_choices(answer, choices))


def _name_choice(claim: Claim | None, text: str, choices: Sequence[str] | None) -> Claim | None:
    """Return the claim with its letter alone where it names a choice by letter.

    Without a claim, a last line that is nothing but a choice is one.
    """
    if choices is None:
        return claim
    if claim is None or not claim.answer:
        last_line = text[-WINDOW:].strip().rpartition("\n")[2]
        if read_letter(clean_answer(last_line)) is None or not _names_choice(last_line, choices):
            return claim
        claim = Claim(clean_answer(last_line), is_finished=True)
    if not _names_choice(claim.answer, choices):
        return claim
    letter = read_letter(claim.answer)
    return Claim(letter[0], claim.is_finished) if letter else claim


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
