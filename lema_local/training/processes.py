"""Several processes that share one training: started by torchrun or `accelerate launch`, told apart here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MODULE = "lema_local"
FSDP_FLAGS = (
    "--use_fsdp", "--fsdp_version", "1", "--fsdp_sharding_strategy", "FULL_SHARD",
    "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--fsdp_use_orig_params", "false",
    "--fsdp_cpu_ram_efficient_loading", "true", "--fsdp_sync_module_states", "true",
    "--fsdp_state_dict_type", "FULL_STATE_DICT", "--mixed_precision", "bf16",
)  # fmt: skip
"""Source: PEFT's guide, "Use PEFT QLoRA and FSDP for finetuning large models on multiple GPUs"."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    local_rank: int = 0
    """Among those on this machine: the number of its card."""
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one that writes files and talks to the user."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """True where the model is spread over the cards (FSDP), as `accelerate launch` says in the environment."""
        return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in {"1", "true", "yes"}


def this_process() -> Processes:
    """Return what torchrun or `accelerate launch` has put into the environment."""
    return Processes(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        count=int(os.environ.get("WORLD_SIZE", "1")),
    )


def launch_commands(arguments: Sequence[str], processes: int) -> dict[str, str]:
    """Return the commands that start `lema ARGUMENTS` on several cards of this machine, by what they do."""
    count = str(processes)
    return {
        "each card holds the whole model": shlex.join(
            ["torchrun", "--standalone", "--nproc-per-node", count, "-m", MODULE, *arguments]
        ),
        "the model is spread over the cards (FSDP)": shlex.join(
            ["accelerate", "launch", "--num_processes", count, *FSDP_FLAGS, "-m", MODULE, *arguments]
        ),
    }
