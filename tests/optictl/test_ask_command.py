"""``optictl ask`` against the real service."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import QUESTION, Service, StartService, eventually, start_process
from typer.testing import CliRunner, Result

from optictl.cli import build
from optictl.simulator import Behaviour, Fault, SimulatorThread

ENTRY = [sys.executable, "-c", "from optictl.cli import main; main()"]


pytestmark = pytest.mark.xdist_group("ask")


@pytest.fixture(scope="module")
def model() -> Iterator[SimulatorThread]:
    with SimulatorThread() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def service(model: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that start it without flags of their own."""
    log = tmp_path_factory.mktemp("ask") / "service.log"
    running = start_process(["--base-url", model.url, "--model", "own"], log)
    try:
        yield running.wait_healthy()
    finally:
        running.stop()


@pytest.fixture
def sim(model: SimulatorThread) -> SimulatorThread:
    """The model behind it, as new."""
    model.behave(**{field.name: getattr(Behaviour(), field.name) for field in fields(Behaviour)})
    model.reset()
    return model


def ask(service: Service, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(build(), ["ask", *arguments, "--url", service.url], input=stdin)


def refusal(result: Result) -> str:
    """What a refused question ends with: exit status 1, and this line."""
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("optictl: ")
    return line


def rows(shown: str) -> list[list[str]]:
    """The lines of a waterfall as words: round, role, model, bar, ms, tokens, outcome."""
    lines = shown.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("round "))
    return [line.split() for line in lines[heading + 1 :] if re.match(r"\s+\d+  ", line)]


def test_the_answer_is_stdout_and_the_calls_are_stderr(
    service: Service, sim: SimulatorThread
) -> None:
    result = ask(service, "moa-sim", QUESTION)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith("The final answer is \\boxed{391}.\n")
    assert [row[1] for row in rows(result.stderr)] == [
        "proposer", "proposer", "proposer", "critic", "aggregator",
    ]  # fmt: skip
    assert [row[0] for row in rows(result.stderr)] == ["1", "1", "1", "2", "3"]
    assert {row[-1] for row in rows(result.stderr)} == {"ok"}
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"moa · 5 calls in 3 rounds · [\d,]+ tokens \([\d,]+ in, [\d,]+ out\) · \d+\.\d\d s", last
    )
    assert "\x1b" not in result.stdout + result.stderr


def test_what_else_can_be_asked_for(service: Service, sim: SimulatorThread) -> None:
    quiet = ask(service, "sim", QUESTION, "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout.endswith("\\boxed{391}.\n")

    sim.reset()
    piped = ask(service, "bon-sim", "-", "--options", '{"samples": 2}', stdin="What is 2 + 3?\n")
    assert piped.stdout.endswith("\\boxed{5}.\n")
    assert piped.stderr.splitlines()[-1].startswith("bon · 4 calls in 2 rounds")

    sim.reset()
    ask(service, "sim", QUESTION, "--system", "Answer in French.")
    body = sim.log.records[0].body
    assert body is not None
    assert body["messages"] == [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": QUESTION},
    ]

    both = ask(service, "re2|cot_reflection-sim", QUESTION)
    assert both.stdout.count("\\boxed{391}") == 2
    assert both.stderr.splitlines()[-1].startswith("re2|cot_reflection · 2 calls in 1 round")


def test_in_json_it_is_one_document(service: Service, sim: SimulatorThread) -> None:
    result = ask(service, "moa-sim", QUESTION, "--json", "--quiet")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["command"], found["status"], found["errors"]) == ("ask", "success", [])
    data: dict[str, Any] = found["data"]
    assert data["answer"].endswith("\\boxed{391}.")
    assert data["choices"] == [{"index": 0, "text": data["answer"]}]
    assert data["usage"]["total_tokens"] > 0
    assert data["optillm"]["calls"] == len(data["optillm"]["trace"]) == 5


def test_cancelled_calls_are_seen(service: Service, sim: SimulatorThread) -> None:
    sim.behave(latency=0.4, sigma=1.0)
    shown = ask(service, "self_consistency-sim", QUESTION, "--options", '{"samples": 9}').stderr
    cancelled = [row for row in rows(shown) if row[-1] == "cancelled"]
    assert cancelled
    assert all("✗" in row[3] for row in cancelled)
    assert re.search(r"^\d of 9 samples agree$", shown, re.MULTILINE)


def test_time_that_runs_out_with_and_without_an_answer(
    service: Service, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault("hang", role="aggregator"),))
    late = ask(service, "moa-sim", QUESTION, "--max-seconds", "3")
    assert late.exit_code == 0, late.stderr
    assert late.stdout.endswith("\\boxed{391}.\n")
    assert late.stderr.splitlines()[-1].endswith("· cut short by deadline")

    sim.behave(latency=60.0, faults=())
    never = ask(service, "moa-sim", QUESTION, "--max-seconds", "2")
    assert "(deadline_exceeded)" in refusal(never)
    assert "give it more time: --max-seconds" in refusal(never)
    assert never.stdout == ""
    assert [row[-1] for row in rows(never.stderr)] == ["cancelled"] * 3


