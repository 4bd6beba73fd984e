"""Votes, selections, early stopping and second tries against their closed forms.

``python -m benchmarks.theory``: the real engine answers questions with a simulated model that is
right with a known probability. How often it is right then, and on how many samples, follows from
arithmetic (`benchmarks.closed_forms`), and so does what second tries gain (`benchmarks.hedging`).
Ends with status 1 where anything is off by more than four standard errors, which chance does once
in 16,000 times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt
from typing import Any

import uvloop

from benchmarks import closed_forms, hedging
from benchmarks.closed_forms import Expected, Row, Stops
from benchmarks.figures import aligned
from benchmarks.in_memory import MODEL, TEAM, OneByOne, Ratings, conversation
from optictl.simulator import Behaviour, gold
from optictl.simulator.replies import same

LIMIT = 4.0
_HEADING = ("case", "questions", "measured", "s.e.", "exact", "z")
#: Short replies: their length is no part of the theory.
_TOKENS = 4
_CONFIDENCE = 0.95
#: How ``stop=beta`` and ``stop=dirichlet`` draw so many samples.
_WAVES: Mapping[int, Sequence[int]] = {16: (4, 3, 3, 6), 40: (4, 3, 3, 5, 7, 11, 7)}
#: p, n, and how often a judge accepts a right and a wrong answer.
BINARY = ((0.5, 3, 0.8, 0.3), (0.3, 8, 0.9, 0.2), (0.6, 5, 0.7, 0.5))
#: A judge that gives a right answer 7 of 10 on average, and a wrong one 4.
ELEVEN: Ratings = (
    [comb(10, k) * 0.7**k * 0.3 ** (10 - k) for k in range(11)],
    [comb(10, k) * 0.4**k * 0.6 ** (10 - k) for k in range(11)],
)

#: Of the latencies among which some are tried a second time.
SHAPES = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: how rightly it was answered, and the answers looked at on the way.

    ``begun`` calls were made; ``stream`` is what the model would have said to the last sample.
    """

    score: float
    answer: str
    landed: Sequence[str]
    begun: int
    stream: Sequence[str]


@dataclass(frozen=True, slots=True)
class Case:
    """An approach with its options, the model it works with, and what theory says of it."""

    name: str
    slug: str
    options: Mapping[str, Any]
    behaviour: Mapping[str, Any]
    expected: Callable[[], Expected]
    model: str = MODEL
    #: How often the ensemble's aggregator is right.
    strong: float | None = None
    #: A judge that rates in whole numbers, in place of the simulated one.
    ratings: Ratings | None = None
    #: For votes: where they end, also with a window that agrees; in which waves they draw, where
    #: that is held to theory; and whether their winner is that of all samples.
    stops: Stops | None = None
    window: int = 0
    waves: Sequence[int] = ()
    lossless: bool = False
    #: How often the model states no answer.
    void: float = 0.0
    #: How many choices are asked for, and of how many of them one has to be right.
    choices: int = 1
    drawn: int = 1

    @property
    def samples(self) -> int:
        most: int = self.options["samples"]
        return most

    def over(self, landed: Sequence[str]) -> bool:
        """Whether the vote ends with these answers."""
        seen = len(landed)
        if self.window and seen % self.window == 0 and len(set(landed[-self.window :])) == 1:
            return True
        ballots = tuple(Counter(filter(None, landed)).values())
        return seen == self.samples or (
            self.stops is not None and self.stops(ballots, self.samples - seen)
        )


def vote(p: float, distractors: Sequence[float], n: int, void: float = 0.0) -> Case:
    """``self_consistency`` as it is by default: curtailed, which costs no accuracy."""
    return Case(
        name=f"vote of {n}, {_chances(p, distractors)}" + (f", {void:g} void" if void else ""),
        slug="self_consistency",
        options={"samples": n},
        behaviour=_solver(p, distractors),
        expected=lambda: closed_forms.race(p, distractors, n, closed_forms.decided, void=void),
        stops=closed_forms.decided,
        lossless=True,
        void=void,
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
        waves=_WAVES[n],
    )


