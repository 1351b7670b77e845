"""Where a teacher is served: on this machine or network, and what it says it serves."""

from __future__ import annotations

import ipaddress
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from lema_local.errors import BackendUnavailable
from lema_local.teachers.secrets import mask_secrets

_TRIES = 3
_TIMEOUT_S = 5.0


def is_local(url: str) -> bool:
    """Return whether a URL names this machine or the private network: nobody bills for what runs there."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))
    return address.is_loopback or address.is_private or address.is_link_local


def public_part(url: str) -> str:
    """Return a URL without user, password and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"


def identify_openai(url: str, model: str, key: str | None) -> str:
    """Return what a local OpenAI-compatible endpoint serves, for the journal's key.

    Args:
        url: Its base, such as `http://127.0.0.1:8080/v1`.
        model: The name that will be asked for; where the endpoint lists it, only that entry counts.
        key: Sent as bearer token; None: none.

    Raises:
        BackendUnavailable: If nobody listens there.
    """
    listed = fetch_json(f"{url.rstrip('/')}/models", key)
    entries = listed.get("data") if isinstance(listed, dict) else None
    entries = [entry for entry in entries or [] if isinstance(entry, dict)]
    named = [entry for entry in entries if entry.get("id") == model]
    # `created` and the like change with every start of a server; these say what is loaded.
    facts = [
        {name: entry[name] for name in ("id", "root", "meta") if name in entry} for entry in named or entries
    ]
    return f"{public_part(url)} {json.dumps(facts, sort_keys=True)}"


def identify_ollama(url: str, model: str) -> str:
    """Return the digest of a model in Ollama, for the journal's key.

    Raises:
        BackendUnavailable: If Ollama is not running there, or has no such model.
    """
    listed = fetch_json(f"{url.rstrip('/')}/api/tags", None)
    models = listed.get("models", []) if isinstance(listed, dict) else []
    digests = {entry.get("name"): entry.get("digest") for entry in models if isinstance(entry, dict)}
    name = model if ":" in model else f"{model}:latest"
    if digests and name not in digests:
        raise BackendUnavailable(
            f"Ollama at {public_part(url)} has no model {model!r}", hint=f"ollama pull {model}"
        )
    return f"{public_part(url)} {digests.get(name, '')}"


def fetch_json(url: str, key: str | None) -> Any:
    """Return what an endpoint on the local network answers; None where it answers no JSON.

    Raises:
        BackendUnavailable: If nobody listens there after three tries.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http or https, checked by the caller
    # A proxy of the environment cannot reach what is served on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(_TRIES):
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as err:
            err.close()
            return None
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        except OSError as err:  # URLError and time-outs among them
            if attempt == _TRIES - 1:
                raise unreachable(url, str(getattr(err, "reason", err))) from err
            time.sleep(0.3 * 2**attempt)
    raise AssertionError


def unreachable(url: str, why: str) -> BackendUnavailable:
    """Return the error for an endpoint where nobody listens."""
    return BackendUnavailable(
        f"the teacher at {public_part(url)} cannot be reached: {mask_secrets(why)}",
        hint="start the server, or correct --teacher-url (it usually ends with /v1)",
    )
