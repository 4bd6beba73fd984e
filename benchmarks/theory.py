"""Votes, best of n and adaptive stopping against their closed forms.

``python -m benchmarks.theory``: the real engine answers questions with a simulated model that is
right with a known probability. How often it is right then, and on how many samples, follows from
arithmetic (`benchmarks.closed_forms`). Ends with status 1 where anything is off by more than four
standard errors, which chance does once in 16,000 times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import copysign, inf, sqrt
from typing import Any

import uvloop

from benchmarks import closed_forms
from benchmarks.closed_forms import Expected, Stops
from benchmarks.figures import aligned
from benchmarks.in_memory import OneByOne, conversation
from optictl.simulator import Behaviour, gold
from optictl.simulator.replies import same

LIMIT = 4.0
_HEADING = ("case", "questions", "measured", "s.e.", "exact", "z")
#: Short replies: their length is no part of the theory.
_TOKENS = 4
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: whether it was answered rightly, and the answers looked at on the way.

    ``stream`` is what the model would have said to the very last sample.
    """

    right: bool
    answer: str
    landed: Sequence[str]
    stream: Sequence[str]


@dataclass(frozen=True, slots=True)
class Case:
    """An approach with its options, the model it works with, and what theory says of it."""

    name: str
    slug: str
    options: Mapping[str, Any]
    behaviour: Mapping[str, Any]
    expected: Callable[[], Expected]
    #: For votes: where they end, and whether their winner is that of all samples.
    stops: Stops | None = None
    lossless: bool = False

    @property
    def samples(self) -> int:
        most: int = self.options["samples"]
        return most


@dataclass(frozen=True, slots=True)
class Row:
    """A mean beside its expectation; ``error`` is the standard error that theory gives it."""

    name: str
    questions: int
    measured: float
    error: float
    exact: float

    @property
    def z(self) -> float:
        """By how many standard errors it is off."""
        off = self.measured - self.exact
        if abs(off) < 1e-9:
            return 0.0
        return off / self.error if self.error else copysign(inf, off)

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.name, str(self.questions), f"{self.measured:.4f}", f"{self.error:.4f}",
            f"{self.exact:.4f}", f"{self.z:+.2f}",
        )  # fmt: skip


def vote(p: float, distractors: Sequence[float], n: int) -> Case:
    """``self_consistency`` as it is by default: curtailed, which costs no accuracy."""
    return Case(
        name=f"vote of {n}, {_chances(p, distractors)}",
        slug="self_consistency",
        options={"samples": n},
        behaviour=_solver(p, distractors),
        expected=lambda: closed_forms.race(p, distractors, n, closed_forms.decided),
        stops=closed_forms.decided,
        lossless=True,
    )


def adaptive(p: float, n: int) -> Case:
    """``stop=beta``, between two answers."""
    stops = closed_forms.until_likely(_CONFIDENCE, n)
    return Case(
        name=f"beta {_CONFIDENCE:g} of {n}, {_chances(p, [1 - p])}",
        slug="self_consistency",
        options={"samples": n, "stop": "beta", "confidence": _CONFIDENCE},
        behaviour=_solver(p, [1 - p]),
        expected=lambda: closed_forms.race(p, [1 - p], n, stops),
        stops=stops,
    )


def best(p: float, n: int, separation: float) -> Case:
    """``bon`` with a noisy judge."""
    return Case(
        name=f"best of {n}, {p:g}, judge d = {separation:g}",
        slug="bon",
        options={"samples": n},
        behaviour={**_solver(p, [1 - p]), "judge_separation": separation},
        expected=lambda: closed_forms.best_of(n, p, separation),
    )


