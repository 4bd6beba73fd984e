"""What theory says of the approaches, exact: how often they are right, on how many samples.

A sample is right with probability p, or gives distractor j with probability q_j; samples are
independent. Everything here is counted from scratch and uses none of the code it is to predict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import accumulate
from math import comb, copysign, erf, factorial, inf, log, sqrt

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
    """The probability of a right answer, and mean and variance of the samples looked at.

    ``ends`` holds, of a vote, the probabilities that it ends with 0, 1, 2, ... of them. ``spread``
    is the variance of a question's score, where that is more than right or wrong.
    """

    accuracy: float
    samples: float
    variance: float = 0.0
    ends: tuple[float, ...] = ()
    spread: float | None = None

    @classmethod
    def of_ends(cls, accuracy: float, ends: Sequence[float]) -> Expected:
        """What follows where the probabilities of 0, 1, 2, ... samples are ``ends``."""
        mean = sum(chance * drawn for drawn, chance in enumerate(ends))
        squares = sum(chance * drawn**2 for drawn, chance in enumerate(ends))
        return cls(accuracy, mean, squares - mean * mean, tuple(ends))

    def in_waves(self, waves: Sequence[int]) -> Expected:
        """The same where samples are begun in ``waves``, and each one begun counts."""
        begun = [*accumulate(waves)]
        ends = [0.0] * (begun[-1] + 1)
        for drawn, chance in enumerate(self.ends):
            ends[next(most for most in (0, *begun) if drawn <= most)] += chance
        return self.of_ends(self.accuracy, ends)


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


def race(
    p: float,
    distractors: Sequence[float],
    most: int,
    stops: Stops,
    *,
    window: int = 0,
    void: float = 0.0,
) -> Expected:
    """A plurality vote, ties to the class seen first, over ``most`` samples or until it stops.

    With ``window`` it also stops after so many samples that agree, counted in whole windows. A
    share ``void`` of the samples casts no ballot; a vote without any is lost.
    Forward over the states that the ballots can be in. Distractors of equal probability are
    interchangeable, so a state only says of which kind each class is; and to which class all of
    the window's samples belong, if they do.
    """
    kinds = [((1 - void) * chance, members) for chance, members in Counter(distractors).items()]
    kinds.insert(0, ((1 - void) * p, 1))
    running: dict[tuple[Ballots, Ballots, int | None], float] = {((), (), None): 1.0}
    right, ends = 0.0, [0.0] * (most + 1)
    for drawn in range(most + 1):
        following: defaultdict[tuple[Ballots, Ballots, int | None], float] = defaultdict(float)
        opens = bool(window) and drawn % window == 0
        for (seen, ballots, agreed), mass in running.items():
            unanimous = opens and agreed is not None
            if drawn == most or unanimous or stops(ballots, most - drawn):
                ends[drawn] += mass
                right += mass if ballots and seen[ballots.index(max(ballots))] == 0 else 0.0
                continue
            if void:
                following[seen, ballots, None] += mass * void
            for place, kind in enumerate(seen):
                more = (*ballots[:place], ballots[place] + 1, *ballots[place + 1 :])
                still = place if opens or agreed == place else None
                following[seen, more, still] += mass * kinds[kind][0]
            for kind, (chance, members) in enumerate(kinds):
                unseen = members - seen.count(kind)
                if unseen:
                    first = len(seen) if opens else None
                    following[(*seen, kind), (*ballots, 1), first] += mass * chance * unseen
        running = following
    return Expected.of_ends(right, ends)


def thinned(p: float, distractors: Sequence[float], n: int, void: float) -> float:
    """How often a vote is right of which each of ``n`` ballots is void with that chance.

    A void ballot is as good as none: P = Σ_k Bin(n, 1 - e)(k) P_k, with P_0 = 0.
    """
    return sum(
        chance * race(p, distractors, left, complete).accuracy
        for left, chance in enumerate(binomial(n, 1 - void))
    )


def binomial(n: int, p: float) -> list[float]:
    """The probabilities of 0, 1, ..., ``n`` successes."""
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def complete(ballots: Ballots, remaining: int) -> bool:
    """Never: the vote that looks at every sample."""
    return False


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


def until_likeliest(confidence: float) -> Stops:
    """The Dirichlet rule of Adaptive-Consistency, on top of `decided`."""

    def stops(ballots: Ballots, remaining: int) -> bool:
        first, second, *others = [*sorted(ballots, reverse=True), 0, 0][: max(2, len(ballots))]
        likely = likeliest(first, (second, *others)) >= confidence
        return likely or decided(ballots, remaining)

    return stops


@cache
def likeliest(ballots: int, others: Ballots) -> float:
    """The probability that the class with ``ballots`` is the likeliest, under a uniform prior.

    That is, the integral over x > 0 of g(x; v + 1) G(x; v_1 + 1) G(x; v_2 + 1) ... Each G(x; k + 1)
    is 1 - e^-x (1 + x + ... + x^k / k!); multiplied out, every term has a closed integral.
    """
    # By how often e^-x occurs, the coefficients of a polynomial in x.
    product = {0: [Fraction(1)]}
    for count in others:
        series = [Fraction(1, factorial(power)) for power in range(count + 1)]
        with_one_more: dict[int, list[Fraction]] = {}
        for times, factor in product.items():
            _add(with_one_more, times, factor)
            _add(with_one_more, times + 1, [-value for value in _times(factor, series)])
        product = with_one_more
    integrals = (
        value * Fraction(factorial(ballots + power), (1 + times) ** (ballots + power + 1))
        for times, factor in product.items()
        for power, value in enumerate(factor)
    )
    return float(sum(integrals, Fraction(0)) / factorial(ballots))


def early_stopping(chances: Sequence[float], window: int, limit: int) -> float:
    """The mean number of samples until a window of them agrees, without curtailment.

    Early-stopping self-consistency (arXiv:2401.10480): E[n] = w (1 - (1 - s)^T) / s with the sum s
    of the chances to the power of w, and T windows.
    """
    agreed = sum(chance**window for chance in chances)
    if agreed == 0:
        return float(limit // window * window)
    return window * (1 - (1 - agreed) ** (limit // window)) / agreed


def best_of(n: int, p: float, right: Sequence[float], wrong: Sequence[float]) -> float:
    """How often the best rated of ``n`` samples is right, ties to any.

    ``right`` and ``wrong`` are the probabilities f₁ and f₀ of each rating, from the worst, that the
    judge gives a right and a wrong answer: P = Σ_s p f₁(s) / h(s) · (H(s)^n - H(s - 1)^n), with
    h = p f₁ + (1 - p) f₀ and its sums H.
    """
    total = below = 0.0
    for rated_right, rated_wrong in zip(right, wrong, strict=True):
        mass = p * rated_right + (1 - p) * rated_wrong
        if mass:
            total += p * rated_right / mass * ((below + mass) ** n - below**n)
        below += mass
    return total


def best_accepted(n: int, p: float, accepted: float, mistaken: float) -> float:
    """The same where the judge only accepts: right answers and wrong ones with these chances.

    P = (1 - (1 - q)^n) A / q + (1 - q)^n p (1 - α) / (1 - q), with A = p α and q = A + (1 - p) β.
    """
    caught = p * accepted
    taken = caught + (1 - p) * mistaken
    none = (1 - taken) ** n
    return (1 - none) * caught / taken + none * p * (1 - accepted) / (1 - taken)


def ratings(seen: float, separation: float) -> list[float]:
    """The probabilities of all that the simulated judge can say where it sees N(``seen``, 1)."""
    steps = range(_LOWEST * _STEPS, _HIGHEST * _STEPS + 1)
    return [
        _below(step + 0.5, seen, separation) - _below(step - 0.5, seen, separation)
        for step in steps
    ]


def knockout(p: float, rounds: int, preferred: float, judges: int) -> float:
    """How often the last of 2^``rounds`` samples is right that meet in pairs (arXiv:2411.19477).

    Each of an odd number of judges prefers the right one of two with probability ``preferred``, and
    the majority counts: p' = p² + 2 p (1 - p) q.
    """
    chances = (
        comb(judges, votes) * preferred**votes * (1 - preferred) ** (judges - votes)
        for votes in range(judges // 2 + 1, judges + 1)
    )
    wins = sum(chances)
    for _ in range(rounds):
        p = p * p + 2 * p * (1 - p) * wins
    return p


def prefers(separation: float) -> float:
    """How often a judge prefers what it sees as N(d, 1) to what it sees as N(0, 1): its AUC."""
    return _normal(separation / sqrt(2))


def tournament(
    p: float, distractors: Sequence[float], rounds: int, preferred: float, judges: int
) -> Expected:
    """A knockout, with all its calls: there is none where all samples are equal."""
    entrants = 2**rounds
    agreed = sum(chance**entrants for chance in (p, *distractors))
    ends = [0.0] * (entrants + judges * (entrants - 1) + 1)
    ends[entrants], ends[-1] = agreed, 1 - agreed
    return Expected.of_ends(knockout(p, rounds, preferred, judges), ends)


def cascade(p: float, distractors: Sequence[float], m: int, strong: float) -> Expected:
    """``m`` samples that agree are the answer; else one who is right at ``strong`` gives it."""
    agreed = sum(chance**m for chance in (p, *distractors))
    ends = [0.0] * m + [agreed, 1 - agreed]
    return Expected.of_ends(p**m + (1 - agreed) * strong, ends)


def mixture(p: float, distractors: Sequence[float], n: int, skill: float) -> Expected:
    """An aggregator that returns the plurality of ``n`` samples, or answers anew without skill."""
    voted = race(p, distractors, n, complete).accuracy
    return Expected(skill * voted + (1 - skill) * p, n + 1)


def pass_at(k: int, n: int, right: int) -> float:
    """How often one of ``k`` drawn from ``n`` samples is right, of which so many are.

    The unbiased estimate of pass@k (arXiv:2107.03374): 1 - C(n - c, k) / C(n, k).
    """
    return 1 - comb(n - right, k) / comb(n, k)


def attempts(p: float, n: int, k: int) -> Expected:
    """What `pass_at` comes to: 1 - (1 - p)^k on average; and its variance, all from one call."""
    mean = 1 - (1 - p) ** k
    squares = (chance * pass_at(k, n, right) ** 2 for right, chance in enumerate(binomial(n, p)))
    return Expected(mean, 1, spread=sum(squares) - mean * mean)


def slower(seconds: float, sigma: float) -> float:
    """S₀: how often a lognormal latency of mean 1 and shape ``sigma`` takes longer."""
    return 1.0 if seconds <= 0 else 1 - _normal(log(seconds) / sigma + sigma / 2)


def hedged(seconds: float, after: float, sigma: float) -> float:
    """The same where a second call begins ``after`` so long, and the sooner one counts.

    S(t) = S₀(t) before that, then S₀(t) S₀(t - t_h).
    """
    return slower(seconds, sigma) * slower(seconds - after, sigma)


def _likely(needed: Ballots, ballots: Ballots, remaining: int) -> bool:
    most, second, *_ = [*sorted(ballots, reverse=True), 0, 0]
    return most >= needed[second] or decided(ballots, remaining)


def _below(step: float, seen: float, separation: float) -> float:
    if step < _LOWEST * _STEPS:
        return 0.0
    if step > _HIGHEST * _STEPS:
        return 1.0
    x = (step / _STEPS - _MIDDLE) / _POINTS + separation / 2
    return _normal(x - seen)


def _normal(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def _times(first: Sequence[Fraction], second: Sequence[Fraction]) -> list[Fraction]:
    product = [Fraction(0)] * (len(first) + len(second) - 1)
    for power, value in enumerate(first):
        for more, factor in enumerate(second):
            product[power + more] += value * factor
    return product


def _add(sums: dict[int, list[Fraction]], key: int, terms: Sequence[Fraction]) -> None:
    known = sums.setdefault(key, [])
    known += [Fraction(0)] * (len(terms) - len(known))
    for power, value in enumerate(terms):
        known[power] += value