@pytest.mark.parametrize(
    ("arguments", "code", "fix"),
    [
        (["memory-sim", "hi"], "approach_not_built", "Built: abmcts, bon"),
        (["moa|mao-sim", "hi"], "unknown_approach", "optictl approaches"),
        (["bon-sim", "hi", "--options", '{"samples": 700}'], "invalid_option", "from 1 to 64"),
        (["bon-sim", "hi", "--options", '{"n": 7}'], "unknown_option", "optictl approaches SLUG"),
    ],
)
def test_a_refusal_is_the_proxys_words_and_what_to_do(
    arguments: list[str], code: str, fix: str, service: Service, sim: SimulatorThread
) -> None:
    result = ask(service, *arguments)
    assert f"({code})" in refusal(result)
    assert fix in refusal(result)
    assert len(result.stderr.splitlines()) == 1
    [error] = json.loads(ask(service, *arguments, "--json").stdout)["errors"]
    assert error["code"] == code


def table(shown: str) -> dict[str, list[str]]:
    """A comparison's rows by approach: answer, calls, rounds, tokens, time."""
    heading, *lines = shown.partition("\n\n")[0].splitlines()
    assert heading.split() == ["APPROACH", "ANSWER", "CALLS", "ROUNDS", "TOKENS", "TIME"]
    cells = [re.split(r" {3,}", line) for line in lines]
    return {name: rest for name, *rest in cells}


