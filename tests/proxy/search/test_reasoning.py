"""rStar's tree: which action may follow which, and where rollouts go, alone and side by side."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from proxy.search.reasoning import LEGAL, Action, Search, Step

#: The paper's table, written out: what may follow what.
PAPER = {
    None: "A1 A2 A3 A5",
    "A1": "A1 A2",
    "A2": "",
    "A3": "A1 A2 A3 A4",
    "A4": "A1 A2 A3",
    "A5": "A1 A2 A3",
}


def roll_out(search: Search, nth: int, answer: str | None = "42") -> Step:
    random, step = Random(nth), search.begin()
    while step.action is not Action.ANSWER:
        step = search.advance(step, random)
        if step.text is None:
            step.text = f"step {nth}"
    step.answer = answer
    return step


def actions(end: Step) -> list[str]:
    return [str(step.action) for step in end.steps]


def test_the_table_is_the_papers() -> None:
    for action, following in PAPER.items():
        assert " ".join(LEGAL[action if action is None else Action(action)]) == following


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
def test_no_illegal_action_in_a_thousand_rollouts(depth: int) -> None:
    seen: Counter[tuple[str | None, str]] = Counter()
    for seed in range(100):
        search = Search(depth, 1.4)
        for nth in range(10):
            random = Random(f"{seed} {nth}")
            taken = actions(roll_out(search, 100 * seed + nth, str(random.randrange(3))))
            assert len(taken) <= depth
            assert taken[-1] == "A2"
            seen.update(pairwise([None, *taken]))
    for before, after in seen:
        assert after in PAPER[before].split()
    if depth > 3:
        legal = {(b, a) for b, following in PAPER.items() for a in following.split()}
        assert seen.keys() == legal


def test_no_illegal_action_side_by_side_and_with_failures() -> None:
    for seed in range(200):
        random, search = Random(seed), Search(4, 1.4)
        at = [search.begin() for _ in range(8)]
        while at:
            place = random.randrange(len(at))
            step = at[place]
            if step.text is None and step is not search.root:
                if random.random() < 0.1:
                    search.drop(step)
                    del at[place]
                    continue
                step.text = "done"
            if step.action is Action.ANSWER:
                step.answer = "42"
                del at[place]
                continue
            at[place] = search.advance(step, random)
            assert at[place].action in PAPER[step.action].split()
            assert len(at[place].steps) <= 4
        assert search.root.visits == 8


def test_rollouts_at_once_take_different_actions() -> None:
    search = Search(3, 1.4)
    first = [search.advance(search.begin(), Random(0)) for _ in range(5)]
    assert {step.action for step in first[:4]} == set(LEGAL[None])
    # All are under way: the fifth does not wait for the text of another.
    assert first[4] not in first[:4]


def test_a_step_is_taken_up_again_and_an_answer_made_anew() -> None:
    search = Search(3, 0.0)
    ends = [roll_out(search, nth) for nth in range(30)]
    assert len({id(end) for end in ends}) == 30
    by_action = Counter(child.action for child in search.root.children)
    assert {by_action[action] for action in LEGAL[None] if action is not Action.ANSWER} == {1}


def test_more_rollouts_go_where_answers_agree() -> None:
    """Beneath one action all answers agree, elsewhere each is another one."""
    search = Search(3, 0.3)
    for nth in range(60):
        end = roll_out(search, nth, None)
        agreeing = end.steps[0].action is Action.SUBQUESTION
        end.answer = "42" if agreeing else f"wrong {nth}"
    visits = {child.action: child.visits for child in search.root.children}
    assert visits[Action.SUBQUESTION] > 30


def test_the_share_is_that_of_now_and_leaves_void_answers_out() -> None:
    search = Search(1, 1.4)
    for nth, answer in enumerate(["a", "a", "b", None]):
        roll_out(search, nth, answer)
    assert search.shares() == {"a": 2 / 3, "b": 1 / 3}
    assert Search(1, 1.4).shares() == {}


def test_a_dropped_step_is_gone_and_its_action_untried() -> None:
    search = Search(1, 1.4)
    step = search.advance(search.begin(), Random(0))
    search.drop(step)
    assert not search.root.children
    assert roll_out(search, 1).action is Action.ANSWER
