"""Write requirements.lock (to run and train) and requirements-dev.lock (to test) from what is installed.

Resolve first by hand, in a fresh environment: `pip install -e ".[train,dev]"`; run the tests; then this. Pins
carry no local version (`+cpu`), so that pip takes the build for the machine at hand.
"""

from __future__ import annotations

from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Written by tools/lock.py: the exact versions that are tested. `pip install -r` this file.\n"


def needed_by(name: str, extras: frozenset[str], found: dict[str, str]) -> None:
    """Add to `found` everything installed that a distribution needs on this machine, with exact versions."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if not _applies(requirement, extras):
            continue
        key = canonicalize_name(requirement.name)
        if key not in installed():
            continue
        is_new = key not in found
        found[key] = installed()[key]
        if is_new or requirement.extras:
            needed_by(key, frozenset(requirement.extras), found)


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}
    )


def installed() -> dict[str, str]:
    """Return the public versions of all installed distributions by canonical name."""
    return {canonicalize_name(one.name): one.version.split("+")[0] for one in distributions()}


def main() -> None:
    """Write both files."""
    runtime: dict[str, str] = {}
    needed_by("lema-local", frozenset({"train"}), runtime)
    everything: dict[str, str] = {}
    needed_by("lema-local", frozenset({"train", "dev"}), everything)
    dev = {name: version for name, version in everything.items() if name not in runtime}
    for path, pins in ((ROOT / "requirements.lock", runtime), (ROOT / "requirements-dev.lock", dev)):
        lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
        path.write_text(HEAD + "".join(lines), encoding="utf-8")
        print(f"{path.name}: {len(lines)} pins")


if __name__ == "__main__":
    main()
