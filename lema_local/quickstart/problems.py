"""Word problems made from templates: the quickstart's questions, gold rationales and answers.

A problem is a pure function of (split, family, seed, position). Each template tells a short story and, next
to it, the steps that solve it; every step holds exactly one computation ``a+b=c`` and the last step's value
is the answer. Two random streams feed a template: *shape* picks the sentences, their order and the number of
steps, *values* picks names, things and numbers. One shape with other values is a variant of a problem.

Splits are disjoint by construction: a problem belongs to the split that the hash of its text points to, names
and things masked. A test problem therefore is no training problem, not even one with other names or things;
it differs from each of them in a number or in a sentence. ``pretrain`` is what the embedded student was
pre-trained on, so that it has not seen the problems of ``train``, on which it is to make its mistakes.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

Split = Literal["pretrain", "train", "validation", "test"]
Operator = Literal["+", "-", "*", "/"]
T = TypeVar("T")

DATASET = "quickstart"
SPLIT_BOUNDS: Mapping[Split, range] = {
    "pretrain": range(60),
    "train": range(60, 80),
    "validation": range(80, 90),
    "test": range(90, 100),
}
"""The hash buckets (of 100) that make up each split."""

MAX_VALUE = 150
"""The largest number in any problem: a student of two million parameters has to learn the arithmetic."""

_PEOPLE = (
    ("Mia", "she"), ("Tom", "he"), ("Ana", "she"), ("Ben", "he"), ("Eva", "she"), ("Max", "he"),
    ("Lily", "she"), ("Sam", "he"), ("Nora", "she"), ("Leo", "he"), ("Ruth", "she"), ("Paul", "he"),
    ("Ella", "she"), ("Finn", "he"), ("Zoe", "she"), ("Omar", "he"), ("Iris", "she"), ("Jack", "he"),
    ("Kate", "she"), ("Noah", "he"), ("Rosa", "she"), ("Carl", "he"), ("Amy", "she"), ("Ivan", "he"),
)  # fmt: skip
_THINGS = (
    "apples", "pears", "plums", "nuts", "cookies", "grapes", "stamps", "coins", "cards", "marbles",
    "stones", "shells", "beads", "balls", "stickers", "buttons", "flowers", "eggs", "lemons", "figs",
)  # fmt: skip
_GOODS = ("pen", "book", "cup", "cap", "lamp", "toy", "map", "bag", "kite", "fan", "ring", "hat")
_PLACES = ("school", "the lake", "the market", "the park", "work", "the pool", "the farm", "the city")
_PRODUCTS = ("boxes", "letters", "bags", "parcels", "jars", "baskets")

_NAMES = tuple(name for name, _ in _PEOPLE)


class _Redraw(Exception):
    """The values drawn lead out of range; draw others."""


class _Story:
    """A problem while it is being written: its sentences, its steps and the two random streams."""

    def __init__(self, shape: random.Random, values: random.Random) -> None:
        self.shape = shape
        self.values = values
        self.sentences: list[str] = []
        self.steps: list[str] = []
        self.answer = 0
        self._people = values.sample(_PEOPLE, 4)
        self._things = values.sample(_THINGS, 3)

    def person(self, index: int = 0) -> str:
        return self._people[index][0]

    def pronoun(self, index: int = 0) -> str:
        return self._people[index][1]

    def things(self, index: int = 0) -> str:
        return self._things[index]

    def number(self, low: int, high: int) -> int:
        return self.values.randint(low, high)

    def pick(self, *options: T) -> T:
        """Choose a wording or a turn of the story (part of the shape)."""
        return self.shape.choice(options)

    def chance(self, probability: float) -> bool:
        return self.shape.random() < probability

    def say(self, *options: str) -> None:
        self.sentences.append(self.pick(*options))

    def step(self, sentence: str, left: int, operator: Operator, right: int) -> int:
        """Write one step and return its value; ``{}`` in the sentence is where the computation stands."""
        value = _compute(left, operator, right)
        self.steps.append(sentence.format(f"{left}{operator}{right}={value}"))
        self.answer = value
        return value


def _compute(left: int, operator: Operator, right: int) -> int:
    if operator == "/" and left % right:
        raise _Redraw
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
    if not 1 <= value <= MAX_VALUE:
        raise _Redraw
    return value


# --- the families -------------------------------------------------------------------------------------------


def _chain(story: _Story) -> None:
    """Things come and go, one after the other."""
    name, things = story.person(), story.things()
    has = f"{name} has {{}} {things}."
    amount = story.number(8, 80)
    story.say(f"{name} has {amount} {things}.", f"At first {name} has {amount} {things}.")
    if story.chance(0.3):
        story.say(f"{story.person(1)} has {story.number(3, 60)} {story.things(1)}.")
    for _ in range(story.pick(2, 3, 4, 4, 5, 6)):
        change, pronoun, other = story.number(3, 50), story.pronoun(), story.person(story.pick(1, 2, 3))
        match story.pick("more", "more", "less", "less", "twice", "half"):
            case "more":
                story.say(
                    f"Then {pronoun} buys {change} more.",
                    f"{other} gives {name} {change} more.",
                    f"Then {pronoun} finds {change} {things}.",
                )
                amount = story.step(has, amount, "+", change)
            case "less":
                story.say(
                    f"Then {pronoun} loses {change} of them.",
                    f"{name} gives {change} of them to {other}.",
                    f"Then {pronoun} sells {change} {things}.",
                )
                amount = story.step(has, amount, "-", change)
            case "twice":
                story.say(f"Then {pronoun} doubles the number of {things}.")
                amount = story.step(has, amount, "*", 2)
            case "half":
                story.say(f"Then {pronoun} gives half of them to {other}.")
                amount = story.step(has, amount, "/", 2)
    story.say(f"How many {things} does {name} have now?", f"How many {things} does {name} have in the end?")


def _compare(story: _Story) -> None:
    """Two to four people's amounts, each told by way of another's, in any order."""
    things = story.things()
    count = story.pick(2, 3, 3, 4)
    amounts = [story.number(3, 30)]
    facts = [f"{story.person()} has {amounts[0]} {things}."]
    for index in range(1, count):
        name, other = story.person(index), story.person(index - 1)
        has = f"{name} has {{}} {things}."
        match story.pick("more", "fewer", "times"):
            case "more":
                change = story.number(2, 30)
                facts.append(f"{name} has {change} more {things} than {other}.")
                amounts.append(story.step(has, amounts[-1], "+", change))
            case "fewer":
                change = story.number(2, 20)
                facts.append(f"{name} has {change} fewer {things} than {other}.")
                amounts.append(story.step(has, amounts[-1], "-", change))
            case "times":
                factor = story.number(2, 5)
                facts.append(f"{name} has {factor} times as many {things} as {other}.")
                amounts.append(story.step(has, amounts[-1], "*", factor))
    story.shape.shuffle(facts)
    story.sentences.extend(facts)
    _ask_comparison(story, amounts)


def _ask_comparison(story: _Story, amounts: Sequence[int]) -> None:
    things, last = story.things(), len(amounts) - 1
    match story.pick("together", "difference", "all"):
        case "difference":
            high, low = (last, 0) if amounts[last] > amounts[0] else (0, last)
            story.say(f"How many more {things} does {story.person(high)} have than {story.person(low)}?")
            sentence = f"{story.person(high)} has {{}} more {things} than {story.person(low)}."
            story.step(sentence, amounts[high], "-", amounts[low])
        case "together":
            story.say(f"How many {things} do {story.person(0)} and {story.person(last)} have together?")
            story.step(f"Together they have {{}} {things}.", amounts[0], "+", amounts[last])
        case "all":
            story.say(f"How many {things} do they all have together?")
            total = amounts[0]
            for amount in amounts[1:]:
                total = story.step(f"Together that is {{}} {things}.", total, "+", amount)


def _money(story: _Story) -> None:
    """Several of each ware, paid with one note."""
    name = story.person()
    wares = story.values.sample(_GOODS, 3)
    bought = story.pick(1, 2, 2, 2, 3)
    prices = [story.number(2, 12) for _ in wares]
    numbers = [story.number(2, 8) for _ in wares]
    shown = bought if bought == 3 or story.chance(0.7) else bought + 1
    costs = [f"a {ware} costs {price} dollars" for ware, price in zip(wares, prices, strict=True)]
    story.sentences.append(_join(story.shape.sample(costs[:shown], shown)).capitalize() + ".")
    basket = [f"{number} {ware}s" for ware, number in zip(wares, numbers, strict=True)][:bought]
    story.say(f"{name} buys {_join(basket)}.", f"{name} takes {_join(basket)}.")
    total = 0
    for ware, price, number in zip(wares[:bought], prices, numbers, strict=False):
        cost = story.step(f"The {ware}s cost {{}} dollars.", price, "*", number)
        total = story.step("All this costs {} dollars.", total, "+", cost) if total else cost
    if bought == 1 or story.chance(0.6):
        paid = story.values.choice([20, 30, 40, 50, 60, 70, 80, 100])
        story.say(f"{name} has {paid} dollars.", f"{story.pronoun().capitalize()} pays with {paid} dollars.")
        story.say(f"How many dollars does {name} have left?", f"How many dollars are left for {name}?")
        story.step(f"{name} has {{}} dollars left.", paid, "-", total)
    else:
        story.say(f"How many dollars does {name} pay?", "How many dollars is that in all?")


def _share(story: _Story) -> None:
    """A stock is dealt out: evenly among children, or round by round between two."""
    if story.chance(0.35):
        _deal_rounds(story)
    else:
        _share_evenly(story)


def _share_evenly(story: _Story) -> None:
    name, things = story.person(), story.things()
    there = f"There are {{}} {things}."
    if story.chance(0.5):
        first, second = story.number(5, 60), story.number(5, 60)
        story.say(f"{name} has {first} {things} in one box and {second} in another.")
        stock = story.step(there, first, "+", second)
    else:
        bags, size = story.number(2, 9), story.number(3, 15)
        story.say(
            f"{name} has {bags} bags of {size} {things} each.",
            f"{name} opens {bags} bags with {size} {things} each.",
        )
        stock = story.step(there, size, "*", bags)
    children = story.number(2, 9)
    if story.chance(0.5):
        lost = story.number(2, 30)
        story.say(f"{lost} of them are bad and are thrown away.", f"{name} keeps {lost} of them.")
        stock = story.step(f"{{}} {things} are left.", stock, "-", lost)
        story.say(
            f"The rest is shared equally among {children} children.",
            f"{children} children share the rest equally.",
        )
    else:
        story.say(
            f"They are shared equally among {children} children.",
            f"{children} children share them equally.",
        )
    each = story.step(f"Each child gets {{}} {things}.", stock, "/", children)
    _finish_share(story, "each child", "Each child", each, story.pick("plain", "loses", "had"))


def _deal_rounds(story: _Story) -> None:
    """The number of rounds is told; in ``parts`` it has to be found."""
    things = story.things()
    one, two = _tell_dealing(story)
    rounds = story.number(2, 12)
    story.say(f"This happens {rounds} times.", f"They do this {rounds} times.")
    if story.chance(0.3):
        story.say(f"How many {things} do they get in all?")
        each_round = story.step(f"Each time they get {{}} {things}.", one, "+", two)
        story.step(f"In all they get {{}} {things}.", each_round, "*", rounds)
    else:
        person, share = story.pick(0, 1), (one, two)
        asked = story.person(person)
        got = story.step(f"{asked} gets {{}} {things}.", share[person], "*", rounds)
        _finish_share(story, asked, asked, got, story.pick("loses", "had"))


def _tell_dealing(story: _Story) -> tuple[int, int]:
    """Say how many each of two people gets a round, and return both numbers, which differ."""
    first, second = story.person(0), story.person(1)
    one, two = story.number(1, 9), story.number(1, 9)
    if one == two:
        raise _Redraw
    story.say(
        f"Each time {first} gets {one}, {second} gets {two}.",
        f"For every {one} that {first} gets, {second} gets {two}.",
    )
    return one, two


def _finish_share(story: _Story, who: str, subject: str, got: int, ending: str) -> None:
    """Ask for a share as it is, or after something came or went."""
    things = story.things()
    match ending:
        case "plain":
            story.say(f"How many {things} does {who} get?")
        case "loses":
            if got < 2:
                raise _Redraw
            lost = story.number(1, min(20, got - 1))
            story.say(f"{subject} loses {lost} of them. How many {things} does {who} have left?")
            story.step(f"{subject} has {{}} {things} left.", got, "-", lost)
        case "had":
            before = story.number(2, 40)
            story.say(f"{subject} had {before} {things} before. How many {things} does {who} have now?")
            story.step(f"{subject} has {{}} {things}.", got, "+", before)


def _work(story: _Story) -> None:
    """Two people work side by side, each at a speed of their own."""
    product = story.values.choice(_PRODUCTS)
    names = story.person(0), story.person(1)
    speeds = story.number(2, 9), story.number(2, 9)
    story.say(
        f"{names[0]} packs {speeds[0]} {product} an hour and {names[1]} packs {speeds[1]} {product} an hour.",
        f"In one hour {names[0]} packs {speeds[0]} {product} and {names[1]} packs {speeds[1]}.",
    )
    match story.pick("both", "one", "goal"):
        case "both":
            both = story.step(f"In an hour they pack {{}} {product}.", speeds[0], "+", speeds[1])
            hours = story.number(2, 9)
            story.say(f"They work for {hours} hours.", f"Both work for {hours} hours.")
            packed = story.step(f"In {hours} hours they pack {{}} {product}.", both, "*", hours)
            _finish_packing(story, product, packed, story.pick("plain", "before", "broken"))
        case "one":
            person, hours = story.pick(0, 1), story.number(2, 9)
            story.say(f"{names[person]} works for {hours} hours.")
            sentence = f"In {hours} hours {names[person]} packs {{}} {product}."
            packed = story.step(sentence, speeds[person], "*", hours)
            _finish_packing(story, product, packed, story.pick("before", "broken"))
        case "goal":
            both = story.step(f"In an hour they pack {{}} {product}.", speeds[0], "+", speeds[1])
            goal = story.number(20, MAX_VALUE)
            story.say(f"They have to pack {goal} {product}.", f"There are {goal} {product} to pack.")
            if story.chance(0.5):
                done = story.number(5, 60)
                story.say(f"{done} {product} are packed before they start.")
                goal = story.step(f"{{}} {product} are left.", goal, "-", done)
            story.say("How many hours do they need?", "How many hours does that take?")
            story.step("They need {} hours.", goal, "/", both)


def _finish_packing(story: _Story, product: str, packed: int, ending: str) -> None:
    match ending:
        case "plain":
            story.say(f"How many {product} do they pack?")
        case "before":
            before = story.number(3, 60)
            story.say(f"{before} {product} were packed before. How many {product} are packed now?")
            story.step(f"{{}} {product} are packed.", packed, "+", before)
        case "broken":
            broken = story.number(2, 30)
            story.say(f"{broken} of the {product} break. How many {product} are left?")
            story.step(f"{{}} {product} are left.", packed, "-", broken)


def _daily(story: _Story) -> None:
    """So many pages or miles a day, for some days."""
    if story.chance(0.6):
        _read(story)
    else:
        _walk(story)


def _read(story: _Story) -> None:
    name, pronoun = story.person(), story.pronoun()
    pages = story.number(40, MAX_VALUE)
    daily, days = story.number(3, 15), story.number(2, 9)
    story.say(f"{name} reads a book of {pages} pages.", f"{name} has a book with {pages} pages.")
    if story.chance(0.3):
        story.say(f"{story.person(1)} reads a book of {story.number(40, MAX_VALUE)} pages.")
    story.say(
        f"{name} reads {daily} pages a day for {days} days.",
        f"On {days} days {pronoun} reads {daily} pages each.",
    )
    done = story.step(f"On {days} days {name} reads {{}} pages.", daily, "*", days)
    if story.chance(0.5):
        more = story.number(3, 40)
        story.say(
            f"Then {pronoun} reads {more} pages on Sunday.", f"After that {pronoun} reads {more} more pages."
        )
        done = story.step(f"{name} has read {{}} pages.", done, "+", more)
    left = story.step("{} pages are left.", pages, "-", done)
    if story.chance(0.4):
        speed = story.number(2, 9)
        story.say(f"The rest {pronoun} reads at {speed} pages a day. How many more days does {name} need?")
        story.step(f"{name} needs {{}} more days.", left, "/", speed)
    else:
        story.say("How many pages are left?", f"How many pages does {name} still have to read?")


def _walk(story: _Story) -> None:
    name = story.person()
    verb = story.pick("walks", "rides", "drives")
    daily, days = story.number(2, 30), story.number(2, 7)
    story.say(
        f"On {days} days {name} {verb} {daily} miles each.",
        f"{name} {verb} {daily} miles a day for {days} days.",
    )
    total = story.step(f"On {days} days {name} {verb} {{}} miles.", daily, "*", days)
    _finish_miles(story, verb, total, story.pick("more", "goal"))


def _finish_miles(story: _Story, verb: str, total: int, question: str) -> None:
    match question:
        case "plain":
            story.say("How many miles is that in all?")
        case "more":
            more = story.number(3, 40)
            story.say(f"On Sunday {story.pronoun()} {verb} {more} miles more. How many miles is that in all?")
            story.step("In all that is {} miles.", total, "+", more)
        case "goal":
            goal = story.number(40, MAX_VALUE)
            story.say(f"{story.person()} wants to make {goal} miles. How many miles are left?")
            story.step("{} miles are left.", goal, "-", total)


def _trip(story: _Story) -> None:
    """A way there and back, on several days: every day counts the way twice."""
    name, place = story.person(), story.values.choice(_PLACES)
    way, days = story.number(2, 15), story.number(2, 7)
    verb = story.pick("walks", "rides", "drives")
    story.say(
        f"The way from home to {place} is {way} miles.",
        f"It is {way} miles from home to {place}.",
    )
    story.say(
        f"On {days} days {name} {verb} there and back.",
        f"{name} {verb} there and back on {days} days.",
    )
    both = story.step("There and back is {} miles.", way, "*", 2)
    total = story.step(f"On {days} days {name} {verb} {{}} miles.", both, "*", days)
    _finish_miles(story, verb, total, story.pick("plain", "more", "goal"))


def _parts(story: _Story) -> None:
    """Two people share by a ratio until all is dealt out: the number of rounds has to be found."""
    things = story.things()
    total_at = len(story.sentences)
    one, two = _tell_dealing(story)
    total = _compute(story.number(2, 12), "*", one + two)
    first, second = story.person(0), story.person(1)
    sentence = story.pick(
        f"{first} and {second} share {total} {things}.",
        f"There are {total} {things} for {first} and {second}.",
    )
    story.sentences.insert(total_at, sentence)
    each_round = story.step(f"Each time they get {{}} {things}.", one, "+", two)
    times = story.step("This happens {} times.", total, "/", each_round)
    person, share = story.pick(0, 1), (one, two)
    asked = story.person(person)
    got = story.step(f"{asked} gets {{}} {things}.", share[person], "*", times)
    _finish_share(story, asked, asked, got, story.pick("plain", "loses", "had"))


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


_FAMILIES: Mapping[str, Callable[[_Story], None]] = {
    "chain": _chain,
    "compare": _compare,
    "money": _money,
    "share": _share,
    "work": _work,
    "daily": _daily,
    "trip": _trip,
    "parts": _parts,
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
HELD_BACK: frozenset[str] = frozenset({"trip", "parts"})
"""The families the embedded student has not seen in pre-training: the skill that is left to learn."""


# --- drawing, splitting, naming -----------------------------------------------------------------------------

_MASKED = re.compile(r"\b(?:" + "|".join(sorted({*_NAMES, *_THINGS, *_PRODUCTS})) + r")\b")
_MASKED_WARES = re.compile(r"\b(?:" + "|".join(_GOODS) + r")s?\b")


def normalize_question(text: str) -> str:
    """Return the question with names, pronouns and things masked: what is left is sentences and numbers."""
    masked = _MASKED_WARES.sub("ware", _MASKED.sub("x", text))
    masked = re.sub(r"\b(?:she|he)\b", "they", masked, flags=re.IGNORECASE)
    return " ".join(masked.lower().split())


def find_split(text: str) -> Split:
    """Return the split that a question belongs to, by the hash of its normalized text."""
    digest = hashlib.sha256(normalize_question(text).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    return next(split for split, buckets in SPLIT_BOUNDS.items() if bucket in buckets)


def generate_questions(
    split: Split, count: int, seed: int = 0, mix: Mapping[str, float] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield ``count`` distinct questions of a split, families interleaved.

    The n-th question of a family depends on (split, family, seed, n) alone: another ``count`` or ``mix``
    gives more or fewer of the same questions under the same ids.

    Args:
        split: Where the questions come from.
        count: How many, over all families.
        seed: Another seed gives other questions.
        mix: Weight of each family, any positive scale; a family left out is not drawn. None: equal shares.

    Raises:
        ValueError: If a split or a family does not exist, or no weight is positive.
    """
    weights = dict.fromkeys(FAMILIES, 1.0) if mix is None else {name: w for name, w in mix.items() if w > 0}
    if split not in SPLIT_BOUNDS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLIT_BOUNDS)}")
    if unknown := sorted(set(weights) - set(FAMILIES)):
        raise ValueError(f"unknown families {', '.join(unknown)}; the families are {', '.join(FAMILIES)}")
    if not weights:
        raise ValueError("no family has a positive weight")
    streams = {family: _draw_family(split, family, seed) for family in weights}
    drawn = dict.fromkeys(weights, 0)
    for _ in range(count):
        # The family furthest behind its share comes next: even shares at every count, no randomness.
        family = min(weights, key=lambda name: (drawn[name] + 1) / weights[name])
        drawn[family] += 1
        yield next(streams[family])