def likeliest(p: float, distractors: Sequence[float], n: int) -> Case:
    """``stop=dirichlet``, among several."""
    stops = closed_forms.until_likeliest(_CONFIDENCE)
    return Case(
        name=f"dirichlet {_CONFIDENCE:g} of {n}, {_chances(p, distractors)}",
        slug="self_consistency",
        options={"samples": n, "stop": "dirichlet", "confidence": _CONFIDENCE},
        behaviour=_solver(p, distractors),
        expected=lambda: closed_forms.race(p, distractors, n, stops),
        stops=stops,
        waves=_WAVES[n],
    )


def unanimous(p: float, distractors: Sequence[float], n: int, window: int) -> Case:
    """``stop=esc``, curtailed."""
    decided = closed_forms.decided
    return Case(
        name=f"windows of {window} of {n}, {_chances(p, distractors)}",
        slug="self_consistency",
        options={"samples": n, "stop": "esc", "window": window},
        behaviour=_solver(p, distractors),
        expected=lambda: closed_forms.race(p, distractors, n, decided, window=window),
        stops=decided,
        window=window,
        waves=[window] * (n // window),
    )


def best(p: float, n: int, separation: float) -> Case:
    """``bon`` with the simulated judge, Gaussian on its scale."""
    judge = tuple(closed_forms.ratings(seen, separation) for seen in (separation, 0.0))
    return Case(
        name=f"best of {n}, {p:g}, judge d = {separation:g}",
        slug="bon",
        options={"samples": n},
        behaviour={**_solver(p, [1 - p]), "judge_separation": separation},
        expected=lambda: Expected(closed_forms.best_of(n, p, *judge), 2 * n),
    )


def best_rated(p: float, n: int, name: str, ratings: Ratings) -> Case:
    """``bon`` with a judge that rates in whole numbers."""
    return Case(
        name=f"best of {n}, {p:g}, {name}",
        slug="bon",
        options={"samples": n},
        behaviour=_solver(p, [1 - p]),
        expected=lambda: Expected(closed_forms.best_of(n, p, *ratings), 2 * n),
        ratings=ratings,
    )


def best_accepted(p: float, n: int, accepted: float, mistaken: float) -> Case:
    """The same with one that only says yes or no."""
    ratings = ((1 - accepted, accepted), (1 - mistaken, mistaken))
    case = best_rated(p, n, f"judge accepts {accepted:g} and {mistaken:g}", ratings)
    chance = closed_forms.best_accepted(n, p, accepted, mistaken)
    return replace(case, expected=lambda: Expected(chance, 2 * n))


def knockout(p: float, distractors: Sequence[float], rounds: int, judges: int, d: float) -> Case:
    """``genselect`` in pairs."""
    preferred = closed_forms.prefers(d)
    return Case(
        name=f"knockout of {2**rounds}, {_chances(p, distractors)}, judges {judges} × d = {d:g}",
        slug="genselect",
        options={"samples": 2**rounds, "mode": "tournament", "selections": judges},
        behaviour={**_solver(p, distractors), "judge_separation": d},
        expected=lambda: closed_forms.tournament(p, distractors, rounds, preferred, judges),
    )


def cascaded(p: float, distractors: Sequence[float], m: int, strong: float) -> Case:
    """``cascade`` in an ensemble whose aggregator does not look at the samples."""
    return Case(
        name=f"cascade of {m}, {_chances(p, distractors)}, then {strong:g}",
        slug="cascade",
        options={"samples": m, "escalate": "none"},
        behaviour=_solver(p, distractors),
        expected=lambda: closed_forms.cascade(p, distractors, m, strong),
        model=TEAM,
        strong=strong,
    )


def mixture(p: float, distractors: Sequence[float], n: int, skill: float) -> Case:
    """``moa`` without its critic."""
    return Case(
        name=f"mixture of {n}, {_chances(p, distractors)}, skill {skill:g}",
        slug="moa",
        options={"samples": n, "critique": False},
        behaviour={**_solver(p, distractors), "aggregator_skill": skill},
        expected=lambda: closed_forms.mixture(p, distractors, n, skill),
    )


def passed(p: float, n: int, k: int) -> Case:
    """pass@k, estimated from the choices of a plain request."""
    return Case(
        name=f"pass@{k} of {n} choices, {p:g}",
        slug="none",
        options={},
        behaviour=_solver(p, [1 - p]),
        expected=lambda: closed_forms.attempts(p, n, k),
        choices=n,
        drawn=k,
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
        vote(0.6, [0.4], 5, void=0.25),
        vote(0.5, [0.2, 0.2, 0.1], 8, void=0.5),
        vote(0.8, [0.2], 2, void=0.75),
        best(0.5, 3, 1.0),
        best(0.3, 8, 1.5),
        best(0.6, 5, 0.5),
        best(0.6, 5, 4.0),
        best(0.3, 3, 0.0),
        *(best_accepted(*judged) for judged in BINARY),
        best_rated(0.6, 5, "judge of 0 to 10", ELEVEN),
        *(adaptive(p, n) for n in (16, 40) for p in (0.5, 0.6, 0.7, 0.8)),
        likeliest(0.6, [0.2, 0.2], 16),
        likeliest(0.5, [0.2, 0.2, 0.1], 16),
        unanimous(0.7, [0.3], 40, 5),
        unanimous(0.9, [0.05, 0.05], 40, 5),
        unanimous(0.8, [0.1, 0.1], 16, 4),
        knockout(0.4, [0.6], 3, 1, 0.7416),
        knockout(0.4, [0.6], 2, 3, 0.7416),
        knockout(0.3, [0.4, 0.3], 2, 1, 0.3583),
        cascaded(0.7, [0.3], 3, 0.9),
        cascaded(0.6, [0.2, 0.2], 2, 0.8),
        mixture(0.6, [0.4], 5, 0.8),
        passed(0.3, 8, 1),
        passed(0.3, 8, 3),
        passed(0.1, 8, 5),
        passed(0.2, 4, 4),
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
    spread = p * (1 - p) if expected.spread is None else expected.spread
    rows = [row("accuracy", sum(one.score for one in asked) / questions, spread, p)]
    if case.stops is None:
        begun = sum(one.begun for one in asked) / questions
        rows.append(row("calls", begun, max(0.0, expected.variance), expected.samples))
    else:
        looked_at = sum(len(one.landed) for one in asked) / questions
        rows.append(row("samples", looked_at, max(0.0, expected.variance), expected.samples))
        elsewhere = sum(not _ended_where(case, one) for one in asked)
        rows.append(row("ended elsewhere", elsewhere, 0.0, 0.0))
    if case.waves:
        paid = expected.in_waves(case.waves)
        begun = sum(one.begun for one in asked) / questions
        rows.append(row("calls", begun, max(0.0, paid.variance), paid.samples))
    if case.lossless:
        unlike = sum(not same(one.answer, _winner(one.stream)) for one in asked)
        rows.append(row("unlike the full vote", unlike, 0.0, 0.0))
    return rows


async def _ask(case: Case, behaviour: Behaviour, questions: int) -> list[Asked]:
    strong = None if case.strong is None else replace(behaviour, probability=case.strong)
    upstream = OneByOne(behaviour, strong=strong, ratings=case.ratings, void=case.void)
    asked = []
    async with conversation(upstream) as proxy:
        for number in range(questions):
            question = f"What is {number + 17} * 23 + 5?"
            upstream.forget()
            answers = await proxy.ask(case.slug, question, case.options, case.model, case.choices)
            landed = tuple(upstream.landed)
            stream = upstream.stream_of(case.samples) if case.lossless else ()
            right = sum(same(answer, gold(question)) for answer in answers)
            score = closed_forms.pass_at(case.drawn, case.choices, right)
            asked.append(Asked(score, answers[0], landed, upstream.begun, stream))
    return asked


def _ended_where(case: Case, one: Asked) -> bool:
    """Whether the vote ended with the first sample that could end it, and not before."""
    landed = one.landed
    return all(
        case.over(landed[:seen]) == (seen == len(landed)) for seen in range(1, len(landed) + 1)
    )


def _winner(stream: Sequence[str]) -> str:
    """The most frequent answer, the first seen of equals; '' without any."""
    votes = Counter(filter(None, stream))
    return max(votes, key=votes.__getitem__, default="")


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
    for nth, sigma in enumerate(SHAPES):
        print(f"second tries, σ = {sigma:g} …", file=sys.stderr, flush=True)
        rows += hedging.compare(sigma, 10 * asked.questions, asked.seed + nth)
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
