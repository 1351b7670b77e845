"""GGUF files from the Hugging Face hub: fetched once, resumed where a fetch was interrupted."""

from __future__ import annotations

from pathlib import Path

from lema_local.errors import BackendUnavailable


def fetch_gguf(spec: str) -> Path:
    """Return the local path of `hf:OWNER/REPO/FILE.gguf`, fetched if it is not in the hub's cache yet.

    The cache names each file by its hash; a fetch that was interrupted goes on where it stopped.

    Raises:
        BackendUnavailable: If the spec is malformed, there is no such file, or the hub cannot be reached.
    """
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, _, rest = spec.removeprefix("hf:").partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file.endswith(".gguf")):
        raise BackendUnavailable(
            f"{spec} names no GGUF file on the hub", hint="hf:OWNER/REPO/FILE.gguf, FILE with its folders"
        )
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", file))
    except LocalEntryNotFoundError as err:
        raise BackendUnavailable(
            f"{spec} is not in the local cache and the hub cannot be reached",
            hint="go online once, unset HF_HUB_OFFLINE, or name a local GGUF file",
        ) from err
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as err:
        first = str(err).strip().splitlines()[0]
        raise BackendUnavailable(
            f"{spec} cannot be fetched: {first}", hint="check the name and, for a gated model, HF_TOKEN"
        ) from err
