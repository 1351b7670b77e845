"""Test questions in training texts: word for word, with other numbers, in 13 words, and fast."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from lema_local.contamination import NGRAM, Text, find_hits, split_words
from lema_local.datasets import load_questions
from lema_local.records import Question

ASKED = "Mia has 3 apples and buys 4 bags of 12 apples each at the market. How many apples does she have now?"
LONG = " ".join(f"word{'abcdefghijklmnopqrstuvwxyz'[n % 26] * (1 + n // 26)}" for n in range(40))


def make_test(text: str = ASKED) -> Question:
    return Question(id="t", dataset="d", split="test", question=text, gold_answer="51")


def kinds(text: str, *, test: str = ASKED, place: str = "question") -> list[str]:
    hits = find_hits([Text("q", place, text)], [make_test(test)])  # type: ignore[arg-type]
    assert all(hit.test_id == "t" and hit.question_id == "q" for hit in hits)
    return [hit.kind for hit in hits]


@pytest.mark.parametrize(
    "text",
    [
        ASKED,
        ASKED.upper(),
        ASKED.replace(" ", "  ").replace(".", " ;"),
        ASKED.replace("12", "\uff11\uff12"),
        f"\n{ASKED}\n",
    ],
)
def test_the_same_text_after_normalizing_is_exact(text: str) -> None:
    assert kinds(text)[0] == "exact"


def test_thousands_separators_make_no_difference() -> None:
    assert split_words("It costs 1,234.5 dollars") == split_words("it costs 1234.5 dollars.")


@pytest.mark.parametrize(
    "text", [ASKED.replace("12", "15"), ASKED.replace("3", "three"), ASKED.replace("4 bags", "1,250 bags")]
)
def test_the_same_text_with_other_numbers_is_told(text: str) -> None:
    assert kinds(text)[0] == "numbers"


def test_another_sign_is_another_question() -> None:
    asked = "What is the largest value that x may take where we know of it that x + 3 = 12 holds?"
    assert "exact" not in kinds(asked.replace("+", "-"), test=asked)


def test_short_questions_alike_but_for_numbers_are_nobodys() -> None:
    assert kinds("What is 3 + 4?", test="What is 7 + 9?") == []
    assert kinds("What is 3 + 4?", test="What is 3 + 4?") == ["exact"]


@pytest.mark.parametrize("place", ["question", "completion"])
def test_thirteen_words_in_a_row_are_found_anywhere(place: str) -> None:
    words = LONG.split()
    inside = f"Some words before. {' '.join(words[5 : 5 + NGRAM])}, and others behind."
    assert kinds(inside, test=LONG, place=place) == ["ngram"]


def test_twelve_words_are_not_enough() -> None:
    words = LONG.split()
    assert kinds(f"before {' '.join(words[5 : 4 + NGRAM])} behind", test=LONG) == []


def test_a_row_of_words_does_not_reach_from_one_text_into_the_next() -> None:
    words = LONG.split()
    texts = [Text("a", "completion", " ".join(words[:7])), Text("b", "completion", " ".join(words[7:20]))]
    hits = find_hits([texts[0], Text("c", "completion", " ".join(words[7:13]))], [make_test(LONG)])
    assert hits == []
    assert [hit.question_id for hit in find_hits(texts, [make_test(LONG)])] == ["b"]


def test_what_is_shared_is_shown() -> None:
    [hit, *_] = find_hits([Text("q", "question", ASKED.replace("12", "15"))], [make_test()])
    assert hit.shared.startswith("mia has # apples and buys # bags of # apples")


def test_no_test_questions_and_no_texts_find_nothing() -> None:
    assert find_hits([Text("q", "question", ASKED)], []) == []
    assert find_hits([], [make_test()]) == []
    assert find_hits([Text("q", "question", "")], [make_test()]) == []


def test_planted_hits_are_found_and_no_others() -> None:
    chance = random.Random(3)
    vocabulary = [
        f"w{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyzabcd'[n // 100]}" for n in range(900)
    ]
    test = [
        make_test(" ".join(chance.choices(vocabulary, k=40))).model_copy(update={"id": f"t{n}"})
        for n in range(200)
    ]
    texts, planted = [], set()
    for n in range(3000):
        words = chance.choices(vocabulary, k=60)
        if n % 100 == 7:
            source = test[n % 200].question.split()
            words[20 : 20 + NGRAM] = source[3 : 3 + NGRAM]
            planted.add(f"q{n}")
        texts.append(Text(f"q{n}", "completion", " ".join(words)))
    assert {hit.question_id for hit in find_hits(texts, test)} == planted


def test_a_hundred_thousand_examples_take_seconds() -> None:
    chance = random.Random(1)
    vocabulary = [f"w{n:x}".translate(str.maketrans("0123456789", "ghijklmnop")) for n in range(3000)]
    lines = [" ".join(chance.choices(vocabulary, k=70)) for _ in range(1500)]
    test = [make_test(line).model_copy(update={"id": str(n)}) for n, line in enumerate(lines[:1300])]
    texts = [Text(str(n), "completion", lines[1300 + n % 200]) for n in range(10_000)]
    began = time.process_time()
    assert find_hits(texts, test) == []
    assert time.process_time() - began < 6  # a tenth of the examples


def test_gsm8k_train_against_its_real_test_questions(lema_data: Path) -> None:
    train = load_questions(f"gsm8k:{lema_data / 'gsm8k/train.jsonl'}")
    lines = (
        (lema_data / "student_outputs/rho-math-1b_gsm8k_cot.jsonl").read_text(encoding="utf-8").splitlines()
    )
    test = [
        make_test(json.loads(line)["question"]).model_copy(update={"id": f"t{n}"})
        for n, line in enumerate(lines)
    ]
    hits = find_hits([Text(one.id, "question", one.question) for one in train], test)
    assert [hit for hit in hits if hit.kind == "exact"] == []
    assert 0 < len({hit.question_id for hit in hits}) < 100
    planted = [Text("planted", "question", test[5].question)]
    assert {hit.kind for hit in find_hits(planted, test)} >= {"exact"}