def answers_below(shown: str) -> dict[str, str]:
    """The whole answers by approach."""
    _, *parts = re.split(r"^── (.+) ──$", shown, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_several_approaches_are_compared(service: Service, sim: SimulatorThread) -> None:
    sim.behave(latency=1.0)
    result = ask(service, "--approach", "none, moa,re2 & bon", "sim", QUESTION)
    assert result.exit_code == 0, result.stderr
    compared = table(result.stdout)
    assert {name: cells[1:3] for name, cells in compared.items()} == {
        "none": ["1", "1"], "moa": ["5", "3"], "re2&bon": ["6", "2"],
    }  # fmt: skip
    for cells in compared.values():
        assert cells[0].startswith("…")
        assert cells[0].endswith("The final answer is \\boxed{391}.")
        assert re.fullmatch(r"[\d,]+", cells[3])
        assert re.fullmatch(r"\d+\.\d\d s", cells[4])
    whole = answers_below(result.stdout)
    assert list(whole) == list(compared)
    assert all(text.startswith("Along path") for text in whole.values())
    # Side by side: all of them begin at once.
    assert sim.log.peak == 1 + 3 + 3
    assert sorted(line.partition(" · ")[0] for line in result.stderr.splitlines()) == [
        "moa", "none", "re2&bon",
    ]  # fmt: skip


def test_a_comparison_in_json_is_a_list(service: Service, sim: SimulatorThread) -> None:
    result = ask(service, "--approach", "bon,mao", "sim", QUESTION, "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["status"], found["exit_code"], found["errors"]) == ("success", 0, [])
    bon, mao = found["data"]
    assert (bon["approach"], bon["error"]) == ("bon", None)
    assert bon["answer"].endswith("\\boxed{391}.")
    assert bon["optillm"]["calls"] == len(bon["optillm"]["trace"]) == 6
    assert bon["usage"]["total_tokens"] > 0
    assert (mao["approach"], mao["answer"], mao["error"]["code"]) == ("mao", "", "unknown_approach")


def test_what_fails_is_shown_beside_what_does_not(service: Service, sim: SimulatorThread) -> None:
    result = ask(service, "--approach", "none,mao", "sim", QUESTION)
    assert result.exit_code == 0
    assert table(result.stdout)["mao"][:4] == ["failed: unknown_approach", "–", "–", "–"]
    assert "Did you mean 'moa'?" in answers_below(result.stdout)["mao"]
    assert "mao · failed: unknown_approach" in result.stderr

    every = ask(service, "--approach", "mao,bno", "sim", QUESTION, "--quiet")
    assert (every.exit_code, every.stderr) == (1, "")
    assert table(every.stdout).keys() == {"mao", "bno"}
    found = json.loads(ask(service, "--approach", "mao,bno", "sim", "hi", "--json").stdout)
    assert (found["status"], found["exit_code"]) == ("error", 1)
    assert [error["code"] for error in found["errors"]] == ["unknown_approach"] * 2
    assert [each["approach"] for each in found["data"]] == ["mao", "bno"]


def test_a_stream_that_breaks_off_is_told_behind_what_it_said(
    service: Service, sim: SimulatorThread
) -> None:
    sim.behave(chunk_interval=0.01, faults=(Fault("stream_cut"),))
    result = ask(service, "--approach", "none,re2", "sim", QUESTION)
    assert result.exit_code == 1
    for text in answers_below(result.stdout).values():
        assert text.startswith("Along path")
        assert "failed: " in text


def test_a_prefix_of_the_model_that_goes_first_is_said(
    service: Service, sim: SimulatorThread
) -> None:
    compared = table(ask(service, "--approach", "none,bon", "bon-sim", QUESTION).stdout)
    assert list(compared) == ["none (ran bon)", "bon"]


def test_one_approach_is_an_ordinary_question(service: Service, sim: SimulatorThread) -> None:
    result = ask(service, "--approach", "moa", "sim", QUESTION)
    assert result.stdout.startswith("Along path")
    assert len(rows(result.stderr)) == 5
    assert result.stderr.splitlines()[-1].startswith("moa · 5 calls in 3 rounds")
    refused = ask(service, "--approach", "mao", "sim", QUESTION)
    assert "(unknown_approach)" in refusal(refused)


def test_without_a_model_it_is_the_proxys_own(service: Service, sim: SimulatorThread) -> None:
    assert table(ask(service, "--approach", "none,re2", QUESTION).stdout).keys() == {"none", "re2"}
    assert {call.model for call in sim.log.records} == {"own"}
    sim.reset()
    assert ask(service, "--approach", "none", QUESTION).exit_code == 0
    assert {call.model for call in sim.log.records} == {"own"}


@pytest.mark.parametrize("names", ["none,,moa", ",none", "none,"])
def test_a_list_with_a_name_missing_is_no_question(names: str, sim: SimulatorThread) -> None:
    result = CliRunner().invoke(build(), ["ask", "--approach", names, "sim", QUESTION])
    assert result.exit_code == 2
    assert "--approach" in result.stderr
    assert not sim.log.records


def test_a_proxy_with_a_key(start_service: StartService, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret-kéy\n")
    key.chmod(0o600)
    service = start_service("--optillm-api-key-file", str(key))
    refused = ask(service, "sim", QUESTION)
    assert "--api-key-file FILE" in refusal(refused)
    answered = ask(service, "sim", QUESTION, "--api-key-file", str(key))
    assert answered.exit_code == 0, answered.stderr


def test_an_upstream_that_is_not_there(start_service: StartService) -> None:
    service = start_service("--base-url", "http://127.0.0.1:9/v1")
    result = ask(service, "sim", QUESTION)
    assert "(upstream_unreachable)" in refusal(result)
    assert "optictl serve --base-url URL" in refusal(result)


def test_a_stream_that_breaks_off_keeps_what_was_said(
    service: Service, sim: SimulatorThread
) -> None:
    sim.behave(chunk_interval=0.01, faults=(Fault("stream_cut"),))
    result = ask(service, "sim", QUESTION)
    assert result.exit_code == 1
    assert result.stdout.startswith("Along path")
    assert result.stdout.endswith("\n")
    assert len(rows(result.stderr)) == 1


@pytest.fixture
def slow_answer(service: Service, sim: SimulatorThread) -> Iterator[subprocess.Popen[bytes]]:
    """`optictl ask` as a process, reading an answer that takes some ten seconds to stream."""
    sim.behave(chunk_interval=0.5, tokens=48)
    command = [*ENTRY, "ask", "sim", QUESTION, "--url", service.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_the_answer_is_shown_while_it_arrives(slow_answer: subprocess.Popen[bytes]) -> None:
    assert slow_answer.stdout is not None
    first = os.read(slow_answer.stdout.fileno(), 4096)
    assert b"Along path".startswith(first[:10])
    assert b"boxed" not in first
    assert slow_answer.poll() is None


def test_interrupting_it_stops_the_upstream(
    slow_answer: subprocess.Popen[bytes], sim: SimulatorThread
) -> None:
    assert slow_answer.stdout is not None
    os.read(slow_answer.stdout.fileno(), 4096)
    assert sim.log.inflight == 1
    slow_answer.send_signal(signal.SIGINT)
    assert slow_answer.wait(20) == 130
    assert eventually(lambda: sim.log.inflight == 0)
    assert sim.log.dropped == 1


def test_interrupting_a_comparison_stops_all_of_it(service: Service, sim: SimulatorThread) -> None:
    sim.behave(latency=60.0)
    command = [*ENTRY, "ask", "--approach", "none,re2", "sim", QUESTION, "--url", service.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert eventually(lambda: sim.log.inflight == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert eventually(lambda: sim.log.inflight == 0)


def test_on_a_terminal_the_calls_are_live_and_in_colour(
    service: Service, sim: SimulatorThread
) -> None:
    sim.behave(latency=0.3)
    coloured = talk_on_a_terminal(service)
    assert "running" in coloured
    assert "\x1b[36m━" in coloured
    assert "aggregator" in coloured.rpartition("outcome")[2]


def test_no_color_means_no_colour(service: Service, sim: SimulatorThread) -> None:
    sim.behave(latency=0.3)
    bare = talk_on_a_terminal(service, NO_COLOR="1")
    assert "running" in bare
    assert not re.search(r"\x1b\[(3|9)\dm", bare)


def talk_on_a_terminal(service: Service, **env: str) -> str:
    """What ``optictl ask`` writes to a terminal behind stderr."""
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", **env}
    with subprocess.Popen(
        [*ENTRY, "ask", "moa-sim", QUESTION, "--url", service.url],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, **terminal},
    ) as process:
        os.close(theirs)
        written = b""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # nobody holds the other side any more
                break
            written += piece
        assert process.wait(30) == 0
    os.close(ours)
    return written.decode()
