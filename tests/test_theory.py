"""Votes, best of n and adaptive stopping are as good, and as cheap, as arithmetic says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import inf, prod

import pytest

from benchmarks import theory
from benchmarks.closed_forms import (
    Ballots,
    Expected,
    best_of,
    boundary,
    decided,
    posterior,
    race,
    until_likely,
)
from benchmarks.theory import LIMIT, Case, Row, adaptive, best, compare, vote
from proxy.voting import exact_plurality

SEED = 20_231


class TestClosedForms:
    """They are what measurements are held to, so each is held to something else first."""

    @pytest.mark.parametrize(
        ("p", "distractors", "n", "exact"),
        [
            (0.6, [0.4], 5, 0.68256),
            (0.6, [0.4], 8, 0.7102),
            (0.5, [0.2, 0.2, 0.1], 8, 0.75522),
            (0.4, [0.3, 0.3], 5, 0.44704),
            (0.35, [0.4, 0.25], 40, 0.33395),
        ],
    )
    def test_a_curtailed_vote_is_as_good_as_a_full_one(
        self, p: float, distractors: list[float], n: int, exact: float
    ) -> None:
        curtailed = race(p, distractors, n, decided)
        assert curtailed.accuracy == pytest.approx(exact, abs=6e-5)
        assert curtailed.accuracy == pytest.approx(exact_plurality(p, distractors, n))
        assert curtailed.samples < n

    def test_a_race_is_what_counting_every_sequence_gives(self) -> None:
        chances, most = (0.5, 0.2, 0.2, 0.1), 6
        right = samples = squares = 0.0
        for drawn in product(range(len(chances)), repeat=most):
            mass = prod(chances[answer] for answer in drawn)
            ballots: dict[int, int] = {}
            for seen, answer in enumerate(drawn, start=1):
                ballots[answer] = ballots.get(answer, 0) + 1
                if decided(tuple(ballots.values()), most - seen):
                    break
            right += mass * (max(ballots, key=ballots.__getitem__) == 0)
            samples += mass * seen
            squares += mass * seen * seen
        found = race(chances[0], chances[1:], most, decided)
        assert found.accuracy == pytest.approx(right)
        assert found.samples == pytest.approx(samples)
        assert found.variance == pytest.approx(squares - samples**2)

    @pytest.mark.parametrize(
        ("ballots", "remaining", "over"),
        [
            ((), 3, False),
            ((2, 1), 0, True),
            ((1, 1), 0, True),
            ((2, 1), 1, True),  # the later class can only tie
            ((1, 2), 1, False),  # the earlier one can tie, and then wins
            ((2,), 2, True),
            ((2,), 3, False),  # one nobody has seen yet can win
        ],
    )
    def test_when_a_vote_is_decided(self, ballots: Ballots, remaining: int, over: bool) -> None:
        assert decided(ballots, remaining) is over

    @pytest.mark.parametrize(
        ("confidence", "published"),
        [
            (0.90, (3, 5, 6, 8, 9, 11, 12, 13, 15)),
            (0.95, (4, 6, 8, 9, 11, 12, 14, 15, 17)),
            (0.99, (6, 9, 11, 13, 14, 16, 18, 19, 21)),
        ],
    )
    def test_the_boundary_of_the_beta_rule(self, confidence: float, published: Ballots) -> None:
        assert boundary(confidence, 16) == published

    @pytest.mark.parametrize(
        ("p", "n", "accuracy", "samples"),
        [
            (0.5, 40, 0.5000, 28.71),
            (0.6, 40, 0.8756, 24.16),
            (0.7, 40, 0.9851, 15.11),
            (0.8, 40, 0.9981, 8.72),
            (0.6, 16, 0.7827, 12.78),
            (0.8, 16, 0.9944, 8.02),
        ],
    )
    def test_the_published_beta_rule_and_ours_which_is_curtailed_too(
        self, p: float, n: int, accuracy: float, samples: float
    ) -> None:
        def likely(ballots: Ballots, remaining: int) -> bool:
            first, second, *_ = [*sorted(ballots, reverse=True), 0, 0]
            return posterior(first, second) >= 0.95

        published = race(p, [1 - p], n, likely)
        assert published.accuracy == pytest.approx(accuracy, abs=6e-5)
        assert published.samples == pytest.approx(samples, abs=6e-3)
        ours = race(p, [1 - p], n, until_likely(0.95, n))
        assert ours.accuracy == pytest.approx(published.accuracy)
        assert ours.samples < published.samples

    @pytest.mark.parametrize(
        ("n", "p", "separation", "exact"),
        [
            (3, 0.5, 1.0, 0.69519),
            (8, 0.3, 1.5, 0.74770),
            (5, 0.6, 0.5, 0.73141),
            (3, 0.3, 0.0, 0.3),  # a judge that guesses changes nothing
            (3, 0.5, 10.0, 1 - 0.5**3),  # one that is never wrong finds what there is
            (1, 0.5, 2.0, 0.5),
        ],
    )
    def test_best_of_n_where_the_scale_is_wide_enough_to_be_continuous(
        self, n: int, p: float, separation: float, exact: float
    ) -> None:
        assert best_of(n, p, separation).accuracy == pytest.approx(exact, abs=1e-4)

    def test_a_better_judge_finds_more_up_to_all_there_is(self) -> None:
        scores = [best_of(4, 0.5, separation).accuracy for separation in (0, 1, 2, 4, 8, 16)]
        assert scores == sorted(scores)
        assert (scores[0], scores[-1]) == pytest.approx((0.5, 1 - 0.5**4))


@pytest.mark.parametrize(
    ("case", "questions"),
    [
        (vote(0.6, [0.4], 5), 400),
        (vote(0.5, [0.2, 0.2, 0.1], 8), 200),
        (vote(0.4, [0.3, 0.3], 5), 200),
        (vote(0.35, [0.4, 0.25], 40), 30),
        (best(0.5, 3, 1.0), 200),
        (best(0.6, 5, 4.0), 150),
        (best(0.3, 3, 0.0), 150),
        (adaptive(0.6, 16), 150),
        (adaptive(0.8, 16), 150),
        (adaptive(0.6, 40), 80),
        (adaptive(0.7, 40), 80),
    ],
    ids=lambda given: given.name if isinstance(given, Case) else str(given),
)
def test_the_proxy_does_as_theory_says(case: Case, questions: int) -> None:
    """A vote is also held to end with the very sample that theory ends it with, each time."""
    rows = compare(case, questions, SEED)
    assert [(row.name, row.z) for row in rows if abs(row.z) > LIMIT] == []


def test_a_wrong_expectation_is_found_out() -> None:
    """What a vote of five would cost if it were never curtailed, and gain if p were 0.75."""
    case = replace(vote(0.6, [0.4], 5), expected=lambda: Expected(0.8965, 5.0, 0.62))
    off = [row.name for row in compare(case, 200, SEED) if abs(row.z) > LIMIT]
    assert off == [f"{case.name}: accuracy", f"{case.name}: samples"]


def test_a_vote_that_ends_too_early_is_found_out() -> None:
    """The bounds are those of 0.95, the vote ends at 0.8."""
    case = adaptive(0.7, 16)
    case = replace(case, options={**case.options, "confidence": 0.8})
    off = {row.name: row.measured for row in compare(case, 50, SEED) if abs(row.z) > LIMIT}
    assert off[f"{case.name}: ended elsewhere"] > 25


@pytest.mark.parametrize(
    ("row", "z"),
    [
        (Row("", 100, 0.7, 0.05, 0.6), 2.0),
        (Row("", 100, 0.5, 0.05, 0.6), -2.0),
        (Row("", 100, 3.0, 0.0, 3.0), 0.0),
        (Row("", 100, 3.0, 0.0, 0.0), inf),
        (Row("", 100, 0.0, 0.0, 3.0), -inf),
    ],
)
def test_how_far_off_a_row_is(row: Row, z: float) -> None:
    assert row.z == pytest.approx(z)


@pytest.mark.parametrize(("accuracy", "status"), [(0.6, 0), (0.1, 1)])
def test_the_status_says_whether_all_is_as_it_should_be(
    accuracy: float,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = replace(vote(0.6, [0.4], 1), expected=lambda: Expected(accuracy, 1.0))

    def only() -> Sequence[Case]:
        return [case]

    monkeypatch.setattr(theory, "cases", only)
    assert theory.main(["--questions", "50"]) == status
    shown = capsys.readouterr()
    assert [cell.strip() for cell in shown.out.splitlines()[0].split("|")[1:-1]] == [
        "case", "questions", "measured", "s.e.", "exact", "z",
    ]  # fmt: skip
    assert len(shown.out.splitlines()) == 2 + 4
    assert ("standard errors off: vote of 1" in shown.err) == (status == 1)
