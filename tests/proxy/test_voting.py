"""Votes: who wins, when it is certain, when it is likely enough, and the odds in closed form."""

from __future__ import annotations

from itertools import product
from math import comb, exp, inf, isclose, nan, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.closed_forms import early_stopping
from proxy.voting import (
    Tally,
    beta_confidence,
    beta_stop,
    confidence_weight,
    decided,
    dirichlet_confidence,
    dirichlet_stop,
    esc_stop,
    exact_plurality,
    plurality,
)

#: Ballots in the order of their arrival; None is a void one.
STREAMS = st.lists(st.none() | st.sampled_from("abcd"), max_size=14)


def tallied(ballots: list[str | None]) -> Tally[str]:
    tally: Tally[str] = Tally()
    for ballot in ballots:
        if ballot is not None:
            tally.add(ballot)
    return tally


class TestTally:
    def test_an_empty_one_has_no_leader(self) -> None:
        tally: Tally[str] = Tally()
        assert (tally.leader, tally.top_two, tally.margin) == (None, (0, 0), 0)

    def test_classes_stand_in_the_order_of_arrival(self) -> None:
        assert list(tallied(["b", "a", "c", "a"]).counts) == ["b", "a", "c"]

    def test_ties_go_to_the_class_seen_first(self) -> None:
        assert tallied(["b", "a", "a", "b"]).leader == "b"
        assert tallied(["a", "b", "b", "a"]).leader == "a"

    def test_weights_add_up(self) -> None:
        tally: Tally[int] = Tally()
        for key, weight in ((1, 0.5), (2, 0.75), (1, 0.5)):
            tally.add(key, weight)
        assert (tally.leader, tally.top_two, tally.margin) == (1, (1.0, 0.75), 0.25)

    @given(STREAMS, st.permutations("abcd"))
    def test_the_winner_does_not_depend_on_labels(
        self, ballots: list[str | None], names: list[str]
    ) -> None:
        renamed = dict(zip("abcd", names, strict=True))
        winner = plurality(ballots)
        assert plurality(b and renamed[b] for b in ballots) == (winner and renamed[winner])

    def test_void_ballots_elect_nobody(self) -> None:
        assert plurality([None, None]) is None
        assert plurality([None, "a", None]) == "a"


class TestCurtailment:
    @given(STREAMS)
    def test_stopping_gives_the_winner_of_the_full_vote(self, ballots: list[str | None]) -> None:
        for seen in range(len(ballots) + 1):
            tally = tallied(ballots[:seen])
            if decided(tally, len(ballots) - seen):
                assert tally.leader == plurality(ballots)

    @given(STREAMS, st.integers(1, 8))
    def test_it_never_goes_on_without_need(self, ballots: list[str | None], more: int) -> None:
        rest = [[key] * more for key in ("a", "b", "c", "d", "unseen", None)]
        winners = {plurality([*ballots, *votes]) for votes in rest}
        assert decided(tallied(ballots), more) == (len(winners) == 1)

    @pytest.mark.parametrize(
        ("ballots", "remaining", "certain"),
        [
            ("", 1, False),
            ("", 0, True),
            ("a", 1, True),  # an unseen class can only tie, and was not first
            ("a", 2, False),
            ("aab", 1, True),  # b can only tie
            ("baa", 1, False),  # b can tie, and was first
            ("aaab", 2, True),
            ("aaa", 2, True),
            ("ab", 1, False),
            ("ab", 0, True),
        ],
    )
    def test_ties_count_for_the_class_seen_first(
        self, ballots: str, remaining: int, certain: bool
    ) -> None:
        assert decided(tallied(list(ballots)), remaining) is certain

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=9))
    def test_it_holds_for_weights_of_at_most_one(self, votes: list[tuple[str, int]]) -> None:
        tally: Tally[str] = Tally()
        leaders = []
        for cast, (key, quarters) in enumerate(votes, start=1):
            tally.add(key, quarters / 4)
            if decided(tally, len(votes) - cast):
                leaders.append(tally.leader)
        assert leaders
        assert set(leaders) == {tally.leader}


