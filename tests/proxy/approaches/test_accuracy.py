"""What each approach makes of a model that is right three times out of five.

The simulated model knows its part from the prompt's wording alone; it answers by a seeded die, so
that the closed forms of the literature predict how often an approach must be right.
"""

from __future__ import annotations

from math import erf, exp, pi, sqrt

from conftest import InProcess, MakeProxy

from optictl.simulator import Behaviour, SimulatorThread, gold
from proxy.answers import extract, normalise
from proxy.voting import exact_plurality

P = 0.6
WRONG = (0.2, 0.12, 0.08)
SEPARATION = 2.0
QUESTIONS = [f"What is {17 + i} * {301 - i} + {7 * i}?" for i in range(200)]
MODEL = Behaviour(
    probability=P, distractors=WRONG, judge_separation=SEPARATION, tokens=4, seed=20_061_126
)


def accuracy(proxy: InProcess, selector: str, **options: int) -> float:
    """The share of right answers."""
    members = {"optillm_options": options} if options else {}
    right = 0
    for question in QUESTIONS:
        answer = extract(proxy.text(f"{selector}-sim", question, **members))
        right += answer is not None and normalise(answer) == gold(question)
    return right / len(QUESTIONS)


def assert_predicted(measured: float, expected: float) -> None:
    """Within four standard errors, which chance leaves once in 16,000 times."""
    error = sqrt(expected * (1 - expected) / len(QUESTIONS))
    assert abs(measured - expected) <= 4 * error


def best_of_n(p: float, n: int, d: float) -> float:
    """A right candidate is rated N(d, 1), a wrong one N(0, 1), and the best rated wins.

    P = n ∫ p φ(x - d) [p Φ(x - d) + (1 - p) Φ(x)]^(n - 1) dx, by the midpoint rule.
    """

    def density(x: float) -> float:
        return exp(-x * x / 2) / sqrt(2 * pi)

    def below(x: float) -> float:
        return (1 + erf(x / sqrt(2))) / 2

    steps, low, high = 2000, -8.0, 8.0 + d
    width = (high - low) / steps
    total = 0.0
    for i in range(steps):
        x = low + (i + 0.5) * width
        total += p * density(x - d) * (p * below(x - d) + (1 - p) * below(x)) ** (n - 1) * width
    return n * total


def test_the_closed_form_of_best_of_n() -> None:
    """Known values of (p, n, d); a judge that guesses changes nothing."""
    for (p, n, d), expected in {
        (0.5, 3, 1.0): 0.69519,
        (0.3, 8, 1.5): 0.74770,
        (0.6, 5, 0.5): 0.73141,
        (0.3, 3, 0.0): 0.30000,
    }.items():
        assert abs(best_of_n(p, n, d) - expected) < 1e-4


def test_accuracy_is_what_theory_predicts(make_proxy: MakeProxy) -> None:
    with SimulatorThread(MODEL) as sim:
        proxy = make_proxy(base_url=sim.url)
        single = accuracy(proxy, "none")
        assert_predicted(single, P)

        vote = accuracy(proxy, "self_consistency", samples=5)
        assert_predicted(vote, exact_plurality(P, WRONG, 5))

        rated = accuracy(proxy, "bon", samples=3)
        assert_predicted(rated, best_of_n(P, 3, SEPARATION))

        # The simulated aggregator gives the plurality of what it is shown, ties to the first.
        mixed = accuracy(proxy, "moa", samples=3)
        assert_predicted(mixed, exact_plurality(P, WRONG, 3))

        # The prediction for each lies well above a single sample; so must what was measured.
        assert min(vote, rated, mixed) > single
        assert not any("x-sim-role" in call.headers for call in sim.log.records)
        roles = {call.role for call in sim.log.records}
        assert roles == {"solver", "judge", "stage", "aggregator"}
