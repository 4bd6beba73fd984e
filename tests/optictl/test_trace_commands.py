"""``optictl trace``, ``why`` and ``usage`` against the real service, and what they make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Service, chat_body, eventually, start_process
from typer.testing import CliRunner, Result

from optictl.cli import build
from optictl.retelling import decision, drawn, reasons
from optictl.simulator import Behaviour, SimulatorThread

ENTRY = "from optictl.cli import main; main()"


def call(**members: Any) -> dict[str, Any]:
    return {
        "approach": "bon", "role": "proposer", "model": "sim", "provider": "upstream", "round": 1,
        "choices": 1, "start": 0.0, "sent": 0.0, "first": 0.1, "end": 0.2, "outcome": "ok",
        "why": None, "shared": False, "prompt_tokens": 1, "completion_tokens": 2, "after": None,
        "critical": False, **members,
    }  # fmt: skip


def trace(*calls: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "id": "r1", "began": "2026-11-21T10:11:12.345+00:00", "seconds": 0.5, "status": 200,
        "code": None, "approach": "bon", "model": "sim", "handle": "bon-sim", "task": None,
        "members_missing": [], "skipped": [], "exhausted": None, "rounds": 2, "prompt_tokens": 1,
        "completion_tokens": 2, "calls": list(calls), "decisions": [], **members,
    }  # fmt: skip


class TestRetelling:
    def test_the_critical_path_is_marked(self) -> None:
        head, scale, *bars = drawn(trace(call(), call(critical=True), call(critical=True)))
        assert head.startswith("2026-11-21 10:11:12  r1  bon-sim  200 · 3 calls · 2 rounds")
        assert "outcome" in scale
        assert [bar.startswith("▸ ") for bar in bars] == [False, True, True]

    def test_no_calls_are_no_bars(self) -> None:
        assert len(drawn(trace())) == 1

    def test_a_cancelled_call_says_why(self) -> None:
        *_, bar = drawn(trace(call(outcome="cancelled", why="deadline")))
        assert bar.endswith("cancelled: deadline")

    def test_approaches_of_a_pipeline_are_told_apart(self) -> None:
        *_, first, second = drawn(trace(call(approach="moa"), call()))
        assert "moa proposer" in first
        assert "bon proposer" in second

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"code": "deadline_exceeded"}, "bon-sim failed after 0.50 s: deadline_exceeded."),
            ({"exhausted": "deadline"}, "Time ran out: the answer is the best that there was"),
            ({"exhausted": "max_calls"}, "The budget ran out (max_calls)."),
            ({"skipped": ["moa: no tools"]}, "Skipped: moa: no tools."),
            ({"members_missing": ["a", "b"]}, "Members missing: a, b."),
            ({"task": "title"}, "It was recognised as a chore (title)"),
            ({}, "sim answered, and nothing had to be chosen."),
        ],
    )
    def test_what_happened_is_said(self, members: dict[str, Any], said: str) -> None:
        assert any(line.startswith(said) for line in reasons(trace(call(), **members)))

    def test_who_wrote_the_answer_is_said_where_nothing_was_decided(self) -> None:
        last = call(role="aggregator", end=0.9)
        said = reasons(trace(call(), call(), last))
        assert said[-1] == "sim (aggregator) wrote the answer behind 2 earlier replies."

    @pytest.mark.parametrize("members", [{"exhausted": "deadline"}, {"code": "upstream_timeout"}])
    def test_nobody_is_said_to_have_written_what_was_cut_short(
        self, members: dict[str, Any]
    ) -> None:
        said = reasons(trace(call(), call(role="judge"), **members))
        assert not any("wrote the answer" in line for line in said)

    def test_calls_that_came_to_nothing_are_counted(self) -> None:
        lost = call(outcome="cancelled", why="decided")
        said = reasons(trace(call(), lost, lost, call(outcome="upstream_timeout")))
        assert "2 calls cancelled: the answer was decided without them." in said
        assert "1 call failed: upstream_timeout." in said

    def test_a_decision_is_a_sentence(self) -> None:
        told = {"approach": "bon", "kind": "rating", "why": "the highest of 3 ratings"}
        candidates = [{"model": "sim", "score": 9.0}]
        sentence = decision({**told, "candidates": candidates, "winner": 0})
        assert sentence == (
            "bon · rating among 1 candidate: the highest of 3 ratings. Number 1 won."
        )
        assert decision({**told, "candidates": candidates, "winner": None}).endswith("ratings.")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has answered three requests and keeps texts."""
    folder: Path = tmp_path_factory.mktemp("traced")
    with SimulatorThread(Behaviour()) as sim:
        flags = ["--base-url", sim.url, "--model", "sim", "--trace-text"]
        running = start_process(flags, folder / "log").wait_healthy()
        for number, model in enumerate(("sim", "bon-sim", "moa-sim")):
            httpx.post(
                f"{running.url}/v1/chat/completions",
                json=chat_body(model),
                headers={"x-request-id": f"r{number}"},
                timeout=60.0,
            )
        assert eventually(
            lambda: len(httpx.get(f"{running.url}/traces", timeout=30.0).json()["data"]) == 3
        )
        yield running
        running.stop()


