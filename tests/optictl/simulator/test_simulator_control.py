"""The simulator steered from another process: its control paths and the command."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import pytest
import typer
from typer.testing import CliRunner

from optictl.cli import build
from optictl.commands.simulate import simulate
from optictl.simulator import Behaviour, Simulator, SimulatorThread, distractor, gold

QUESTION = "What is 17 * 23 + 5?"
BODY = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}


class Control:
    """One simulator and plain requests to it."""

    def __init__(self, sim: Simulator, http: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.http = http

    async def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = self.sim.url.removesuffix("/v1") + path
        async with self.http.request(method, url, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None


def controlled(script: Any, behaviour: Behaviour | None = None) -> None:
    async def run() -> None:
        async with Simulator(behaviour) as sim, aiohttp.ClientSession() as http:
            await script(Control(sim, http))

    asyncio.run(run())


def test_calls_are_summed_up_and_forgotten() -> None:
    async def script(control: Control) -> None:
        for _ in range(2):
            await control.send("POST", "/v1/chat/completions", BODY)
        _, seen = await control.send("GET", "/sim/calls")
        assert {key: seen[key] for key in ("calls", "choices", "peak", "inflight", "dropped")} == {
            "calls": 2,
            "choices": 2,
            "peak": 1,
            "inflight": 0,
            "dropped": 0,
        }
        assert [record["role"] for record in seen["records"]] == ["solver", "solver"]
        assert "body" not in seen["records"][0]
        _, seen = await control.send("GET", "/sim/calls?bodies=1")
        assert seen["records"][1]["body"] == BODY
        assert await control.send("DELETE", "/sim/calls") == (204, None)
        _, seen = await control.send("GET", "/sim/calls")
        assert (seen["calls"], seen["records"]) == (0, [])

    controlled(script)


def test_behaviour_is_changed_for_one_model_or_for_all() -> None:
    async def script(control: Control) -> None:
        faults = [{"kind": 429, "times": 1, "retry_after": 3}]
        status, now = await control.send("PUT", "/sim/behaviour", {"model": "m", "faults": faults})
        assert (status, now["faults"][0]["kind"]) == (200, 429)
        await control.send("PUT", "/sim/behaviour", {"probability": 0, "distractors": [1, 2]})
        other = {**BODY, "model": "other"}
        status, answer = await control.send("POST", "/v1/chat/completions", other)
        assert status == 200
        assert "396" not in answer["choices"][0]["message"]["content"]
        for expected in (429, 200):
            status, answer = await control.send("POST", "/v1/chat/completions", BODY)
            assert status == expected
        assert "396" in answer["choices"][0]["message"]["content"]

    controlled(script)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"latency": -1}, "latency"),
        ({"latency": "slow"}, "latency"),
        ({"n": "sometimes"}, "n"),
        ({"speed": 1}, "speed"),
        ({"faults": [{"kind": "earthquake"}]}, "earthquake"),
        ([], "object"),
    ],
)
def test_an_impossible_change_is_refused_and_named(body: Any, named: str) -> None:
    async def script(control: Control) -> None:
        status, answer = await control.send("PUT", "/sim/behaviour", body)
        assert status == 400
        assert named in answer["error"]["message"]

    controlled(script)


def test_gold_and_distractors_are_told() -> None:
    async def script(control: Control) -> None:
        _, answer = await control.send("GET", "/sim/gold?question=What+is+17+*+23+%2B+5?")
        wrong = [distractor(QUESTION, i) for i in range(3)]
        assert answer == {"gold": gold(QUESTION), "distractors": wrong}

    controlled(script)


def test_a_role_may_be_named_in_a_header() -> None:
    async def script(control: Control) -> None:
        for role, status in (("judge", 200), ("jester", 400)):
            control.http.headers["x-sim-role"] = role
            assert (await control.send("POST", "/v1/chat/completions", BODY))[0] == status
        assert control.sim.log.records[0].role == "judge"

    controlled(script)


def app() -> typer.Typer:
    typed = typer.Typer()
    typed.command()(simulate)
    return typed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_its_url_and_runs_until_told_to_stop(
    tmp_path: Path, number: signal.Signals
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-sim\n")
    code = (
        "import typer; from optictl.commands.simulate import simulate;"
        "app = typer.Typer(); app.command()(simulate); app()"
    )
    options = ["--port", "0", "--latency", "0", "--models", "a, b", "--api-key-file", str(key)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        request = Request(f"{url}/models", headers={"Authorization": "Bearer sk-sim"})
        with urlopen(request) as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["a", "b"]
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_the_command_refuses_a_port_in_use() -> None:
    with SimulatorThread() as sim:
        port = sim.url.rsplit(":", 1)[1].removesuffix("/v1")
        result = CliRunner().invoke(build(), ["simulate", "--port", port])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"optictl: cannot listen on 127.0.0.1:{port}: ")


def test_the_help_shows_examples() -> None:
    result = CliRunner().invoke(app(), ["--help"])
    assert result.exit_code == 0
    assert "optictl simulate --port 0" in result.output
