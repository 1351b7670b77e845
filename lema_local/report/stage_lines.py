"""What the stages' manifests say: states, seconds, dollars, versions, fidelity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lema_local.errors import LemaError
from lema_local.report.data import Fidelity, StageLine
from lema_local.report.files import RunReader
from lema_local.runs import StageFolder

STAGES = (
    "0_questions", "1_sample", "2_correct", "3_augment", "4_filter", "5_build", "6_train", "7_export", "8_evaluate",
)  # fmt: skip

EVOLVE = "0_evolve"


def read_stages(reader: RunReader) -> list[StageLine]:
    """Return every stage, and the parts (arms) of a stage that have manifests of their own."""
    lines = []
    evolved = (EVOLVE,) if (reader.run_dir / EVOLVE).is_dir() else ()  # a later round's alone
    for name in (*evolved, *STAGES):
        folder = reader.run_dir / name
        parts = [_read_stage(reader, part, f"{name}/{part.name}") for part in _parts(folder)]
        lines += [_read_stage(reader, folder, name, parts), *parts]
    return lines


def _parts(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        part
        for part in folder.iterdir()
        if StageFolder(part).manifest_path.is_file() or StageFolder(part).started_path.is_file()
    )


def _read_stage(reader: RunReader, folder: Path, name: str, parts: Sequence[StageLine] = ()) -> StageLine:
    stage = StageFolder(folder)
    try:
        if manifest := stage.manifest():
            return StageLine(name, "finished", manifest)
        if started := stage.started():
            return StageLine(name, "unfinished", started)
    except LemaError as err:
        reader.tell(str(err))
        return StageLine(name, "damaged", None)
    if parts and all(part.state == "finished" for part in parts):
        return StageLine(name, "finished", None)
    return StageLine(name, "unfinished" if folder.is_dir() and any(folder.iterdir()) else "not run", None)


def arm_counts(lines: Sequence[StageLine], stage: str, arm: str) -> Mapping[str, Any]:
    """Return what a stage counted for one arm, from the arm's own manifest or from the stage's."""
    manifests = {line.name: line.manifest for line in lines if line.manifest}
    if own := manifests.get(f"{stage}/{arm}"):
        return own.counts
    whole = manifests.get(stage)
    found = whole.counts.get(arm) if whole else None
    return found if isinstance(found, Mapping) else {}


def train_setting(lines: Sequence[StageLine], arm: str, name: str) -> object:
    """Return one setting that an arm was trained with; None where it is not known (yet)."""
    manifest = next((line.manifest for line in lines if line.name == f"6_train/{arm}"), None)
    settings = manifest.made_from.get("train") if manifest else None
    return settings.get(name) if isinstance(settings, Mapping) else None


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every (path, value) of nested mappings, the mappings too."""
    yield path, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, (*path, str(key)))


def find_fidelity(lines: Sequence[StageLine]) -> list[Fidelity]:
    """Return the comparisons of exported and trained students, wherever `7_export` counts them."""
    found: dict[str, Fidelity] = {}
    for line in lines:
        if line.name.startswith("7_export") and line.manifest:
            for path, value in walk(line.manifest.counts):
                if isinstance(value, Mapping) and {"greedy_equal", "prompts"} <= value.keys():
                    arm = line.name.partition("/")[2] or next(iter(path), "adapter")
                    found[arm] = _read_fidelity(arm, value, line.manifest.counts.get("right"))
    return list(found.values())


def _read_fidelity(arm: str, value: Mapping[str, Any], right: Any) -> Fidelity:
    known = {name: value.get(name) for name in ("near_tie_logits", "nf4_greedy_equal", "nf4_mean_kl")}
    differences = value.get("differences")
    return Fidelity(
        arm,
        int(value["prompts"]),
        int(value["greedy_equal"]),
        int(value.get("near_ties") or 0),
        without_adapter_equal=value.get("without_adapter_equal"),
        differences=[one for one in differences if isinstance(one, Mapping)]
        if isinstance(differences, list)
        else (),
        divergence=_mapping(value.get("divergence")) or None,
        without_adapter=_mapping(value.get("without_adapter")) or None,
        is_base_quantized=bool(value.get("is_base_quantized")),
        right=_mapping(right),
        answers=_mapping(value.get("answers")),
        **known,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def allows_test_questions(lines: Sequence[StageLine]) -> bool:
    """True where a stage was told that it may train on test questions."""
    manifests = [line.manifest for line in lines if line.manifest]
    marks = (walk({**one.made_from, **one.counts}) for one in manifests)
    return any(path and path[-1] == "allow_test" and value is True for mark in marks for path, value in mark)


def merge_versions(lines: Sequence[StageLine]) -> dict[str, str]:
    """Return each library's version; where stages differ, each version with its stages."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        for library, version in line.manifest.versions.items() if line.manifest else ():
            found.setdefault(library, {}).setdefault(version, []).append(line.name)
    return _merge(found)


def find_prices(lines: Sequence[StageLine]) -> dict[str, str]:
    """Return by teacher the dollars per million tokens that its calls were counted at, in words."""
    found: dict[str, str] = {}
    for line in lines:
        prices = line.manifest.counts.get("prices") if line.manifest else None
        for name, price in prices.items() if isinstance(prices, Mapping) else ():
            if isinstance(price, Mapping) and {"prompt_usd", "completion_usd"} <= price.keys():
                read, written = (1e6 * float(price[key]) for key in ("prompt_usd", "completion_usd"))
                found[str(name)] = (
                    f"${read:,.2f} for a million tokens read, ${written:,.2f} for a million written"
                    if read or written
                    else "nothing: it runs locally"
                )
    return found


def find_machine(lines: Sequence[StageLine]) -> dict[str, str]:
    """Return the machines that the stages ran on, as they wrote them down; empty where none did."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        for name, value in line.manifest.machine.items() if line.manifest else ():
            found.setdefault(name, {}).setdefault(value, []).append(line.name)
    return _merge(found)


def _merge(found: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """Return each name's value; where stages differ, each value with its stages."""
    return {
        name: next(iter(by_value))
        if len(by_value) == 1
        else "; ".join(f"{value} ({', '.join(stages)})" for value, stages in by_value.items())
        for name, by_value in found.items()
    }
