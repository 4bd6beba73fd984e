"""Each approach that chooses says in the trace what it chose among, and why."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import InProcess, MakeProxy, chat_body, eventually

from optictl.simulator import SimulatorThread
from proxy.settings import Tracing

#: What decides, by approach, where all samples answer and judges can tell.
KINDS = {
    "abmcts": "rating",
    "bon": "rating",
    "cov": "check",
    "deepconf": "vote",
    "deepthink": "vote",
    "genselect": "vote",
    "majority_voting": "vote",
    "mars": "vote",
    "mcts": "rating",
    "plansearch": "vote",
    "pvg": "rating",
    "rsa": "vote",
    "rstar": "vote",
    "self_consistency": "vote",
    "self_refine": "rating",
    "shortest": "vote",
    "usc": "vote",
}


def decisions(proxy: InProcess, model: str, **members: Any) -> list[dict[str, Any]]:
    response = proxy.post(json=chat_body(model, **members), headers={"x-request-id": model})
    assert response.status_code == 200, response.text
    path = f"/traces/{model}"
    assert eventually(lambda: proxy.http.get(path).status_code == 200)
    found: list[dict[str, Any]] = proxy.http.get(path).json["decisions"]
    return found


@pytest.mark.parametrize("slug", KINDS)
def test_an_approach_tells_what_it_chose(proxy: InProcess, slug: str) -> None:
    found = decisions(proxy, f"{slug}-sim")
    assert [each["kind"] for each in found] == [KINDS[slug]]
    [decision] = found
    assert decision["why"]
    winner = decision["winner"]
    assert winner is None or 0 <= winner < len(decision["candidates"])


def test_a_vote_has_a_candidate_for_each_answer_with_its_votes(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    sim.behave(probability=0.6, seed=3)
    proxy = make_proxy(tracing=Tracing(text=True))
    options = {"samples": 9, "stop": "off"}
    [vote] = decisions(proxy, "self_consistency-sim", optillm_options=options)
    votes = [each["score"] for each in vote["candidates"]]
    assert sum(votes) == 9
    assert votes[vote["winner"]] == max(votes)
    assert vote["why"] == f"{max(votes):.0f} of 9 agree"
    assert vote["candidates"][vote["winner"]]["text"] == "391"


def test_a_rating_has_the_score_of_each_candidate_and_who_wrote_it(proxy: InProcess) -> None:
    [rating] = decisions(proxy, "bon-sim")
    scores = [each["score"] for each in rating["candidates"]]
    assert len(scores) == 3
    assert scores[rating["winner"]] == max(scores)
    assert {each["model"] for each in rating["candidates"]} == {"sim"}


def test_a_selection_has_the_judges_votes(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.5, seed=1)
    found = decisions(proxy, "genselect-sim", optillm_options={"samples": 6})
    assert [each["kind"] for each in found] == ["selection"]
    [selection] = found
    named = [each["score"] for each in selection["candidates"]]
    assert len(named) == 6
    assert named[selection["winner"]] == max(named) >= 1


def test_who_passes_the_question_on_says_so(proxy: InProcess, sim: SimulatorThread) -> None:
    sim.behave(probability=0.0)
    [check] = decisions(proxy, "cascade-sim")
    assert (check["kind"], check["winner"]) == ("check", None)
    assert check["why"].endswith("samples agree: not enough")


def test_one_call_decides_nothing(proxy: InProcess) -> None:
    assert decisions(proxy, "sim") == []


def test_a_choice_in_a_pipeline_is_told_by_the_approach_that_made_it(proxy: InProcess) -> None:
    [vote] = decisions(proxy, "re2&self_consistency-sim")
    assert vote["approach"] == "self_consistency"
