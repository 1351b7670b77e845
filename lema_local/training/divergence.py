"""How far two models are apart on the same tokens: KL divergence, and whether they prefer the same token."""

from __future__ import annotations

from typing import Any

from lema_local.training.base import Divergence


class DivergenceMeter:
    """Sums up over texts, holding the logits of one text at a time.

    Args:
        near_tie_logits: Positions where the expected model's two best logits are closer do not count for the top token.
    """

    def __init__(self, near_tie_logits: float) -> None:
        self._near_tie = near_tie_logits
        self._positions = self._clear = self._same = 0
        self._kl = self._worst = 0.0

    def add(self, expected: Any, found: Any) -> None:
        """Take in one text.

        Args:
            expected: Logits, float32 [tokens, vocabulary], torch or NumPy.
            found: The other model's, of the same shape; a vocabulary that is padded further is cut.
        """
        import torch

        p_logits, q_logits = torch.as_tensor(expected).float(), torch.as_tensor(found).float()
        width = min(p_logits.shape[-1], q_logits.shape[-1])
        p_logits, q_logits = p_logits[:, :width], q_logits[:, :width]
        p, q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
        kl = (
            torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).clamp(min=0)
        )  # no rounding below
        best = p_logits.topk(2, dim=-1)
        is_clear = best.values[:, 0] - best.values[:, 1] >= self._near_tie
        is_same = best.indices[:, 0] == q_logits.argmax(-1)
        self._positions += len(kl)
        self._kl += float(kl.double().sum())
        self._worst = max(self._worst, float(kl.max()))
        self._clear += int(is_clear.sum())
        self._same += int((is_clear & is_same).sum())

    def result(self) -> Divergence:
        """Return the sums as means and shares."""
        return Divergence(
            positions=self._positions,
            mean_kl=self._kl / max(self._positions, 1),
            max_kl=self._worst,
            clear_positions=self._clear,
            same_top=self._same,
        )
