"""The model card: `README.md` in the folder of an adapter or a whole model, in the form of the Hugging Face hub.

Reads   ADAPTER/lema_training.json, lema_base.json; what a run's report shows, where there is a run
Writes  ADAPTER/README.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.report.data import ReportData
from lema_local.runs import write_text

CARD = "README.md"
KINDS = {"adapter": "LoRA adapter", "model": "fine-tuned model"}
"""What a training left, in words."""
LICENCE = (
    "The {kind} is a derivative of its base model and of its training data: the licence of the base, the licences of"
    " the questions and the terms of the teachers hold for it. Check all three before publishing or selling."
)


def write_model_card(adapter_dir: Path, *, run: ReportData | None = None, arm: str | None = None) -> Path:
    """Write the card and return its path.

    Args:
        adapter_dir: What training wrote, an adapter or a whole model.
        run: What is known of the run that it belongs to; None: trained by itself, without scores.
        arm: Its arm in that run.

    Raises:
        InputError: If the folder holds no adapter of this project.
    """
    record = _read(adapter_dir / "lema_training.json")
    base = _read(adapter_dir / "lema_base.json")
    kind = "model" if record["settings"]["method"] == "full" else "adapter"
    front = _front_matter(kind, base, run, arm)
    sections = [
        *_introduction(kind, base, run, arm),
        *_training(record),
        *(_data(run, arm) if run else ()),
        *(_scores(run, arm) if run else ("## Scores", "", "None have been taken yet.", "")),
        *_contamination(run, arm),
        "## Licence", "", LICENCE.format(kind=kind), "",
        *_recipe(run),
    ]  # fmt: skip
    write_text(adapter_dir / CARD, f"---\n{front}---\n\n" + "\n".join(sections))
    return adapter_dir / CARD


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(
            f"{path.parent} holds nothing trained by this project: {path.name} cannot be read",
            hint="give the folder adapter/ or model/ that lema train wrote",
        ) from err
    return dict(found)


def _front_matter(kind: str, base: Mapping[str, Any], run: ReportData | None, arm: str | None) -> str:
    import yaml

    library, relation, own = (
        ("peft", "adapter", ["lora"]) if kind == "adapter" else ("transformers", "finetune", [])
    )
    values: dict[str, Any] = {
        "library_name": library, "pipeline_tag": "text-generation", "license": "other",
        "license_name": "as-base-data-and-teachers", "tags": [*own, "lema", "learning-from-mistakes", "gguf"],
    }  # fmt: skip
    if base["kind"] == "hub":
        values = {"base_model": base["source"], "base_model_relation": relation, **values}
    results = _results(run, arm)
    if results:
        values["model-index"] = [{"name": f"{run.name if run else ''} {arm}".strip(), "results": results}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _results(run: ReportData | None, arm: str | None) -> list[dict[str, Any]]:
    scores = run.scores.arms if run and run.scores else []
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": one.dataset, "type": one.dataset},
            "metrics": [{"type": "pass@1", "value": round(one.share.pass_at_1, 4), "name": "greedy pass@1"}],
        }
        for one in scores
        if one.arm == arm
    ]


def _introduction(
    kind: str, base: Mapping[str, Any], run: ReportData | None, arm: str | None
) -> Iterator[str]:
    yield f"# {run.name} {arm}" if run else f"# A {KINDS[kind]}"
    yield ""
    yield f"A {KINDS[kind]} trained with lema-local (LeMa: learning from mistakes, arXiv 2310.20689)."
    yield ""
    named = base["source"] if base["kind"] == "hub" else Path(base["source"]).name
    yield f"- Base: {named} ({base['kind']}, {base['architecture']}, {base['layers']} layers)"
    yield f"- SHA-256 of the base: `{base['sha256']}`"
    yield ""


def _training(record: Mapping[str, Any]) -> Iterator[str]:
    result, settings = record["result"], record["settings"]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(result["trained_tokens_by_kind"].items()))
    yield "## Training"
    yield ""
    yield f"- {result['examples']:,} examples, {len(result['left_out_ids']):,} more left out as too long"
    yield f"- {result['tokens']:,} tokens, {result['trained_tokens']:,} of them trained ({kinds})"
    yield f"- {result['optimizer_steps']:,} optimizer steps, final loss {result['final_loss']:.4f}"
    yield f"- Seed: {settings['seed']}"
    yield ""
    yield "| Setting | Value |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in _settings_used(settings, result["details"]))
    yield ""


def _settings_used(settings: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a training was done with: what was left open as it was chosen, without what the method has none of."""
    for name, value in settings.items():
        if not (settings["method"] == "full" and name.startswith("lora_")):
            yield name, details.get(name, value)


def _data(run: ReportData, arm: str | None) -> Iterator[str]:
    yield "## Data and teachers"
    yield ""
    for one in run.arms:
        if one.name == arm:
            sources = ", ".join(f"{count:,} {source}" for source, count in sorted(one.by_source.items()))
            yield f"- Examples by source: {sources}"
    yield f"- Questions: {', '.join(f'{count:,} {split}' for split, count in run.questions.items())}"
    for teacher in run.teachers:
        reported = (
            f" (named itself {teacher.reported})" if teacher.reported not in (None, teacher.asked) else ""
        )
        yield (
            f"- Teacher {teacher.asked}{reported}: {teacher.corrections:,} corrections, {teacher.accepted:,} accepted"
        )
    yield f"- Seeds: {', '.join(f'{name} {value}' for name, value in run.seeds.items())}"
    yield ""


def _scores(run: ReportData, arm: str | None) -> Iterator[str]:
    yield "## Scores"
    yield ""
    if run.scores is None:
        yield "None have been taken yet."
        yield ""
        return
    yield "| Student | Dataset | Prompt | Correct | Greedy pass@1 | 95 % interval (Wilson) |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for one in run.scores.arms:
        share, name = one.share, f"**{one.arm}**" if one.arm == arm else one.arm
        yield (
            f"| {name} | {one.dataset} | {one.prompt} | {share.correct:,} of {share.n:,} | {share.pass_at_1:.1%} "
            f"| {share.low:.1%} to {share.high:.1%} |"
        )
    yield ""
    yield from (
        f"- {one.sentence}" for one in run.comparisons if one.group is None and arm in (one.first, one.second)
    )
    yield from (f"- **Note:** {problem}" for problem in run.problems)
    yield ""


def _contamination(run: ReportData | None, arm: str | None) -> Iterator[str]:
    """Yield what the certificate of the arm's training file says."""
    yield "## Contamination with test questions"
    yield ""
    found = [one for one in run.certificates if one.file == f"{arm}.jsonl"] if run else []
    yield from (f"{one.sentence} SHA-256 of the training file: `{one.sha256}`" for one in found)
    if not found:
        yield "No certificate: it has not been checked."
    yield ""


def _recipe(run: ReportData | None) -> Sequence[str]:
    if run is None or run.recipe is None:
        return ()
    return ("## Recipe", "", "```yaml", run.recipe.rstrip(), "```", "")
