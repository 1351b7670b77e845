"""Choosing a layout: by what is to be decoded, by memory, and by a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_model

from lema_local.errors import BackendUnavailable
from lema_local.students import tuning
from lema_local.students.base import EngineOptions, Prompt, SampleRequest
from lema_local.students.decoder import Layout
from lema_local.students.feed import Feed, Job, common_prefix
from lema_local.students.inspection import gain_of_q4_0
from lema_local.students.layout import (
    Workload,
    candidate_layouts,
    describe_workload,
    grow,
)
from lema_local.students.model import Model, ModelFacts

WORK = Workload(
    requests=128, prompts=32, prefix_tokens=600, longest_prompt=720, typical_prompt=700, max_tokens=300
)
FACTS = ModelFacts(
    path=Path("model.gguf"), architecture="qwen2", name=None, parameters=500_000_000, weight_bytes=350_000_000,
    quantization="Q4_0", trained_context=32768, layers=24, vocabulary_size=151_936, cell_bytes=12_288,
    is_recurrent=False, sliding_window=0, chat_template=None,
)  # fmt: skip
GIB = 2**30


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 16 * GIB)
    monkeypatch.setattr("lema_local.students.layout.physical_cores", lambda: 2)


def set_memory(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("lema_local.students.layout.free_memory_bytes", lambda: size)


def job(*tokens: int) -> Job:
    return Job(np.array(tokens, np.int32))


def test_every_candidate_holds_its_paths() -> None:
    layouts = candidate_layouts(FACTS, WORK, EngineOptions())
    assert {(one.slots, one.is_unified) for one in layouts} == {
        (32, False),
        (32, True),
        (16, False),
        (16, True),
    }
    for one in layouts:
        paths = one.slots * 301
        if one.is_unified:
            assert one.cells >= 600 + one.slots // 4 * 120 + paths
        else:
            assert one.sequence_cells >= 720 + 301
        assert one.threads == 2
        assert one.sequence_tokens == 32768


def test_what_is_asked_for_is_kept() -> None:
    options = EngineOptions(
        slots=5, threads=3, context_tokens=1000, is_unified=True, has_flash_attention=False, kv_type="q8_0"
    )
    [layout] = candidate_layouts(FACTS, WORK, options)
    assert (layout.slots, layout.threads, layout.sequence_tokens) == (5, 3, 1000)
    assert (layout.is_unified, layout.has_flash_attention, layout.kv_type) == (True, False, "q8_0")


def test_there_are_no_more_slots_than_paths() -> None:
    few = replace(WORK, requests=3, prompts=1)
    assert {one.slots for one in candidate_layouts(FACTS, few, EngineOptions())} == {3}


def test_a_small_model_gets_more_slots() -> None:
    small = replace(FACTS, parameters=2_000_000)
    assert candidate_layouts(small, WORK, EngineOptions())[0].slots == 128


def test_where_memory_is_short_the_pool_that_shares_prompts_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_memory(monkeypatch, int(0.5 * GIB))
    layouts = candidate_layouts(FACTS, WORK, EngineOptions())
    assert layouts[0].is_unified
    assert all(one.cells * FACTS.cell_bytes <= 0.25 * GIB for one in layouts)
    assert min(one.slots for one in layouts if not one.is_unified) < 32


def test_memory_for_less_than_one_sequence_is_an_error_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 10_000_000)
    with pytest.raises(BackendUnavailable, match="one sequence of 1621 tokens needs") as caught:
        candidate_layouts(FACTS, WORK, EngineOptions())
    assert caught.value.exit_code == 2


def test_a_layout_grows_for_a_longer_sequence() -> None:
    for layout in candidate_layouts(FACTS, WORK, EngineOptions()):
        grown = grow(layout, 5000)
        assert grown.sequence_cells >= 5000
        assert (grown.slots, grown.is_unified) == (layout.slots, layout.is_unified)


def test_a_layout_is_the_same_after_it_was_written_down() -> None:
    layout = candidate_layouts(FACTS, WORK, EngineOptions())[0]
    assert Layout(**layout.as_dict()) == layout


def test_the_workload_is_read_off_the_first_prompts() -> None:
    jobs = [job(1, 2, 3, 4), job(1, 2, 5), job(1, 2, 3, 9, 9, 9)]
    assert describe_workload(jobs, 12, 50) == Workload(12, 3, 2, 6, 4, 50)
    assert describe_workload(jobs, 12, 50).paths_per_prompt == 4


@pytest.mark.parametrize(
    ("jobs", "prefix"),
    [
        ([job(1, 2, 3), job(1, 2, 4)], [1, 2]),
        ([job(1, 2), job(1, 2, 3)], [1]),  # one token is left to be computed, for its logits
        ([job(1, 2, 3)], []),
        ([job(1), job(2)], []),
        ([job(1, 2), job()], []),
    ],
)
def test_the_common_prefix_is_never_a_whole_prompt(jobs: list[Job], prefix: list[int]) -> None:
    assert common_prefix(jobs).tolist() == prefix


def test_a_prompt_is_tokenized_once_for_all_its_paths() -> None:
    seen: list[Prompt] = []

    def tokenize(prompt: Prompt) -> np.ndarray:
        seen.append(prompt)
        return np.arange(len(prompt), dtype=np.int32)

    def requests() -> Iterator[SampleRequest]:
        for prompt in ("one", "two", "one"):
            for index in range(3):
                yield SampleRequest(prompt, index, prompt, 0)

    feed = Feed(requests(), tokenize)
    assert len(feed.look_ahead(4)) == 2
    assert len(feed) == 4
    while feed.peek():
        feed.pop()
    assert seen == ["one", "two", "one"]


def test_the_fastest_layout_wins_and_a_near_tie_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = candidate_layouts(FACTS, WORK, EngineOptions())
    speeds = dict(zip(layouts, (100.0, 102.0, 120.0, 90.0), strict=True))
    monkeypatch.setattr(tuning, "measure_layout", lambda model, layout, work: speeds[layout])
    model = object()
    assert tuning.fastest_layout(model, layouts, WORK) == layouts[2]  # type: ignore[arg-type]
    speeds[layouts[2]] = 100.0
    assert tuning.fastest_layout(model, layouts, WORK) == layouts[0]  # type: ignore[arg-type]


def test_a_measurement_runs_on_every_kind_of_layout(tmp_path: Path) -> None:
    model = Model(write_model(tmp_path / "tiny.gguf"))
    work = replace(WORK, prefix_tokens=10, longest_prompt=60, typical_prompt=50, max_tokens=40)
    for layout in candidate_layouts(model.facts, work, EngineOptions(threads=1)):
        assert tuning.measure_layout(model, layout, work) > 0
    model.close()


def test_a_faster_quantization_is_known_for_models_that_need_it() -> None:
    slow = replace(FACTS, quantization="Q4_K - Medium")
    assert gain_of_q4_0(slow) == pytest.approx(1.7)
    assert gain_of_q4_0(replace(FACTS, quantization="Q4_0")) is None
    assert gain_of_q4_0(replace(slow, parameters=2_000_000)) is None
