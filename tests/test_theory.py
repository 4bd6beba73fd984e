"""Votes, selections, early stopping and second tries are as good, and as cheap, as theory says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from math import inf, prod

import pytest

from benchmarks import hedging, theory
from benchmarks.closed_forms import (
    Ballots,
    Expected,
    Row,
    attempts,
    best_accepted,
    best_of,
    binomial,
    boundary,
    cascade,
    complete,
    decided,
    early_stopping,
    hedged,
    knockout,
    likeliest,
    mixture,
    pass_at,
    posterior,
    prefers,
    race,
    ratings,
    slower,
    thinned,
    tournament,
    until_likeliest,
    until_likely,
)
from benchmarks.theory import (
    BINARY,
    ELEVEN,
    LIMIT,
    Case,
    adaptive,
    best,
    best_rated,
    cascaded,
    compare,
    passed,
    unanimous,
    vote,
)
from proxy.voting import exact_plurality

SEED = 20_231


class TestClosedForms:
    """They are what measurements are held to, so each is held to something else first."""

    @pytest.mark.parametrize(
        ("p", "distractors", "n", "exact"),
        [
            (0.6, [0.4], 5, 0.68256),
            (0.6, [0.4], 8, 0.7102),
            (0.6, [0.4], 17, 0.8011),
            (0.7, [0.3], 9, 0.9012),
            (0.8, [0.2], 33, 0.9999),
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
        ("p", "n", "accuracy", "samples", "by_fours"),
        [
            (0.5, 40, 0.5000, 28.71, 30.72),
            (0.55, 40, 0.7194, 27.49, 29.57),
            (0.6, 40, 0.8756, 24.16, 26.36),
            (0.7, 40, 0.9851, 15.11, 17.07),
            (0.8, 40, 0.9981, 8.72, 9.85),
            (0.9, 40, 0.9999, 5.62, 6.12),
            (0.95, 40, 1.0000, 4.70, 4.93),
            (0.5, 16, 0.5000, 13.53, None),
            (0.6, 16, 0.7827, 12.78, None),
            (0.7, 16, 0.9461, 10.72, None),
            (0.8, 16, 0.9944, 8.02, None),
            (0.95, 16, 1.0000, 4.69, None),
        ],
    )
    def test_the_published_beta_rule_and_ours_which_is_curtailed_too(
        self, p: float, n: int, accuracy: float, samples: float, by_fours: float | None
    ) -> None:
        def likely(ballots: Ballots, remaining: int) -> bool:
            first, second, *_ = [*sorted(ballots, reverse=True), 0, 0]
            return posterior(first, second) >= 0.95

        def likely_after_four(ballots: Ballots, remaining: int) -> bool:
            return sum(ballots) % 4 == 0 and likely(ballots, remaining)

        published = race(p, [1 - p], n, likely)
        assert published.accuracy == pytest.approx(accuracy, abs=6e-5)
        assert published.samples == pytest.approx(samples, abs=6e-3)
        ours = race(p, [1 - p], n, until_likely(0.95, n))
        assert ours.accuracy == pytest.approx(published.accuracy)
        assert ours.samples < published.samples
        if by_fours is not None:
            waves = race(p, [1 - p], n, likely_after_four)
            assert waves.samples == pytest.approx(by_fours, abs=6e-3)

    def test_forty_samples_of_which_four_in_five_are_right(self) -> None:
        """Ten choices at most, and .998, are what is promised."""
        case = adaptive(0.8, 40)
        paid = case.expected().in_waves(case.waves)
        assert paid.accuracy >= 0.998
        assert case.expected().samples < paid.samples <= 10
        assert sum(paid.ends) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("ballots", "others", "published"),
        [(4, (0,), 0.96875), (5, (1, 1), 0.88826), (6, (2, 1, 1), 0.86484), (20, (12, 5), 0.91801)],
    )
    def test_the_posterior_of_the_dirichlet_rule(
        self, ballots: int, others: Ballots, published: float
    ) -> None:
        assert likeliest(ballots, others) == pytest.approx(published, abs=6e-6)

    def test_between_two_answers_the_dirichlet_rule_is_the_beta_rule(self) -> None:
        beta, dirichlet = until_likely(0.95, 16), until_likeliest(0.95)
        assert race(0.7, [0.3], 16, dirichlet) == race(0.7, [0.3], 16, beta)

    @pytest.mark.parametrize(
        ("chances", "window", "limit", "published"),
        [
            ((0.7, 0.3), 5, 40, 22.75),
            ((0.9, 0.05, 0.05), 5, 40, 8.46),
            ((0.8, 0.1, 0.1), 4, 16, 8.58),
        ],
    )
    def test_early_stopping_where_a_window_agrees_and_ours_which_is_curtailed_too(
        self, chances: tuple[float, ...], window: int, limit: int, published: float
    ) -> None:
        p, *others = chances
        assert early_stopping(chances, window, limit) == pytest.approx(published, abs=6e-3)
        raced = race(p, others, limit, complete, window=window)
        assert raced.samples == pytest.approx(early_stopping(chances, window, limit))
        assert {n for n, chance in enumerate(raced.ends) if chance} == {
            *range(window, limit + 1, window)
        }
        ours = race(p, others, limit, decided, window=window)
        assert ours.accuracy == pytest.approx(raced.accuracy)
        assert ours.samples < raced.samples

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
        judge = ratings(separation, separation), ratings(0, separation)
        assert best_of(n, p, *judge) == pytest.approx(exact, abs=1e-4)

    def test_a_better_judge_finds_more_up_to_all_there_is(self) -> None:
        scores = [
            best_of(4, 0.5, ratings(separation, separation), ratings(0, separation))
            for separation in (0, 1, 2, 4, 8, 16)
        ]
        assert scores == sorted(scores)
        assert (scores[0], scores[-1]) == pytest.approx((0.5, 1 - 0.5**4))

    @pytest.mark.parametrize(
        ("judged", "exact"), [*zip(BINARY, (0.68125, 0.64961, 0.67581), strict=True)]
    )
    def test_a_judge_that_only_accepts(
        self, judged: tuple[float, int, float, float], exact: float
    ) -> None:
        p, n, accepted, mistaken = judged
        found = best_accepted(n, p, accepted, mistaken)
        assert found == pytest.approx(exact, abs=6e-6)
        rated = best_of(n, p, (1 - accepted, accepted), (1 - mistaken, mistaken))
        assert found == pytest.approx(rated)
        precision = p * accepted / (p * accepted + (1 - p) * mistaken)
        assert best_accepted(500, p, accepted, mistaken) == pytest.approx(precision)

    def test_ratings_in_whole_numbers_are_what_counting_every_triple_gives(self) -> None:
        p, (right, wrong) = 0.6, ELEVEN
        assert (sum(right), sum(wrong)) == pytest.approx((1, 1))
        rated = [p * chance for chance in right] + [(1 - p) * chance for chance in wrong]
        counted = sum(
            prod(rated[one] for one in three)
            for three in product(range(22), repeat=3)
            # Of equals the first.
            if max(three, key=lambda one: one % 11) < 11
        )
        assert best_of(3, p, right, wrong) == pytest.approx(counted)

    @pytest.mark.parametrize(
        ("p", "preferred", "judges", "published"),
        [
            (0.4, 0.7, 1, (0.496, 0.596, 0.692, 0.778, 0.847)),
            (0.4, 0.7, 3, (0.536, 0.678, 0.802, 0.892, 0.947)),
            (0.3, 0.6, 1, (0.342, 0.387, 0.435, 0.484, 0.534)),
        ],
    )
    def test_knockout(
        self, p: float, preferred: float, judges: int, published: Sequence[float]
    ) -> None:
        found = [knockout(p, rounds, preferred, judges) for rounds in range(1, 6)]
        assert found == pytest.approx(published, abs=6e-4)
        whole = tournament(p, [1 - p], 2, preferred, judges)
        assert whole.accuracy == found[1]
        assert 4 < whole.samples < 4 + 3 * judges

    def test_a_judge_prefers_the_right_answer_as_often_as_its_scores_do(self) -> None:
        assert prefers(0) == 0.5
        assert prefers(1.0) == pytest.approx(0.76, abs=6e-4)

    def test_a_cascade_costs_a_strong_call_where_the_cheap_ones_differ(self) -> None:
        p, distractors, m, strong = 0.6, [0.3, 0.1], 3, 0.8
        right = calls = 0.0
        for drawn in product(range(3), repeat=m):
            mass = prod((p, *distractors)[answer] for answer in drawn)
            agreed = len(set(drawn)) == 1
            right += mass * ((drawn[0] == 0) if agreed else strong)
            calls += mass * (m + (not agreed))
        found = cascade(p, distractors, m, strong)
        assert (found.accuracy, found.samples) == pytest.approx((right, calls))

    def test_an_aggregator_without_skill_answers_by_itself(self) -> None:
        assert mixture(0.6, [0.4], 5, 0.0).accuracy == 0.6
        assert mixture(0.6, [0.4], 5, 1.0).accuracy == pytest.approx(0.68256)

    @pytest.mark.parametrize("void", [0.0, 0.25, 0.9, 1.0])
    def test_a_void_ballot_is_as_good_as_none(self, void: float) -> None:
        p, distractors, n = 0.5, [0.3, 0.2], 6
        left = 1 - void
        exact = exact_plurality(left * p, [left * chance for chance in distractors], n)
        assert thinned(p, distractors, n, void) == pytest.approx(exact)
        curtailed = race(p, distractors, n, decided, void=void)
        assert curtailed.accuracy == pytest.approx(exact)
        assert sum(curtailed.ends) == pytest.approx(1)

    def test_pass_at_k_counts_the_draws_that_hold_a_right_one(self) -> None:
        for n, right, k in [(5, 2, 3), (5, 0, 2), (5, 4, 2), (4, 1, 1), (6, 2, 6)]:
            draws = [*combinations([True] * right + [False] * (n - right), k)]
            assert pass_at(k, n, right) == pytest.approx(sum(map(any, draws)) / len(draws))

    @pytest.mark.parametrize(("p", "n", "k"), [(0.3, 8, 1), (0.3, 8, 3), (0.1, 20, 5), (0.2, 4, 4)])
    def test_pass_at_k_is_without_bias(self, p: float, n: int, k: int) -> None:
        estimates = [pass_at(k, n, right) for right in range(n + 1)]
        mean = sum(map(prod, zip(binomial(n, p), estimates, strict=True)))
        found = attempts(p, n, k)
        assert mean == pytest.approx(1 - (1 - p) ** k)
        assert found.accuracy == pytest.approx(mean)
        # It is what all n tell: no worse than whether any of only k is right.
        assert found.spread is not None
        assert 0 < found.spread <= mean * (1 - mean) + 1e-12

    def test_a_second_try_at_the_95th_percentile(self) -> None:
        """exp(x) of a standard normal x, over its mean."""
        usual = 5.180251602233015 / 1.6487212707001282
        assert slower(usual, 1.0) == pytest.approx(0.05)
        assert slower(1.0, 1.0) == pytest.approx(0.3085, abs=6e-5)
        assert hedged(0.9 * usual, usual, 1.0) == slower(0.9 * usual, 1.0)
        assert hedged(3 * usual, usual, 1.0) == slower(3 * usual, 1.0) * slower(2 * usual, 1.0)
        assert hedged(3 * usual, inf, 1.0) == slower(3 * usual, 1.0)


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
        (theory.likeliest(0.6, [0.2, 0.2], 16), 80),
        (unanimous(0.7, [0.3], 40, 5), 40),
        (unanimous(0.8, [0.1, 0.1], 16, 4), 100),
        (theory.best_accepted(0.5, 3, 0.8, 0.3), 200),
        (best_rated(0.6, 5, "judge of 0 to 10", ELEVEN), 150),
        (theory.knockout(0.4, [0.6], 2, 3, 0.7416), 100),
        (theory.knockout(0.3, [0.4, 0.3], 3, 1, 0.3583), 100),
        (cascaded(0.7, [0.3], 3, 0.9), 200),
        (theory.mixture(0.6, [0.4], 5, 0.8), 150),
        (vote(0.5, [0.3, 0.2], 4, void=0.5), 150),
        (vote(0.8, [0.2], 2, void=0.75), 100),
        (passed(0.3, 8, 3), 200),
        (passed(0.2, 4, 4), 200),
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


def test_windows_of_another_size_are_found_out() -> None:
    case = unanimous(0.8, [0.1, 0.1], 16, 4)
    case = replace(case, options={**case.options, "window": 5})
    off = {row.name: row.measured for row in compare(case, 50, SEED) if abs(row.z) > LIMIT}
    assert off[f"{case.name}: ended elsewhere"] > 10


def test_votes_of_which_fewer_are_void_than_was_thought_are_found_out() -> None:
    case = replace(vote(0.8, [0.2], 4, void=0.2), void=0.6)
    off = [row.name for row in compare(case, 150, SEED) if abs(row.z) > LIMIT]
    assert f"{case.name}: accuracy" in off


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_second_tries_gain_what_theory_says(sigma: float) -> None:
    rows = hedging.compare(sigma, 2000, SEED)
    assert [(row.name, row.z) for row in rows if abs(row.z) > LIMIT] == []
    # There were some, and they were of use.
    extra, *_, rare = rows
    assert 0.04 < extra.measured <= 0.05
    assert rare.exact < 0.01


@pytest.mark.parametrize(
    ("name", "value", "off"),
    [
        ("_PERCENTILE", 0.5, ["begun elsewhen"]),
        ("_SHARE", 0.2, ["begun elsewhen", "more than one in 20"]),
    ],
)
def test_second_tries_that_begin_early_or_too_often_are_found_out(
    name: str, value: float, off: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"proxy.upstream.hedging.{name}", value)
    rows = hedging.compare(1.0, 500, SEED)
    found = {row.name.removeprefix("second tries, σ = 1: ") for row in rows if abs(row.z) > LIMIT}
    assert found >= {*off}


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
    assert len(shown.out.splitlines()) == 2 + 4 + 5 * len(theory.SHAPES)
    assert ("standard errors off: vote of 1" in shown.err) == (status == 1)
