"""Datasets: questions from released files, from the hub, or from the user's own file, with stable ids."""

from lema_local.datasets.base import Dataset
from lema_local.datasets.labelled import LabelledMistake, read_labelled
from lema_local.datasets.loading import check_spec, load_questions, parse_mapping, read_questions
from lema_local.datasets.splitting import split_validation
from lema_local.datasets.table import DATASETS, is_held_out

__all__ = [
    "DATASETS",
    "Dataset",
    "LabelledMistake",
    "check_spec",
    "is_held_out",
    "load_questions",
    "parse_mapping",
    "read_labelled",
    "read_questions",
    "split_validation",
]
