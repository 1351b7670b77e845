"""A teacher that makes new questions and answers them: for `FakeTeacher`."""

from __future__ import annotations

import hashlib
import re
from typing import Any

THINGS = ("bolts", "maps", "hats", "kites", "lamps", "bells", "drums", "coats")
PLACES = ("harbour", "quarry", "bakery", "museum", "station", "orchard", "theatre", "foundry")

BEFORE = (
    "Behind the old {1} of our town, where children play with {0} after school,",
    "Every spring the {1} buys {0} from a farmer; this year",
    "A ship with {0} sails to the {1} on Monday morning, and in its hold",
    "The {1} is closed for the winter. In a dusty room full of {0}",
)
AFTER = (
    "arrive by train. How many {0} does the {1} own by evening?",
    "are found under a bench. What is the number of {0} altogether?",
    "come as a gift. Count all {0} that can now be seen at the {1}.",
    "are carried in by two workers. How many {0} do they have to wash?",
)


def write_question(request: dict[str, Any]) -> str:
    """Make a question of the words it was asked with; answer one by adding up, one in five of them in words."""
    asked = request["messages"][-1]["content"]
    place = int(hashlib.sha256(asked.encode()).hexdigest(), 16)
    if asked.endswith("New question:"):
        one, other = THINGS[place % 8], PLACES[place // 8 % 8]
        before = BEFORE[place // 64 % 4].format(one, other)
        return (
            f"New question: {before} there are {place % 83} {one} of {other} {place % 97}, then"
            f" {place % 89} more {AFTER[place // 256 % 4].format(one, other)}"
        )
    a, b = re.findall(r"there are (\d+) .* then\s+(\d+) more", asked)[0]
    return (
        "I do not know."
        if place % 5 == 0
        else f"Step 1: {a} + {b} = {int(a) + int(b)}.\nThe answer is {int(a) + int(b)}."
    )