def run(service: Service, *arguments: str) -> Result:
    return CliRunner().invoke(build(), [*arguments, "--url", service.url])


def found(service: Service, *arguments: str) -> Any:
    result = run(service, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["data"]


class TestTrace:
    def test_lists_the_last_requests_oldest_first(self, service: Service) -> None:
        lines = run(service, "trace").stdout.splitlines()
        assert [line.split()[2] for line in lines] == ["r0", "r1", "r2"]
        assert [each["id"] for each in found(service, "trace", "-n", "2")] == ["r1", "r2"]

    def test_draws_the_calls_of_one_and_its_decisions(self, service: Service) -> None:
        lines = run(service, "trace", "r1").stdout.splitlines()
        assert lines[0].split()[2:4] == ["r1", "bon-sim"]
        assert len([line for line in lines if " judge " in line]) == 3
        assert len([line for line in lines if line.startswith("▸ ")]) == 2
        assert lines[-1].startswith("bon · rating among 3 candidates")
        assert len(found(service, "trace", "r1")["calls"]) == 6

    def test_fails_for_a_request_that_is_not_known(self, service: Service) -> None:
        result = run(service, "trace", "nobody")
        assert result.exit_code == 1
        assert "trace_not_found" in result.stderr
        assert "optictl trace" in result.stderr

    def test_follows_what_ends(self, service: Service) -> None:
        arguments = ["trace", "--follow", "--url", service.url]
        command = [sys.executable, "-c", ENTRY, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            assert "r0" in following.stdout.readline()
            httpx.post(
                f"{service.url}/v1/chat/completions",
                json=chat_body("re2-sim"),
                headers={"x-request-id": "followed"},
            )
            lines = iter(following.stdout.readline, "")
            assert any("followed" in line for line in lines)
            following.terminate()

    def test_waits_for_one_that_runs_and_takes_no_json_then(self, service: Service) -> None:
        assert run(service, "trace", "r0", "--follow").exit_code == 0
        assert run(service, "trace", "--follow", "--json").exit_code == 2


class TestWhy:
    def test_tells_how_the_answer_was_chosen(self, service: Service) -> None:
        shown = run(service, "why", "r1").stdout
        assert "bon answered for sim: 6 calls in 2 rounds" in shown
        assert "rating among 3 candidates" in shown
        [winner] = [line for line in shown.splitlines() if line.startswith("▸")]
        assert "sim" in winner
        assert "391" in winner

    def test_tells_who_wrote_it_where_nothing_was_chosen(self, service: Service) -> None:
        assert "nothing had to be chosen" in run(service, "why", "r0").stdout
        assert "(aggregator) wrote the answer" in run(service, "why", "r2").stdout
        assert found(service, "why", "r2")["decisions"] == []


class TestUsage:
    def test_sums_up_by_handle(self, service: Service) -> None:
        told = found(service, "usage")
        calls = {row["handle"]: row["calls"] for row in told["rows"]}
        assert {"sim": 1, "bon-sim": 6, "moa-sim": 5}.items() <= calls.items()
        assert told["total"]["calls"] == sum(calls.values())
        shown = run(service, "usage", "--since", "4w")
        assert "bon-sim" in shown.stdout
        assert "--usage-file" in shown.stderr

    @pytest.mark.parametrize("since", ["", "7", "0d", "d", "500d", "99w", "yesterday"])
    def test_takes_days_and_weeks(self, service: Service, since: str) -> None:
        result = run(service, "usage", "--since", since)
        assert result.exit_code == 2
        assert "7d" in result.stderr
