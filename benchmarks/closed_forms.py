"""What theory says of the approaches, exact: how often they are right, on how many samples.

A sample is right with probability p, or gives distractor j with probability q_j; samples are
independent. Everything here is counted from scratch and uses none of the code it is to predict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import erf, sqrt

#: The ballots of each class, in the order in which the classes were first seen.
Ballots = tuple[int, ...]
#: Whether a vote ends with these ballots, so many more being possible.
Stops = Callable[[Ballots, int], bool]

#: The simulated judge: points for one standard deviation, the middle of its scale and its ends.
_POINTS, _MIDDLE, _LOWEST, _HIGHEST = 1.25, 5.0, 0, 10
#: It gives two decimals.
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Expected:
    """The probability of a right answer, and mean and variance of the samples looked at."""

    accuracy: float
    samples: float
    variance: float = 0.0


def race(p: float, distractors: Sequence[float], most: int, stops: Stops) -> Expected:
    """A plurality vote, ties to the class seen first, over ``most`` samples or until it stops.

    Forward over the states that the ballots can be in. Distractors of equal probability are
    interchangeable, so a state only says of which kind each class is.
    """
    kinds = [(p, 1), *Counter(distractors).items()]
    running: dict[tuple[Ballots, Ballots], float] = {((), ()): 1.0}
    right = first = second = 0.0
    for drawn in range(most + 1):
        following: defaultdict[tuple[Ballots, Ballots], float] = defaultdict(float)
        for (seen, ballots), mass in running.items():
            if drawn == most or stops(ballots, most - drawn):
                first += mass * drawn
                second += mass * drawn * drawn
                right += mass if ballots and seen[ballots.index(max(ballots))] == 0 else 0.0
                continue
            for place, kind in enumerate(seen):
                more = (*ballots[:place], ballots[place] + 1, *ballots[place + 1 :])
                following[seen, more] += mass * kinds[kind][0]
            for kind, (chance, members) in enumerate(kinds):
                unseen = members - seen.count(kind)
                if unseen:
                    following[(*seen, kind), (*ballots, 1)] += mass * chance * unseen
        running = following
    return Expected(right, first, second - first * first)


def decided(ballots: Ballots, remaining: int) -> bool:
    """Whether nobody can win any more but the leader, whom a tie suffices against later ones."""
    if not ballots:
        return False
    most = max(ballots)
    leader = ballots.index(most)
    rivals = [*enumerate(ballots), (len(ballots), 0)]
    return all(
        votes + remaining < most + (place > leader) for place, votes in rivals if place != leader
    )


def until_likely(confidence: float, most: int) -> Stops:
    """The Beta rule of Adaptive-Consistency (arXiv:2305.11860), on top of `decided`."""
    return partial(_likely, boundary(confidence, most))


def boundary(confidence: float, most: int) -> Ballots:
    """The fewest ballots that end the vote against 0, 1, 2, ... of the runner-up."""
    return tuple(
        next(a for a in range(b, 9 * most) if posterior(a, b) >= confidence)
        for b in range(most // 2 + 1)
    )


@cache
def posterior(a: int, b: int) -> float:
    """The probability that x > 1/2 where x has the density of x^a (1 - x)^b on 0..1.

    By parts: I(a, b) = (I(a - 1, b) + I(a, b - 1)) / 2 for the regularised integral.
    """
    if a < 0 or b < 0:
        return float(b < 0)
    return (posterior(a - 1, b) + posterior(a, b - 1)) / 2


def best_of(n: int, p: float, separation: float) -> Expected:
    """The best rated of ``n`` samples, ties to any: the simulated judge sees N(d, 1) or N(0, 1).

    P = Σ_s p f₁(s) / h(s) · (H(s)^n - H(s - 1)^n) over the scores s, h = p f₁ + (1 - p) f₀.
    """
    total = below = 0.0
    for step in range(_LOWEST * _STEPS, _HIGHEST * _STEPS + 1):
        right = p * _rated(step, separation, separation)
        mass = right + (1 - p) * _rated(step, 0.0, separation)
        if mass:
            total += right / mass * ((below + mass) ** n - below**n)
        below += mass
    return Expected(total, 2 * n)


def _likely(needed: Ballots, ballots: Ballots, remaining: int) -> bool:
    most, second, *_ = [*sorted(ballots, reverse=True), 0, 0]
    return most >= needed[second] or decided(ballots, remaining)


def _rated(step: int, seen: float, separation: float) -> float:
    """The probability of one score where the judge sees N(``seen``, 1): a cell of the scale."""
    return _below(step + 0.5, seen, separation) - _below(step - 0.5, seen, separation)


def _below(step: float, seen: float, separation: float) -> float:
    if step < _LOWEST * _STEPS:
        return 0.0
    if step > _HIGHEST * _STEPS:
        return 1.0
    x = (step / _STEPS - _MIDDLE) / _POINTS + separation / 2
    return (1 + erf((x - seen) / sqrt(2))) / 2
