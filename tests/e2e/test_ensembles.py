"""Several models under one name, as the simulator behind them sees it."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import InProcess, MakeProxy, StartService, chat_body, content_of, eventually

from optictl.simulator import Fault, SimulatorThread
from proxy.app import create_app
from proxy.ensembles import Ensemble
from proxy.ensembles_file import loads
from proxy.settings import Settings

NAME = "opt-code-balanced-l"


def members(**roles: str) -> list[dict[str, str]]:
    """``proposer="a b", judge="j"``: one letter a model."""
    return [{"model": m, "role": r} for r in roles for m in roles[r].split()]


def registry(**row: Any) -> Mapping[str, Ensemble]:
    return loads(json.dumps({"ensemble": NAME, "approach": "moa", **row}), Path("ensembles.jsonl"))


MOA = {"members": members(proposer="a b c", aggregator="g", critic="k"), "approach": "moa"}
BON = {"members": members(proposer="a b c", judge="j"), "approach": "bon"}
VOTE = {"members": members(proposer="a b c"), "approach": "self_consistency"}


def parts(sim: SimulatorThread) -> dict[str, set[str]]:
    """The models that played each part."""
    found = defaultdict(set)
    for call in sim.log.records:
        found[call.role].add(call.model)
    return dict(found)


def models(sim: SimulatorThread) -> set[str]:
    return {call.model for call in sim.log.records}


def metric(proxy: InProcess) -> float:
    """How often a member of the ensemble was missing."""
    return sum(
        float(line.split()[-1])
        for line in proxy.http.get("/metrics").text.splitlines()
        if line.startswith(f'optillm_members_missing_total{{ensemble="{NAME}",')
    )


class TestWhoPlaysWhat:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            (MOA, {"solver": "a b c", "stage": "k", "aggregator": "g"}),
            ({**MOA, "approach": "re2&moa"}, {"solver": "a b c", "stage": "k", "aggregator": "g"}),
            (
                {"members": members(proposer="a b"), "approach": "moa"},
                {"solver": "a b", "stage": "a", "aggregator": "a"},
            ),
            (
                {"members": members(proposer="a b c d e"), "approach": "moa"},
                {"solver": "a b c d e", "stage": "a", "aggregator": "a"},
            ),
            (BON, {"solver": "a b c", "judge": "j"}),
            (VOTE, {"solver": "a b c"}),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_each_role_of_a_row_has_its_models(
        self,
        sim: SimulatorThread,
        make_proxy: MakeProxy,
        row: dict[str, Any],
        expected: dict[str, str],
        stream: bool,
    ) -> None:
        proxy = make_proxy(ensembles=registry(**row))
        response = proxy.ask(NAME, stream=stream)
        assert response.status_code == 200
        assert "391" in response.get_data(as_text=True)
        assert parts(sim) == {role: set(models.split()) for role, models in expected.items()}

    def test_no_proposer_judges_itself(self, sim: SimulatorThread, make_proxy: MakeProxy) -> None:
        row = {"members": members(proposer="a b"), "approach": "bon"}
        make_proxy(ensembles=registry(**row)).text(NAME)
        written = {call.model: call.content for call in sim.log.records if call.role == "solver"}
        assert written["a"] != written["b"]
        for call in sim.log.records:
            if call.role == "judge":
                assert call.body is not None
                assert str(written[call.model]) not in call.body["messages"][-1]["content"]

    def test_a_round_trip_goes_through_another_member(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        row = {"members": members(proposer="a b", helper="h"), "approach": "rto"}
        make_proxy(ensembles=registry(**row)).text(NAME)
        assert [call.model for call in sim.log.records][:3] == ["a", "h", "b"]

    def test_another_approach_has_the_same_team(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        response = make_proxy(ensembles=registry(**MOA)).ask(f"self_consistency-{NAME}")
        assert models(sim) == {"a", "b", "c"}
        assert response.json["model"] == f"self_consistency-{NAME}"
        assert response.headers["x-optillm-approach"] == "self_consistency"

    def test_the_answer_bears_the_name_that_was_asked(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(ensembles=registry(**MOA), aliases={"OPT_X": "moa-base"})
        assert proxy.ask(NAME).json["model"] == NAME
        assert {chunk["model"] for chunk in proxy.stream(NAME)[:-1]} == {NAME}
        sim.reset()
        assert proxy.ask("opt-x").json["model"] == "opt-x"
        assert models(sim) == {"base"}

    def test_a_chore_is_one_call_to_the_helper(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        row = {**MOA, "members": members(proposer="a b", aggregator="g", helper="h")}
        make_proxy(ensembles=registry(**row)).text(NAME, metadata={"task": "title_generation"})
        assert [call.model for call in sim.log.records] == ["h"]

    def test_degraded_is_one_call_to_the_aggregator(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        response = make_proxy(ensembles=registry(**MOA), degraded=True).ask(f"bon-{NAME}")
        assert [call.model for call in sim.log.records] == ["g"]
        assert response.json["optillm"]["skipped"] == ["bon: the service is degraded"]
        assert response.json["model"] == f"bon-{NAME}"

    def test_a_vote_has_the_weight_of_its_member(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        heavy = [{"model": "a", "weight": 5}, {"model": "b"}, {"model": "c"}]
        for model in "bc":
            sim.behave(model=model, probability=0.0, distractors=(1.0,))
        for weighed, right in ((heavy, True), (members(proposer="a b c"), False)):
            proxy = make_proxy(ensembles=registry(members=weighed, approach="self_consistency"))
            text = proxy.text(NAME, optillm_options={"samples": 3})
            assert ("391" in text) is right


class TestMembersThatAreMissing:
    @pytest.mark.parametrize("fault", [503, 404, "reset"])
    @pytest.mark.parametrize("row", [MOA, BON])
    def test_the_others_go_on_where_they_are_enough(
        self,
        sim: SimulatorThread,
        make_proxy: MakeProxy,
        row: dict[str, Any],
        fault: int | str,
    ) -> None:
        sim.behave(model="b", faults=(Fault(fault),))
        proxy = make_proxy(ensembles=registry(**row, min_successful=2))
        response = proxy.ask(NAME)
        assert response.status_code == 200
        assert "391" in response.json["choices"][0]["message"]["content"]
        assert response.json["optillm"]["members_missing"] == ["b"]
        assert response.headers["x-optillm-members-missing"] == "b"
        assert metric(proxy) == 1

    @pytest.mark.parametrize("row", [MOA, BON, VOTE])
    def test_it_is_an_error_where_they_are_not(
        self, sim: SimulatorThread, make_proxy: MakeProxy, row: dict[str, Any]
    ) -> None:
        # A vote that is decided needs nobody more: the others are not to agree before it fails.
        sim.behave(latency=0.5)
        sim.behave(model="b", latency=0.0, faults=(Fault(404),))
        proxy = make_proxy(ensembles=registry(**row, min_successful=3))
        response = proxy.ask(NAME)
        assert response.status_code == 502
        error = response.json["error"]
        assert error["code"] == response.headers["x-optillm-error"] == "too_few_members"
        assert "2 of the ensemble's proposers could be asked, 3 are needed" in error["message"]
        assert "'b'" in error["message"]
        assert response.headers["x-optillm-members-missing"] == "b"

    def test_a_stream_says_so_too(self, sim: SimulatorThread, make_proxy: MakeProxy) -> None:
        sim.behave(model="b", latency=0.2, faults=(Fault(404),))
        chunks = make_proxy(ensembles=registry(**MOA, min_successful=3)).stream(NAME)
        assert chunks[-1]["error"]["code"] == "too_few_members"
        assert content_of(chunks[:-1]) == ""

    def test_it_may_pass_where_they_are_only_overloaded(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="b", faults=(Fault(503, retry_after=7),))
        response = make_proxy(ensembles=registry(**BON, min_successful=3)).ask(NAME)
        assert response.status_code == 503
        assert response.json["error"]["code"] == "too_few_members"
        assert response.headers["Retry-After"] == "7"

    @pytest.mark.parametrize(
        ("row", "missing", "expected"),
        [
            (MOA, "g", {"solver": "a b c", "stage": "k", "aggregator": "g a"}),
            (MOA, "k", {"solver": "a b c", "stage": "k g", "aggregator": "g"}),
            (BON, "j", {"solver": "a b c", "judge": "j a b"}),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_another_stands_in_for_a_role(
        self,
        sim: SimulatorThread,
        make_proxy: MakeProxy,
        row: dict[str, Any],
        missing: str,
        expected: dict[str, str],
        stream: bool,
    ) -> None:
        sim.behave(model=missing, faults=(Fault(404),))
        proxy = make_proxy(ensembles=registry(**row))
        if stream:
            chunks = proxy.stream(NAME)
            summary, text = chunks[-2]["optillm"], content_of(chunks)
        else:
            response = proxy.ask(NAME).json
            summary, text = response["optillm"], response["choices"][0]["message"]["content"]
        assert "391" in text
        assert summary["members_missing"] == [missing]
        assert parts(sim) == {role: set(models.split()) for role, models in expected.items()}

    def test_a_stream_that_breaks_behind_its_first_content_is_not_begun_again(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="g", chunk_interval=0.005, faults=(Fault("stream_error"),))
        chunks = make_proxy(ensembles=registry(**MOA)).stream(NAME)
        assert "error" in chunks[-1]
        assert parts(sim)["aggregator"] == {"g"}

    def test_who_is_missing_in_one_layer_is_not_asked_in_the_next(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="b", faults=(Fault(404),))
        make_proxy(ensembles=registry(**MOA, params={"layers": 3, "critique": False})).text(NAME)
        assert [call.model for call in sim.log.records].count("b") == 1

    @pytest.mark.parametrize("row", [MOA, BON])
    def test_who_has_failed_often_does_not_take_the_turn_of_another(
        self, sim: SimulatorThread, make_proxy: MakeProxy, row: dict[str, Any]
    ) -> None:
        sim.behave(model="b", faults=(Fault(503),))
        proxy = make_proxy(ensembles=registry(**row))
        for _ in range(4):
            proxy.text(NAME)
        # It is left alone by now: its calls fail before the others' begin.
        sim.reset()
        assert proxy.ask(NAME).json["optillm"]["members_missing"] == ["b"]
        assert parts(sim)["solver"] - {"b"} == {"a", "c"}

    def test_a_request_that_a_member_refuses_says_nothing_against_it(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="b", faults=(Fault(400),))
        proxy = make_proxy(ensembles=registry(**VOTE, min_successful=3))
        response = proxy.ask(NAME)
        assert response.status_code == 200
        assert "members_missing" not in response.json["optillm"]
        assert metric(proxy) == 0

    def test_all_of_them(self, sim: SimulatorThread, make_proxy: MakeProxy) -> None:
        sim.behave(faults=(Fault(404),))
        response = make_proxy(ensembles=registry(**VOTE)).ask(NAME)
        assert (response.status_code, response.json["error"]["code"]) == (502, "too_few_members")
        missing = response.headers["x-optillm-members-missing"].split(",")
        assert sorted(missing) == ["a", "b", "c"]

    def test_the_only_proposer_drawn_from_in_one_call(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="a", faults=(Fault(404),))
        row = {"members": members(proposer="a", judge="j"), "approach": "self_consistency"}
        response = make_proxy(ensembles=registry(**row), upstream_n="native").ask(NAME)
        assert response.json["error"]["code"] == "too_few_members"
        assert sim.log.calls == 1

    def test_a_chore_finds_another_member(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(model="c", faults=(Fault(404),))
        make_proxy(ensembles=registry(**VOTE)).text(NAME, metadata={"task": "title"})
        assert [call.model for call in sim.log.records] == ["c", "a"]

    def test_a_name_that_no_header_can_carry(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        odd = "modèle, 日本"
        sim.behave(model=odd, faults=(Fault(404),))
        row = {"members": [*members(proposer="a"), {"model": odd}], "approach": "bon"}
        response = make_proxy(ensembles=registry(**row)).ask(NAME)
        assert response.json["optillm"]["members_missing"] == [odd]
        assert response.headers["x-optillm-members-missing"] == (
            "mod%C3%A8le%2C %E6%97%A5%E6%9C%AC"
        )

    def test_one_model_in_all_parts_fails_in_its_own_words(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        sim.behave(faults=(Fault(404),))
        response = make_proxy(ensembles=registry(**VOTE)).ask("bon-gone")
        assert response.json["error"]["code"] == "model_not_found"
        assert "x-optillm-members-missing" not in response.headers


class TestTheList:
    def test_has_the_ensembles_and_hides_what_a_router_keeps_for_itself(self) -> None:
        names = ("base", "router-base", "router-alone", f"router-{NAME}", NAME)
        with SimulatorThread(models=names) as upstream:
            found = listed_by(upstream, ensembles=registry(**MOA))
        assert set(found) == {"base", "router-alone", NAME}
        assert found[NAME]["owned_by"] == "optillm"
        assert found[NAME]["object"] == "model"

    def test_answers_for_each_name(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(
            ensembles=registry(**MOA), aliases={"OPT_X": NAME, "OPT_Y": "moa-sim", "OPT_Z": "gone"}
        )
        for name in (NAME, f"bon-{NAME}", "opt-x", "opt-y"):
            response = proxy.http.get(f"/v1/models/{name}")
            assert (response.status_code, response.json["id"]) == (200, name)
            assert response.json["owned_by"] == "optillm"
        for name in ("opt-z", "opt-other-balanced-l", "bon-gone"):
            assert proxy.http.get(f"/v1/models/{name}").status_code == 404


def listed_by(upstream: SimulatorThread, **settings: Any) -> dict[str, Any]:
    """The entries of /v1/models in front of ``upstream``."""
    app = create_app(Settings(base_url=upstream.url, **settings))
    app.engine.start()
    try:
        data = app.test_client().get("/v1/models").get_json()["data"]
    finally:
        app.engine.stop()
    return {entry["id"]: entry for entry in data}


class TestTheService:
    def test_reads_its_registry_again_and_keeps_the_last_good_one(
        self, sim: SimulatorThread, start_service: StartService, tmp_path: Path
    ) -> None:
        file = tmp_path / "ensembles.jsonl"

        def written(models: str, approach: str = "self_consistency") -> None:
            row = {"ensemble": NAME, "members": members(proposer=models), "approach": approach}
            file.write_text(json.dumps(row) + "\n")

        def asked() -> set[str]:
            sim.reset()
            answer = httpx.post(
                f"{service.url}/v1/chat/completions", json=chat_body("opt-handle"), timeout=30
            )
            assert answer.status_code == 200, answer.text
            return models(sim)

        written("a b")
        alias = {"OPTILLM_OPT_HANDLE_MODEL": NAME}
        service = start_service("--ensembles", str(file), env=alias)
        assert asked() == {"a", "b"}

        written("a c")
        service.signal(signal.SIGHUP)
        assert eventually(lambda: asked() == {"a", "c"})

        def refusal() -> str:
            ready = httpx.get(f"{service.url}/health/ready", timeout=30).json()
            return str(ready["reload"])

        written("d e", approach="mao")
        service.signal(signal.SIGHUP)
        assert eventually(lambda: "ensembles.jsonl:1: approach names 'mao'" in refusal())
        assert asked() == {"a", "c"}

        file.unlink()
        service.signal(signal.SIGHUP)
        assert eventually(lambda: "does not exist" in refusal())
        assert asked() == {"a", "c"}

    def test_does_not_start_with_one_that_is_wrong(
        self, start_service: StartService, tmp_path: Path
    ) -> None:
        file = tmp_path / "ensembles.jsonl"
        file.write_text(json.dumps({"ensemble": NAME, "members": [{"model": "a"}]}))
        service = start_service("--ensembles", str(file), healthy=False)
        assert service.process.wait(60) == 2
        assert f"{file}:1: approach is missing; add it" in service.log

    def test_runs_none_while_it_is_degraded(
        self, sim: SimulatorThread, start_service: StartService, tmp_path: Path
    ) -> None:
        file = tmp_path / "ensembles.jsonl"
        row = {"ensemble": NAME, "members": members(proposer="a a"), "approach": "bon"}
        file.write_text(json.dumps(row))
        service = start_service("--ensembles", str(file), "--single-model-ensembles", "--degraded")
        answer = httpx.post(
            f"{service.url}/v1/chat/completions", json=chat_body(NAME), timeout=30
        ).json()
        assert answer["optillm"]["approach"] == "none"
        assert sim.log.calls == 1

    def test_a_file_degrades_it_as_long_as_it_is_there(
        self, sim: SimulatorThread, start_service: StartService, tmp_path: Path
    ) -> None:
        rows, switch = tmp_path / "ensembles.jsonl", tmp_path / "degraded"
        rows.write_text(json.dumps({"ensemble": NAME, **BON}))
        switch.touch()
        service = start_service(
            *("--ensembles", str(rows), "--degraded-file", str(switch)),
            env={"OPTILLM_OPT_HANDLE_MODEL": "moa-sim"},
        )

        def approaches() -> list[str]:
            """Of an ensemble, a prefix, a handle, a body, and of a model by itself."""
            asked = [
                chat_body(NAME),
                chat_body("re2-sim"),
                chat_body("opt-handle"),
                chat_body(optillm_approach="cot_reflection"),
                chat_body(),
            ]
            sim.reset()
            answers = [
                httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=30).json()
                for body in asked
            ]
            return [answer["optillm"]["approach"] for answer in answers]

        def degraded() -> bool:
            ready = httpx.get(f"{service.url}/health/ready", timeout=30).json()
            return bool(ready["degraded"])

        assert degraded()
        assert approaches() == ["none"] * 5
        assert sim.log.calls == 5

        switch.unlink()
        assert approaches() == ["none"] * 5
        service.signal(signal.SIGHUP)
        assert eventually(lambda: not degraded())
        usual = ["bon", "re2", "moa", "cot_reflection", "none"]
        assert eventually(lambda: approaches() == usual)

        switch.touch()
        service.signal(signal.SIGHUP)
        assert eventually(degraded)
        assert eventually(lambda: approaches() == ["none"] * 5)
