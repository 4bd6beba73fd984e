"""Plurality votes over samples: counting them, and knowing when more of them change nothing.

A ballot is any hashable key (`proxy.answers.normalise` makes them); a sample without an answer
casts none. Ties go to the class that was seen first, which treats all labels alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import comb, exp, factorial, lgamma, log, prod, sqrt
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Tally(Generic[K]):
    """The weight of each class so far, in the order of first arrival."""

    counts: dict[K, float] = field(default_factory=dict)

    def add(self, key: K, weight: float = 1.0) -> None:
        self.counts[key] = self.counts.get(key, 0.0) + weight

    @property
    def leader(self) -> K | None:
        """The heaviest class, the first seen of equals; None before the first ballot."""
        return max(self.counts, key=self.counts.__getitem__, default=None)

    @property
    def top_two(self) -> tuple[float, float]:
        """The weights of the leader and of the runner-up, 0 where there is none."""
        first, second, *_ = [*sorted(self.counts.values(), reverse=True), 0.0, 0.0]
        return first, second

    @property
    def margin(self) -> float:
        """By how much the leader is ahead of the runner-up."""
        first, second = self.top_two
        return first - second


def plurality(keys: Iterable[K | None]) -> K | None:
    """The class with the most ballots; None stands for a void ballot, and for no winner."""
    tally: Tally[K] = Tally()
    for key in keys:
        if key is not None:
            tally.add(key)
    return tally.leader


def decided(tally: Tally[K], remaining: float) -> bool:
    """Whether the leader wins whatever is said by ballots that weigh `remaining` together.

    Curtailment loses nothing: stopping here gives the winner of the full vote, and as long as
    this is False some continuation elects another. A challenger needs to catch up and, where the
    leader was seen before it, as every class still unseen was, to overtake. Remaining ballots may
    turn out void.
    """
    if remaining <= 0:
        return True
    leader = tally.leader
    if leader is None or remaining > tally.counts[leader]:
        return False
    leads, behind = tally.counts[leader], False
    for key, weight in tally.counts.items():
        if key == leader:
            behind = True
        elif weight + remaining > leads or (weight + remaining == leads and not behind):
            return False
    return True


def beta_confidence(a: int, b: int) -> float:
    """The posterior probability that a class with `a` ballots is more likely than one with `b`.

    Under a uniform prior, with a >= b the two largest counts: P[Bin(a + b + 1, 1/2) <= a], the
    closed form of Adaptive-Consistency's beta rule (Aggarwal et al., arXiv:2305.11860). Being
    Bayesian it bounds no error rate under continuous peeking.
    """
    n = a + b + 1
    return sum(comb(n, j) for j in range(a + 1)) / (1 << n)


def beta_stop(a: int, b: int, confidence: float = 0.95) -> bool:
    """Whether to stop sampling: the leader's `a` ballots against `b` give enough confidence."""
    return beta_confidence(a, b) >= confidence


def dirichlet_confidence(counts: Sequence[int]) -> float:
    """The posterior probability that the class with `counts[0]` ballots is the likeliest of all.

    Under a uniform prior over the classes that have ballots, of which there are two at least:
    Pr[p_1 = max] of Dirichlet(v_1 + 1, ..., v_m + 1), the Dirichlet rule of Adaptive-Consistency
    (arXiv:2305.11860), and `beta_confidence` for two. Its authors draw samples. Here it is
    the integral over x > 0 of g(x; v_1 + 1) G(x; v_2 + 1) ... G(x; v_m + 1), with the density and
    the distribution of gamma variables, by the trapezoidal rule in log x (8 digits or more).
    """
    leading, *others = [*counts, 0, 0][: max(2, len(counts))]
    factorials = [lgamma(k + 1) for k in range(max(leading, *others) + 1)]
    # Outside of these bounds lies less than 1e-9 of a gamma variable of this shape.
    shape, steps = leading + 1, 80
    low = log(shape) - sqrt(46 / (shape + 1)) - 23 / (shape + 1)
    width = (log(shape + 10 * sqrt(shape) + 23) - low) / steps
    total = 0.0
    for step in range(steps + 1):
        t = low + step * width
        # The chances of 0, 1, 2, ... events of a Poisson process until then: G is a sum of them.
        events = [exp(k * t - exp(t) - logged) for k, logged in enumerate(factorials)]
        fewer = list(accumulate(events))
        total += exp(t) * events[leading] * prod(1 - fewer[count] for count in others)
    return total * width


def dirichlet_stop(counts: Sequence[int], confidence: float = 0.95) -> bool:
    """Whether to stop sampling: the leader's `counts[0]` ballots give enough confidence."""
    return dirichlet_confidence(counts) >= confidence


def esc_stop(window: Sequence[Hashable | None]) -> bool:
    """Whether to stop sampling: all ballots of a window are for one class, and none is void.

    Early-stopping self-consistency: Li et al., arXiv:2401.10480.
    """
    return len(set(window)) == 1 and None not in window


def confidence_weight(logprobs: Sequence[float]) -> float:
    """What a ballot weighs by the log-probabilities of its tokens: more than 1 / e, at most 1.

    CISC (Taubenfeld et al., arXiv:2502.06233) at temperature 1: the softmax over a question's
    samples of their length-normalised probability, up to a factor that all of them share. 1 where
    there are no log-probabilities, as for one that is certain.
    """
    if not logprobs or not (mean := sum(logprobs) / len(logprobs)) <= 0:
        return 1.0
    return exp(exp(mean) - 1)


def exact_plurality(p: float, distractors: Sequence[float], n: int) -> float:
    """The probability that the right answer wins a vote over `n` independent samples.

    A sample is right with probability `p`, gives distractor j with `distractors[j]`, and is void
    with what is left. Ties are broken without regard to labels, by first arrival or at random.
    The multinomial sum over the winner's count m, with powers of the tied rivals' number t.
    """
    void = max(0.0, 1.0 - p - sum(distractors))
    total = 0.0
    for m in range(1, n + 1):
        rest = n - m
        # ways[t][k]: the others cast k ballots, t distractors m of them each, and none has more.
        ways = [[void**k / factorial(k) for k in range(rest + 1)]]
        for q in distractors:
            more = [[0.0] * (rest + 1) for _ in range(len(ways) + 1)]
            for t, row in enumerate(ways):
                for c in range(min(m, rest) + 1):
                    weight, tied = q**c / factorial(c), t + (c == m)
                    for k in range(rest + 1 - c):
                        more[tied][k + c] += weight * row[k]
            ways = more
        ties = sum(row[rest] / (t + 1) for t, row in enumerate(ways))
        total += factorial(n) / factorial(m) * p**m * ties
    return total