def cases() -> list[Case]:
    """The rows of the published tables, and some more."""
    return [
        *(vote(0.6, [0.4], n) for n in (1, 3, 5, 8, 17)),
        vote(0.7, [0.3], 9),
        vote(0.8, [0.2], 5),
        vote(0.5, [0.2, 0.2, 0.1], 8),
        vote(0.4, [0.3, 0.3], 5),
        vote(0.3, [0.1] * 7, 16),
        vote(0.35, [0.4, 0.25], 40),
        best(0.5, 3, 1.0),
        best(0.3, 8, 1.5),
        best(0.6, 5, 0.5),
        best(0.6, 5, 4.0),
        best(0.3, 3, 0.0),
        *(adaptive(p, n) for n in (16, 40) for p in (0.5, 0.6, 0.7, 0.8)),
    ]


def compare(case: Case, questions: int, seed: int) -> list[Row]:
    """Ask so many questions and set what came out beside what theory says."""
    behaviour = Behaviour(**case.behaviour, tokens=_TOKENS, seed=seed)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        asked = runner.run(_ask(case, behaviour, questions))
    expected = case.expected()

    def row(what: str, measured: float, variance: float, exact: float) -> Row:
        name = f"{case.name}: {what}"
        return Row(name, questions, measured, sqrt(variance / questions), exact)

    p = expected.accuracy
    rows = [row("accuracy", sum(one.right for one in asked) / questions, p * (1 - p), p)]
    looked_at = sum(len(one.landed) for one in asked) / questions
    rows.append(row("samples", looked_at, max(0.0, expected.variance), expected.samples))
    if case.stops is not None:
        elsewhere = sum(not _ended_where(case.stops, one, case.samples) for one in asked)
        rows.append(row("ended elsewhere", elsewhere, 0.0, 0.0))
    if case.lossless:
        unlike = sum(not same(one.answer, _winner(one.stream)) for one in asked)
        rows.append(row("unlike the full vote", unlike, 0.0, 0.0))
    return rows


async def _ask(case: Case, behaviour: Behaviour, questions: int) -> list[Asked]:
    upstream = OneByOne(behaviour)
    asked = []
    async with conversation(upstream) as proxy:
        for number in range(questions):
            question = f"What is {number + 17} * 23 + 5?"
            upstream.forget()
            answer = await proxy.ask(case.slug, question, case.options)
            landed = tuple(upstream.landed)
            stream = upstream.stream_of(case.samples) if case.lossless else ()
            asked.append(Asked(same(answer, gold(question)), answer, landed, stream))
    return asked


def _ended_where(stops: Stops, one: Asked, most: int) -> bool:
    """Whether the vote ended with the first sample that could end it, and not before."""
    ballots: Counter[str] = Counter()
    for seen, answer in enumerate(one.landed, start=1):
        ballots[answer] += 1
        over = seen == most or stops(tuple(ballots.values()), most - seen)
        if over != (seen == len(one.landed)):
            return False
    return True


def _winner(stream: Sequence[str]) -> str:
    """The most frequent answer, the first seen of equals."""
    return Counter(stream).most_common(1)[0][0]


def _solver(p: float, distractors: Sequence[float]) -> dict[str, Any]:
    return {"probability": p, "distractors": tuple(distractors)}


def _chances(p: float, distractors: Sequence[float]) -> str:
    if len(set(distractors)) == 1 and len(distractors) > 2:
        return f"({p:g}, {len(distractors)} × {distractors[0]:g})"
    return f"({', '.join(f'{chance:g}' for chance in (p, *distractors))})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    asked = _parser().parse_args(arguments)
    rows: list[Row] = []
    for nth, case in enumerate(cases()):
        print(f"{case.name} …", file=sys.stderr, flush=True)
        rows += compare(case, asked.questions, asked.seed + nth)
    print("\n".join(aligned([_HEADING, *(row.cells for row in rows)])))
    off = [row.name for row in rows if abs(row.z) > LIMIT]
    for name in off:
        print(f"More than {LIMIT:g} standard errors off: {name}", file=sys.stderr)
    return 1 if off else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.theory", description=__doc__)
    parser.add_argument("--questions", type=int, default=1000, help="for each case (1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first case (1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