def generate_variant(question: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Return a question of the same split, family and shape with other names, things and numbers."""
    split, tags = question["split"], question["tags"]
    for attempt in range(10_000):
        values = random.Random(f"variant/{question['id']}/{seed}/{attempt}")
        story = _tell(tags["family"], tags["shape"], values)
        if story is None:
            continue
        text = " ".join(story.sentences)
        if find_split(text) == split and text != question["question"]:
            return _to_record(story, f"{question['id']}/variant-{seed}", split, tags["family"], tags["shape"])
    raise ValueError(f"no variant of {question['id']} found")


def _draw_family(split: Split, family: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the questions of one family in their fixed order, none twice (names and things masked)."""
    seen: set[str] = set()
    source = random.Random(f"{DATASET}/{split}/{family}/{seed}")
    for position in range(1_000_000):
        while True:
            shape = f"{source.getrandbits(48):012x}"
            story = _tell(family, shape, random.Random(source.getrandbits(48)))
            if story is None or find_split(text := " ".join(story.sentences)) != split:
                continue
            if (normalized := normalize_question(text)) not in seen:
                break
        seen.add(normalized)
        yield _to_record(story, f"{DATASET}/{split}/{family}-{seed}-{position:06d}", split, family, shape)


def _tell(family: str, shape: str, values: random.Random) -> _Story | None:
    """Return a told story, or None if the values drawn lead out of range."""
    story = _Story(random.Random(shape), values)
    try:
        _FAMILIES[family](story)
    except _Redraw:
        return None
    return story


def _to_record(story: _Story, question_id: str, split: Split, family: str, shape: str) -> dict[str, Any]:
    return {
        "id": question_id,
        "dataset": DATASET,
        "split": split,
        "question": " ".join(story.sentences),
        "gold_answer": str(story.answer),
        "gold_rationale": "\n".join(story.steps),
        "choices": None,
        "tags": {
            "family": family,
            "steps": str(len(story.steps)),
            "held_back": "yes" if family in HELD_BACK else "no",
            "shape": shape,
        },
    }
