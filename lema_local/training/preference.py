"""Learning from pairs: TRL's DPOTrainer, fed row by row as the plan lays the pairs out.

The reference is the base: the same model with its adapter switched off, so that nothing is held in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lema_local.errors import InputError
from lema_local.records import AnyExample, PreferenceExample
from lema_local.training.base import DPO_SETTINGS, TrainSettings
from lema_local.training.layout import learning_rate_for
from lema_local.training.shapes import ModelShape
from lema_local.training.tokens import IGNORED, EncodedExample, EncodedPair

LEARNING_RATE_SHARE = 1 / 40
"""Of the learning rate for examples. Source: 2e-4 and 5e-6 in recipes/zephyr-7b-beta/{sft,dpo}/config_qlora.yaml
(huggingface/alignment-handbook)."""


def choose_method(settings: TrainSettings, examples: Sequence[AnyExample]) -> TrainSettings:
    """Return the settings with the method that fits the file: pairs are learnt from by DPO.

    Raises:
        InputError: If the file holds no pairs and `dpo` is asked for, or pairs and all weights are to be trained.
    """
    is_paired = any(isinstance(example, PreferenceExample) for example in examples)
    if not is_paired and settings.method == "dpo":
        raise InputError(
            "method dpo learns from pairs (prompt, chosen, rejected), and these are plain examples",
            hint="lema build --format preference writes pairs; for plain examples take method qlora",
        )
    if is_paired and settings.method == "full":
        raise InputError(
            "pairs are learnt from with an adapter: the reference is the base without it",
            hint="method qlora or lora",
        )
    if not is_paired:
        return settings
    method = "dpo" if settings.is_quantized else settings.method
    return settings.model_copy(update={"method": method, "is_packed": False})


def choose_learning_rate(settings: TrainSettings, shape: ModelShape | None) -> float:
    """Return the learning rate for pairs."""
    if settings.dpo_learning_rate is not None:
        return settings.dpo_learning_rate
    return learning_rate_for(settings, shape) * LEARNING_RATE_SHARE


def settings_of_pairs(is_paired: bool) -> set[str]:
    """Return the settings that say nothing here: those of the other kind of file."""
    return set() if is_paired else set(DPO_SETTINGS)


def pair_config(arguments: Mapping[str, Any], settings: TrainSettings) -> Any:
    """Return TRL's DPOConfig from the arguments that examples would be trained with."""
    from trl import DPOConfig

    own = {key: value for key, value in arguments.items() if key != "dataset_kwargs"}
    return DPOConfig(**own, beta=settings.dpo_beta)


def make_pair_trainer(**parts: Any) -> Any:
    """Return TRL's DPOTrainer for micro-batches that are laid out already; it takes what SFTTrainer takes."""
    from trl import DPOTrainer

    class PairTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes the rows as they are; of plain examples it tells the mean loss per trained token."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
            if "completion_mask" in inputs:
                return super().compute_loss(model, inputs, *given, **named)
            count = (inputs["labels"][:, 1:] != IGNORED).sum()
            return -model(**inputs, fused_lm_head=True).log_probs.sum() / count

    return PairTrainer(**parts)


def collate_pairs(
    pairs: Sequence[EncodedPair], collate: Callable[[list[EncodedExample]], dict[str, Any]]
) -> dict[str, Any]:
    """Return what TRL's DPO reads: the chosen ways, then the rejected ones.

    input_ids, attention_mask, completion_mask: int64 [2 * pairs, tokens]; the last is 1 where there is loss.
    """
    batch = collate([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])
    labels = batch.pop("labels")
    return {**batch, "completion_mask": (labels != IGNORED).long()}
