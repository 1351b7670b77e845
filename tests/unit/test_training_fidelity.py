"""What counts as the same answer: equal, a near-tie, or another student."""

from __future__ import annotations

import pytest
from tiny_hf import write_pair

from lema_local.training.base import FidelityResult
from lema_local.training.bases import open_base
from lema_local.training.fidelity import GreedyAnswer, explain_difference, whole_characters
from lema_local.training.tokens import Encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(open_base(write_pair(tmp_path_factory.mktemp("pair")).folder))


def _answer(encoder: Encoder, text: str, runner_ups: str, gaps: list[float]) -> GreedyAnswer:
    def ids(text: str) -> list[int]:
        return [encoder.prompt_ids(character)[0] for character in text]

    return GreedyAnswer([1], ids(text), ids(runner_ups), gaps)


@pytest.mark.parametrize(
    ("gguf", "expected"),
    [
        ("abX", "near-tie"),
        ("abXYZ", "near-tie"),
        ("aQ", "another token than torch's two best, at token 1"),
        ("aYcd", "the runner-up, 3.00 logits below the best, at token 1"),
        ("abcd", "the same tokens, cut at another length"),
    ],
)
def test_first_difference_decides(encoder: Encoder, gguf: str, expected: str) -> None:
    answer = _answer(encoder, "abc", "ZYX", [5.0, 3.0, 0.05])
    assert explain_difference(encoder, answer, gguf) == expected


def test_ending_instead_of_going_on_is_a_near_tie_only_if_the_stop_was_the_runner_up(
    encoder: Encoder,
) -> None:
    stop = encoder.tokenizer.eos_token_id
    nearly = _answer(encoder, "ab", "ZZ", [5.0, 0.05])
    assert (
        explain_difference(encoder, GreedyAnswer([1], nearly.ids, [3, stop], nearly.gaps), "a") == "near-tie"
    )
    assert explain_difference(encoder, nearly, "a").startswith("another token")


def test_torn_characters_do_not_count(encoder: Encoder) -> None:
    assert whole_characters("a\ufffdb") == "ab"


def test_result_is_the_same_student_only_without_other_differences() -> None:
    def result(equal: int, ties: int, without: int) -> FidelityResult:
        return FidelityResult(
            prompts=20, greedy_equal=equal, near_ties=ties, near_tie_logits=0.1, nf4_greedy_equal=None,
            nf4_mean_kl=None, without_adapter_equal=without,
        )  # fmt: skip

    assert result(18, 2, 0).is_same_student
    assert not result(18, 1, 0).is_same_student
    assert result(20, 0, 3).is_adapter_noticed
    assert not result(20, 0, 20).is_adapter_noticed