class TestBetaRule:
    @pytest.mark.parametrize(
        ("confidence", "boundary"),
        [
            (0.90, [3, 5, 6, 8, 9, 11, 12, 13, 15]),
            (0.95, [4, 6, 8, 9, 11, 12, 14, 15, 17]),
            (0.99, [6, 9, 11, 13, 14, 16, 18, 19, 21]),
        ],
    )
    def test_the_least_lead_that_stops(self, confidence: float, boundary: list[int]) -> None:
        least = [next(a for a in range(99) if beta_stop(a, b, confidence)) for b in range(9)]
        assert least == boundary

    def test_the_default_confidence_is_that_of_the_paper(self) -> None:
        assert [beta_stop(a, 0) for a in (3, 4)] == [False, True]

    @given(st.integers(0, 200), st.integers(0, 200))
    def test_it_is_a_posterior_probability(self, a: int, b: int) -> None:
        assert isclose(beta_confidence(a, b) + beta_confidence(b, a), 1)
        assert beta_confidence(a, a) == 0.5

    def test_it_is_the_integral_of_the_papers_rule(self) -> None:
        a, b, steps = 5, 2, 20_000
        points = [(step + 0.5) / steps for step in range(steps)]
        mass = [x**a * (1 - x) ** b for x in points]
        upper = sum(mass[steps // 2 :]) / sum(mass)
        assert isclose(beta_confidence(a, b), upper, rel_tol=1e-6)

    def test_very_many_ballots_do_not_overflow(self) -> None:
        assert beta_confidence(1200, 300) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("p", "limit", "accuracy", "samples"),
        [
            (0.5, 40, 0.5000, 28.71),
            (0.6, 40, 0.8756, 24.16),
            (0.7, 40, 0.9851, 15.11),
            (0.8, 40, 0.9981, 8.72),
            (0.95, 40, 1.0000, 4.70),
            (0.6, 16, 0.7827, 12.78),
            (0.8, 16, 0.9944, 8.02),
        ],
    )
    def test_sampling_until_it_stops(
        self, p: float, limit: int, accuracy: float, samples: float
    ) -> None:
        """The exact expectations of adaptive consistency with two answers."""
        running = {(0, 0): 1.0}
        right = drawn = 0.0
        for n in range(limit + 1):
            following: dict[tuple[int, int], float] = {}
            for (i, j), mass in running.items():
                if n == limit or beta_stop(max(i, j), min(i, j)):
                    drawn += mass * n
                    right += mass * (0.5 if i == j else i > j)
                    continue
                for state, chance in (((i + 1, j), p), ((i, j + 1), 1 - p)):
                    following[state] = following.get(state, 0.0) + mass * chance
            running = following
        assert right == pytest.approx(accuracy, abs=6e-5)
        assert drawn == pytest.approx(samples, abs=6e-3)


class TestDirichletRule:
    @pytest.mark.parametrize(
        ("counts", "exact"),
        [
            ((4,), 0.96875),
            ((4, 0), 0.96875),
            ((5, 1, 1), 0.88826),
            ((6, 2, 1, 1), 0.86484),
            ((20, 12, 5), 0.91801),
        ],
    )
    def test_the_published_cases(self, counts: tuple[int, ...], exact: float) -> None:
        assert dirichlet_confidence(counts) == pytest.approx(exact, abs=6e-6)

    @given(st.integers(0, 64), st.integers(0, 64))
    def test_with_two_classes_it_is_the_beta_rule(self, a: int, b: int) -> None:
        assert dirichlet_confidence((a, b)) == pytest.approx(beta_confidence(a, b), abs=1e-8)

    @pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
    def test_so_it_has_the_same_boundary(self, confidence: float) -> None:
        for b in range(9):
            for a in range(b, 23):
                assert dirichlet_stop((a, b), confidence) == beta_stop(a, b, confidence)

    @given(st.lists(st.integers(0, 20), min_size=2, max_size=6))
    def test_one_of_the_classes_is_the_likeliest(self, counts: list[int]) -> None:
        chances = [
            dirichlet_confidence([count, *counts[:i], *counts[i + 1 :]])
            for i, count in enumerate(counts)
        ]
        assert sum(chances) == pytest.approx(1, abs=1e-8)

    @given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 9))
    def test_every_further_rival_takes_some_of_it(self, rivals: list[int], more: int) -> None:
        before = dirichlet_confidence([9, *rivals])
        assert dirichlet_confidence([9, *rivals, more]) < before

    def test_very_many_ballots_do_not_overflow(self) -> None:
        few, many = dirichlet_confidence((1200, 1150)), beta_confidence(1200, 1150)
        assert few == pytest.approx(many, abs=1e-8)


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("window", "over"),
        [
            (["a"] * 5, True),
            (["a", "a", "a", "a", "b"], False),
            (["a", "a", None, "a", "a"], False),
            ([None] * 5, False),
            ([], False),
        ],
    )
    def test_a_window_has_to_be_unanimous(self, window: list[str | None], over: bool) -> None:
        assert esc_stop(window) is over

    @pytest.mark.parametrize(
        ("chances", "window", "limit", "expected"),
        [
            ((0.7, 0.3), 5, 40, 22.75),
            ((0.9, 0.05, 0.05), 5, 40, 8.46),
            ((0.5, 0.3, 0.2), 5, 40, 35.55),
            ((0.8, 0.1, 0.1), 4, 16, 8.58),
            ((1.0,), 5, 40, 5),
            ((), 5, 12, 10),  # nobody ever answers: all whole windows are drawn
        ],
    )
    def test_the_published_cases(
        self, chances: tuple[float, ...], window: int, limit: int, expected: float
    ) -> None:
        assert early_stopping(chances, window, limit) == pytest.approx(expected, abs=6e-3)

    @pytest.mark.parametrize("chances", [(0.6, 0.3, 0.1), (0.5, 0.2)])
    def test_it_is_what_counting_every_window_gives(self, chances: tuple[float, ...]) -> None:
        """With chances that do not add up to one, the rest is void."""
        window, limit = 3, 9
        void = 1 - sum(chances)
        ballots = {**dict(enumerate(chances)), None: void}
        stops = sum(
            prod(ballots[ballot] for ballot in drawn)
            for drawn in product(ballots, repeat=window)
            if esc_stop(drawn)
        )
        expected = sum(window * (1 - stops) ** before for before in range(limit // window))
        assert early_stopping(chances, window, limit) == pytest.approx(expected)


class TestConfidenceWeight:
    def test_it_grows_with_the_probability_of_a_token(self) -> None:
        weights = [confidence_weight([value] * 7) for value in (-inf, -5.0, -1.0, -0.1, 0.0)]
        assert weights == sorted(weights)
        assert (weights[0], weights[-1]) == (exp(-1), 1)

    def test_it_does_not_depend_on_the_length(self) -> None:
        assert confidence_weight([-0.5] * 3) == pytest.approx(confidence_weight([-0.5] * 300))

    def test_two_samples_compare_as_in_the_papers_softmax(self) -> None:
        ratio = confidence_weight([-0.2]) / confidence_weight([-0.9])
        assert ratio == pytest.approx(exp(exp(-0.2)) / exp(exp(-0.9)))

    @pytest.mark.parametrize("logprobs", [[], [nan], [nan, -1.0], [0.5]])
    def test_without_log_probabilities_a_vote_counts_in_full(self, logprobs: list[float]) -> None:
        assert confidence_weight(logprobs) == 1


class TestExactPlurality:
    @pytest.mark.parametrize(
        ("p", "distractors", "n", "exact"),
        [
            (0.6, [0.4], 5, 0.68256),
            (0.5, [0.2, 0.2, 0.1], 8, 0.75522),
            (0.4, [0.3, 0.3], 5, 0.44704),
            (0.3, [0.1] * 7, 16, 0.69485),
            (0.35, [0.4, 0.25], 40, 0.33395),
        ],
    )
    def test_the_published_cases(
        self, p: float, distractors: list[float], n: int, exact: float
    ) -> None:
        assert exact_plurality(p, distractors, n) == pytest.approx(exact, abs=6e-6)

    @pytest.mark.parametrize(
        ("p", "row"),
        [
            (0.6, [0.6, 0.6480, 0.6826, 0.7102, 0.7334, 0.8011, 0.8789]),
            (0.7, [0.7, 0.7840, 0.8369, 0.8740, 0.9012, 0.9597, 0.9922]),
            (0.8, [0.8, 0.8960, 0.9421, 0.9667, 0.9804, 0.9974, 0.9999]),
        ],
    )
    def test_two_answers(self, p: float, row: list[float]) -> None:
        exact = [exact_plurality(p, [1 - p], n) for n in (1, 3, 5, 8, 9, 17, 33)]
        assert exact == pytest.approx(row, abs=6e-5)

    @pytest.mark.parametrize("chances", [(0.5, 0.3, 0.2), (0.4, 0.4, 0.1, 0.1)])
    def test_it_is_what_counting_every_vote_gives(self, chances: tuple[float, ...]) -> None:
        """So ties by first arrival are label-symmetric: each of the tied is as likely to win."""
        n = 5
        counted = sum(
            prod(chances[ballot] for ballot in ballots)
            for ballots in product(range(len(chances)), repeat=n)
            if plurality(ballots) == 0
        )
        assert exact_plurality(chances[0], chances[1:], n) == pytest.approx(counted)

    def test_void_ballots_thin_the_vote(self) -> None:
        n, void = 7, 0.25
        thinned = sum(
            comb(n, k) * (1 - void) ** k * void ** (n - k) * exact_plurality(0.6, [0.3, 0.1], k)
            for k in range(n + 1)
        )
        exact = exact_plurality(0.6 * (1 - void), [0.3 * (1 - void), 0.1 * (1 - void)], n)
        assert exact == pytest.approx(thinned)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 9))
    def test_somebody_always_wins(self, weights: list[int], n: int) -> None:
        chances = [weight / sum(weights) for weight in weights]
        odds = [
            exact_plurality(p, [*chances[:i], *chances[i + 1 :]], n) for i, p in enumerate(chances)
        ]
        assert sum(odds) == pytest.approx(1)
