"""What counts as the same answer: equal, a near-tie, or another student."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_hf import write_pair

from lema_local.training.base import Divergence, FidelityResult
from lema_local.training.bases import open_base
from lema_local.training.divergence import DivergenceMeter
from lema_local.training.fidelity import (
    GreedyAnswer,
    answer_greedily,
    explain_difference,
    position_logits,
    whole_characters,
)
from lema_local.training.libraries import quiet_libraries
from lema_local.training.models import Compute, load_plain
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


def _divergence(mean_kl: float, same_top: int) -> Divergence:
    return Divergence(positions=200, mean_kl=mean_kl, max_kl=1.0, clear_positions=100, same_top=same_top)


@pytest.mark.parametrize(
    ("mean_kl", "same_top", "is_within"), [(9e-4, 99, True), (1.1e-3, 100, False), (1e-6, 98, False)]
)
def test_logits_decide_unless_the_base_is_quantized(mean_kl: float, same_top: int, is_within: bool) -> None:
    divergence = _divergence(mean_kl, same_top)
    assert divergence.is_within_bound is is_within
    for is_quantized in (False, True):
        result = FidelityResult(
            prompts=20, greedy_equal=20, near_ties=0, near_tie_logits=0.1, nf4_greedy_equal=None,
            nf4_mean_kl=None, without_adapter_equal=0, divergence=divergence, is_base_quantized=is_quantized,
        )  # fmt: skip
        assert result.is_same_student is (is_within or is_quantized)


def test_divergence_is_the_mean_over_all_positions_of_all_texts() -> None:
    import torch

    def logits(*shares: float) -> list[float]:
        return torch.tensor(shares).log().tolist()

    expected = torch.tensor([logits(0.5, 0.3, 0.2), logits(0.34, 0.33, 0.33)])
    found = torch.tensor([logits(0.25, 0.55, 0.2), logits(0.33, 0.34, 0.33)])
    meter = DivergenceMeter(near_tie_logits=0.1)
    meter.add(expected, found)
    meter.add(expected[:1], expected[:1])
    result = meter.result()
    kls = [float((p.softmax(-1) * (p - q)).sum()) for p, q in zip(expected, found, strict=True)]
    assert result.mean_kl == pytest.approx(sum(kls) / 3, abs=1e-6)
    assert result.max_kl == pytest.approx(kls[0], abs=1e-6)
    # The second position is a near-tie; of the two clear ones the first has another best token.
    assert (result.positions, result.clear_positions, result.same_top) == (3, 2, 1)


def test_torch_answers_by_raw_logits_whatever_the_batch(tmp_path: Path) -> None:
    import torch

    pair = write_pair(tmp_path)
    # A model's own penalties, as some bring them, are not llama.cpp's.
    (pair.folder / "generation_config.json").write_text('{"repetition_penalty": 9.0, "eos_token_id": 3}')
    encoder = Encoder(open_base(pair.folder))
    prompts = ["one", "a much longer prompt than the first", "12"]
    with quiet_libraries():
        model = load_plain(pair.folder, Compute("cpu", "float32"))
    together = answer_greedily(model, encoder, prompts, [0], 12)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = answer_greedily(model, encoder, [prompt], [0], 12)[0]
        assert answer.ids == alone.ids
        logits = position_logits(model, answer)
        assert logits.argmax(-1).tolist()[: len(answer.ids)] == answer.ids
        gaps = logits.topk(2).values.diff(dim=-1).neg().squeeze(-1)[: len(answer.gaps)]
        assert torch.allclose(gaps, torch.tensor(answer.gaps), atol=1e-4)


def test_answer_ends_before_its_stop_token(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    encoder = Encoder(open_base(pair.folder))
    with quiet_libraries():
        model = load_plain(pair.folder, Compute("cpu", "float32"))
    free = answer_greedily(model, encoder, ["one"], [], 12)[0]
    stop = free.ids[5]
    ended = answer_greedily(model, encoder, ["one"], [stop], 12)[0]
    first = free.ids.index(stop)
    assert ended.ids == free.ids[:first]
    assert len(ended.gaps) == len(ended.runner_ups) == first + 1
