"""Whose rights a data set of corrections rests on: the licences of its questions, the terms of its teachers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lema_local.datasets import DATASETS
from lema_local.errors import InputError
from lema_local.teachers import IN_PROCESS

MADE_HERE = {"quickstart": "Apache-2.0"}
"""Data sets that this project makes itself."""
HUB_LICENCES = frozenset({
    "apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "odbl",
    "odc-by", "pddl", "c-uda", "llama2", "llama3", "gemma", "unlicense", "wtfpl", "artistic-2.0", "isc",
    "cc0-1.0", "cc",
})  # fmt: skip
"""Names that the hub knows, those of data. Source: huggingface.co/docs/hub/repositories-licenses."""
_CREATIVE_COMMONS = re.compile(r"cc-by(-nc)?(-sa|-nd)?-(2\.0|2\.5|3\.0|4\.0)")
_PROVIDERS = (
    (r"(?:openai/|azure/)?(?:gpt|o\d|chatgpt|text-davinci)", "OpenAI"),
    (r"(?:anthropic/|bedrock/anthropic\.|vertex_ai/)?claude", "Anthropic"),
    (r"(?:gemini/|vertex_ai/)?gemini", "Google"),
    (r"(?:mistral/)?(?:mistral|magistral|open-mi)", "Mistral AI"),
    (r"deepseek/", "DeepSeek"),
)
_LOCAL = ("ollama/", "ollama_chat/", "hosted_vllm/", "lm_studio/", IN_PROCESS)


@dataclass(frozen=True, slots=True)
class SourceLicence:
    """The licence of one data set's questions."""

    dataset: str
    licence: str
    source: str | None
    """Where that is said; None for the user's own data."""


@dataclass(frozen=True, slots=True)
class TeacherTerms:
    """Whose terms hold for what a teacher wrote."""

    teacher: str
    provider: str
    terms: str


def find_licences(datasets: Iterable[str], own: str | None) -> list[SourceLicence]:
    """Return the licence of each data set's questions.

    Args:
        datasets: Their names.
        own: What the user says of data that this project does not know.

    Raises:
        InputError: If nobody says what the licence of one is.
    """
    known = {name: SourceLicence(name, one.licence, one.source) for name, one in DATASETS.items()}
    known |= {name: SourceLicence(name, licence, "made by lema-local") for name, licence in MADE_HERE.items()}
    names = list(dict.fromkeys(datasets))
    unknown = [name for name in names if name not in known]
    if unknown and own is None:
        raise InputError(
            f"the licence of the questions of {', '.join(unknown)} is not known",
            hint="say under which licence you share them: --licence cc-by-4.0, or --licence 'no licence: all rights"
            " reserved'",
        )
    return [known.get(name) or SourceLicence(name, own or "", None) for name in names]


def find_terms(teacher: str, *, has_url: bool, told: str | None) -> TeacherTerms:
    """Return whose terms hold for what a teacher wrote.

    Args:
        teacher: As it was asked for.
        has_url: Whether it was asked at an endpoint of the user's.
        told: What the user says of the terms.
    """
    if teacher == "reference":
        what = "No model wrote these: a program derives them from the source's own solutions, whose licence holds."
        return TeacherTerms(teacher, "lema-local", what)
    if has_url or teacher.startswith(_LOCAL):
        provider = f"whoever made the model {teacher.rpartition('/')[2]}"
        what = "The licence of this model, and the terms of whoever serves it, hold for what it wrote."
        return TeacherTerms(teacher, provider, told or what)
    provider = next((name for form, name in _PROVIDERS if re.match(form, teacher)), "")
    provider = provider or (teacher.partition("/")[0] if "/" in teacher else "not known")
    what = f"The terms of service of the provider ({provider}) apply to what it wrote; read them before use."
    return TeacherTerms(teacher, provider, told or what)


def hub_licence(licence: str) -> str | None:
    """Return a licence by the hub's name for it (`MIT`: mit, `CC BY-NC 4.0`: cc-by-nc-4.0); None where it has none."""
    folded = re.sub(r"[\s_]+", "-", licence.strip().lower())
    return folded if folded in HUB_LICENCES or _CREATIVE_COMMONS.fullmatch(folded) else None
