"""What was trained, or a data set, onto the Hugging Face hub: what would be uploaded, and the upload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from lema_local.errors import BackendError, BackendUnavailable, InputError
from lema_local.training.bases import FACTS_NAME, HUB_NAME
from lema_local.training.whole import is_whole_model

ADAPTER_FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", FACTS_NAME)
MODEL_FILES = ("README.md", "config.json", FACTS_NAME)
GGUF_FILES = ("adapter.gguf", "model.gguf", "chat_template.jinja")
NOT_PUBLISHED = "lema_training.json"
"""Beside the weights; it names paths of this machine, and the card has all else of it."""


def files_to_publish(adapter_dir: Path, export_dir: Path | None = None) -> dict[str, Path]:
    """Return the files of an adapter or a whole model, and of its export, by their names in the repository.

    Raises:
        InputError: If the folder holds neither, or no model card.
    """
    is_whole = is_whole_model(adapter_dir)
    files = {name: adapter_dir / name for name in (MODEL_FILES if is_whole else ADAPTER_FILES)}
    if is_whole:  # weights in one file or many, and the tokenizer's
        files |= {one.name: one for one in sorted(adapter_dir.iterdir()) if one.name != NOT_PUBLISHED}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"{adapter_dir} cannot be published: it has no {', '.join(missing)}",
            hint="give the folder adapter/ or model/ that lema train wrote, or a run and --arm",
        )
    exported = {name: export_dir / name for name in GGUF_FILES} if export_dir else {}
    return files | {name: path for name, path in exported.items() if path.is_file()}


def publish(
    files: dict[str, Path],
    repository: str,
    *,
    is_private: bool,
    message: str,
    kind: Literal["model", "dataset"] = "model",
) -> str:
    """Upload the files in one commit, the repository made if need be; return its address.

    Raises:
        InputError: If the name is none of the hub's.
        BackendUnavailable: If the hub cannot be reached, or there is no right to write there.
        BackendError: If the hub refuses.
    """
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if not HUB_NAME.fullmatch(repository):
        raise InputError(f"{repository} is no name on the hub", hint="give OWNER/NAME")
    api = HfApi()
    adds = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=_content(path)) for name, path in files.items()
    ]
    try:
        api.create_repo(repository, private=is_private, exist_ok=True, repo_type=kind)
        commit = api.create_commit(repository, operations=adds, commit_message=message, repo_type=kind)
    except LocalTokenNotFoundError as err:
        raise BackendUnavailable("there is no token for the hub", hint="hf auth login") from err
    except HfHubHTTPError as err:
        if err.response.status_code in (401, 403):
            raise BackendUnavailable(
                f"the hub does not let you write to {repository}: {err}",
                hint="hf auth login with a token that may write; check the owner's name",
            ) from err
        raise BackendError(f"the hub refused the upload to {repository}: {err}") from err
    except ValueError as err:  # the hub's look at the card's head
        raise InputError(
            f"the hub does not take the card: {' '.join(str(err).split())}", hint="mend the head of README.md"
        ) from err
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as err:
        raise BackendUnavailable(
            f"{repository} cannot be uploaded: {str(err).splitlines()[0]}",
            hint="go online (and unset HF_HUB_OFFLINE), then run the same command again",
        ) from err
    return str(commit.repo_url)


def _content(path: Path) -> str | bytes:
    """Return what to upload: the file, without where the base lay on this machine."""
    field = {FACTS_NAME: "source", "adapter_config.json": "base_model_name_or_path"}.get(path.name)
    if field is None:
        return str(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    named = str(values.get(field) or "")
    if not HUB_NAME.fullmatch(named):
        values[field] = Path(named).name
    return (json.dumps(values, indent=2) + "\n").encode()
