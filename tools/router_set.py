"""Questions with what each approach is worth on them: what the router's linear model learns from.

There is no log of real requests to learn from yet, so the set is made: templates over families of
tasks, each with a difficulty, and a model of cost and benefit. A family says what share of a plain
answer's failures an approach mends; a call more costs ``PRICE``, less the more effort is wanted.
The best approach is that of the largest utility. The shares are assumptions in the order of what
the papers report (docs/router-report.md says what follows from that).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

#: The effort at which approaches are compared.
EFFORT = 0.7
#: What a call more costs at no effort, as a share of an answer's worth.
PRICE = 0.1
#: What an answer of each approach costs, in plain calls. A longer prompt or answer counts too.
COSTS: Mapping[str, float] = {
    "none": 1.0,
    "re2": 1.2,
    "cot_reflection": 1.8,
    "leap": 2.0,
    "z3": 3.0,
    "rto": 4.0,
    "plansearch": 5.0,
    "self_consistency": 5.0,
    "moa": 5.0,
    "bon": 6.0,
}
_FILE = Path(__file__).with_suffix(".yaml")
_TRAINED = "train"
_HELD_OUT = "held out"


@dataclass(frozen=True, slots=True)
class Family:
    """Tasks alike: ``mends`` is the share of failures that an approach turns into successes.

    Each template has a difficulty: the probability that a plain answer fails. Of the templates
    every third is held out, and never seen in training.
    """

    name: str
    mends: Mapping[str, float]
    templates: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Example:
    """A question, and each approach's utility on it."""

    family: str
    query: str
    utilities: Mapping[str, float]

    @property
    def best(self) -> str:
        return max(self.utilities, key=self.utilities.__getitem__)

    def regret(self, approach: str) -> float:
        """What is lost by ``approach``, compared with the best; 0 is none."""
        return self.utilities[self.best] - self.utilities[approach]


def trained(number: int, seed: int) -> list[Example]:
    """``number`` examples for each family, from the templates for training."""
    return list(_examples(number, seed, _TRAINED))


def held_out(number: int, seed: int) -> list[Example]:
    """The same from templates that training does not see."""
    return list(_examples(number, seed, _HELD_OUT))


def _examples(number: int, seed: int, part: str) -> Iterator[Example]:
    chance = random.Random(f"{seed} {part}")
    for family in FAMILIES:
        templates = [
            each
            for index, each in enumerate(family.templates)
            if (index % 3 == 2) == (part == _HELD_OUT)
        ]
        for count in range(number):
            difficulty, template = templates[count % len(templates)]
            hard = min(0.95, max(0.02, difficulty + chance.uniform(-0.05, 0.05)))
            query = template.format_map(_Slots(chance))
            yield Example(family.name, query, _utilities(family, hard))


def _utilities(family: Family, difficulty: float) -> dict[str, float]:
    return {
        approach: 1 - difficulty * (1 - family.mends.get(approach, 0.0))
        - PRICE * (1 - EFFORT) * (cost - 1)
        for approach, cost in COSTS.items()
    }  # fmt: skip


class _Slots(dict[str, str]):
    """A word for each slot of a template, drawn anew each time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __missing__(self, slot: str) -> str:
        if slot.startswith("n"):
            return str(self._chance.randint(2, 10 ** int(slot[1:] or 2)))
        return self._chance.choice(_WORDS[slot])


def _read() -> tuple[Mapping[str, Sequence[str]], Sequence[Family]]:
    known = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    families = [
        Family(each["name"], each["mends"], [(hard, text) for hard, text in each["templates"]])
        for each in known["families"]
    ]
    return known["words"], families


_WORDS, FAMILIES = _read()
