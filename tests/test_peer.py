"""The pieces of `make bench-peer`: both sides get the same load, the same model, the same judge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import peer, peer_approaches
from benchmarks.load import Load, run
from benchmarks.peer_approaches import Graded
from benchmarks.peer_model import PeerModel
from benchmarks.sides import Effort, Optillm, Row
from optictl.simulator import Behaviour, SimulatorThread, distractor, gold
from optictl.simulator.questions import find_answer

QUESTION = "What is 17 * 23 + 5?"
#: Our own drop-in for the peer: the console script that takes its flags.
STAND_IN = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(Path(peer.__file__).parents[1])!r})
from optictl.cli import optillm
optillm()
"""


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


class HangsUp:
    """A server that ends each connection after one answer, and says so if it is polite."""

    def __init__(self, head: str) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\n{{}}".encode()
        self.answered = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            self.answered += 1
            writer.write(self._answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def loaded(head: str) -> tuple[Any, HangsUp]:
    async def test() -> tuple[Any, HangsUp]:
        peer = HangsUp(head)
        async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            load = Load(f"http://127.0.0.1:{port}/v1", 3, seconds=0.3, warm_up=0.05)
            return await run(load), peer

    return asyncio.run(test())


def test_who_hangs_up_after_each_answer_is_called_again_for_each() -> None:
    measured, server = loaded("Connection: close\r\n")
    assert measured.errors == {}
    assert 3 < measured.requests <= measured.total <= server.answered


def test_who_hangs_up_without_a_word_has_failed() -> None:
    measured, server = loaded("")
    assert (measured.errors, server.answered) == ({"connection lost": 3}, 3)


def said(model: PeerModel, system: str, user: str, draft: str = "") -> str:
    """What the model answers behind the question and a draft, where it is told this."""
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": QUESTION},
        *([{"role": "assistant", "content": draft}] if draft else []),
        {"role": "user", "content": user},
    ]
    answered = httpx.post(
        f"{model.url}/chat/completions", json={"model": "sim", "messages": messages}
    )
    text: str = answered.raise_for_status().json()["choices"][0]["message"]["content"]
    return text


def stated(answer: str) -> str:
    return f"The final answer is \\boxed{{{answer}}}."


RIGHT, WRONG = stated(gold(QUESTION)), stated(distractor(QUESTION, 0))


@pytest.mark.parametrize(
    ("system", "user", "read"),
    [
        ("Grade on a scale from 0 to 10. Nothing but the number.", "Your grade:", float),
        ("From 0 to 10. Begin with Score: [number]", "Now.", lambda s: float(s.split()[-1])),
        ("", "How good is this, from 0 to 1.", lambda s: 10 * float(s)),
        ("", "End with Rating: [[rating]]", lambda s: 10 * int(s.strip("Rating: []"))),
        ("", "The verdict (CORRECT/INCORRECT/UNSURE):", lambda s: 10 * ("INCORRECT" not in s)),
    ],
)
def test_a_judge_answers_in_the_form_that_it_is_asked_for(
    system: str, user: str, read: Callable[[str], float], sim: SimulatorThread
) -> None:
    sim.behave(judge_separation=10.0)
    with PeerModel(sim.url) as model:
        assert read(said(model, system, user, RIGHT)) > 5
        assert 0 <= read(said(model, system, user, WRONG)) < 5
    assert len({call.role for call in sim.log.records} - {"solver", "stage", "aggregator"}) == 1


@pytest.mark.parametrize(
    ("system", "user", "role", "answer"),
    [
        ("", f"{WRONG}\n{RIGHT}\nBEST CANDIDATE: [number]", "selector", "2"),
        ("You are in sneaky mode.", QUESTION, "deceiver", ""),
        ("", f"Original: {QUESTION}\nRefined query:", "stage", f"{gold(QUESTION)}"),
        ("", f"Please provide 3 observations on {QUESTION}", "stage", "care."),
        (
            "",
            f"Can a solver do it? If so provide Python code. {QUESTION} SOLVER_CAN_BE_APPLIED: [ ]",
            "stage",
            "stated.",
        ),
        ("", f"{QUESTION} Solver Result: 7\n\nResponse:", "aggregator", "7"),
        ("", f"Here's my final solution: {stated('7')}\n\nNow use it.", "aggregator", "7"),
    ],
)
def test_each_call_plays_its_part(
    system: str, user: str, role: str, answer: str, sim: SimulatorThread
) -> None:
    sim.behave(judge_separation=10.0)
    with PeerModel(sim.url) as model:
        text = said(model, system, user)
    (call,) = sim.log.records
    assert call.role == role
    if text.startswith("What is"):
        text = gold(text)
    assert not answer or find_answer(text) == answer or text.endswith(answer)


def test_other_calls_go_through_as_they_are(sim: SimulatorThread) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": QUESTION}], "seed": 7}
    with PeerModel(sim.url) as model:
        through = httpx.post(f"{model.url}/chat/completions", json=body, timeout=30.0)
        assert (
            httpx.post(
                f"{model.url}/chat/completions", json={**body, "n": 0}, timeout=30.0
            ).status_code
            == 400
        )
    direct = httpx.post(f"{sim.url}/chat/completions", json=body, timeout=30.0)
    assert through.json()["choices"] == direct.json()["choices"]
    assert sim.log.records[0].body == body


def test_the_peer_gets_a_key_and_no_other_setting_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPTILLM_API_KEY would make it serve local models."""
    monkeypatch.setenv("OPTILLM_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "of somebody")
    told = tmp_path / "told"
    named = "{name: value for name, value in os.environ.items() if name.endswith('_API_KEY')}"
    tell = f"open({str(told)!r}, 'w').write(json.dumps([{named}, sys.argv[1:]]))"
    text = STAND_IN.replace("import os", "import json, os").replace(
        "optillm()", f"{tell}\noptillm()"
    )
    with Optillm(script(tmp_path / "optillm", text), "http://127.0.0.1:9/v1") as service:
        assert httpx.get(f"{service.url}/health", timeout=30.0).status_code == 200
        assert service.started_in > 0
        pids = service.pids
    environment, flags = json.loads(told.read_text())
    assert environment == {"OPENAI_API_KEY": "x"}
    assert flags[-2:] == ["--base-url", "http://127.0.0.1:9/v1"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_both_answer_the_same_questions_from_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ourselves in the peer's place."""
    program = script(tmp_path / "optillm", STAND_IN)
    monkeypatch.setattr(peer_approaches, "PROMPTS", ("re2",))
    monkeypatch.setattr(peer_approaches, "APPROACHES", ("self_consistency", "plansearch"))
    effort = Effort(seconds=0.2, rounds=1, starts=1, repeats=1, questions=6)
    single, vote, *searches = peer_approaches.accuracy(lambda url: Optillm(program, url), effort)
    assert (single.ours, single.better) == (single.theirs, "as good or better")
    assert single.ours.endswith("1.0 choices")
    assert vote.name == "accuracy of self_consistency (exact vote of 5: 0.81)"
    for told in (vote.ours, vote.theirs):
        assert re.fullmatch(r"[01]\.\d\d ± 0\.\d\d, 5\.0 choices( \(\d\.\d cancelled\))?", told)
    # Once as it is by default, once with what more choices buy.
    assert [row.name for row in searches] == [
        "accuracy of plansearch", "accuracy of plansearch, samples=8, selections=3",
    ]  # fmt: skip


def test_both_are_timed_before_each_kind_of_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path / "optillm", STAND_IN)
    monkeypatch.setattr(peer_approaches, "PROMPTS", ("none",))
    monkeypatch.setattr(peer_approaches, "APPROACHES", ("leap", "leap&nope"))
    upstreams = {
        "honoured": Behaviour(latency=0.02),
        "refused": Behaviour(latency=0.02, n="refused"),
        "lognormal": Behaviour(latency=0.02, sigma=0.6),
    }
    monkeypatch.setattr(peer_approaches, "UPSTREAMS", upstreams)
    effort = Effort(seconds=0.2, rounds=1, starts=1, repeats=1, questions=1)
    rows = list(peer_approaches.walls(lambda url: Optillm(program, url), effort))
    assert [row.name for row in rows[:4]] == [
        "wall of none, honoured",
        "wall of leap, honoured",
        "wall of leap&nope, honoured",
        "their wall over ours, honoured, geometric mean of 1",
    ]
    assert (rows[2].ours, rows[2].theirs, rows[2].better) == ("fails", "fails", "")
    assert [row.name for row in rows[4:7]] == [
        row.name.replace("honoured", "refused") for row in rows[1:4]
    ]
    assert [row.name for row in rows[7:-1]] == [
        row.name.replace("honoured", "lognormal") for row in rows[1:4]
    ]
    # Where latencies differ, also for an operator who does not wait for the slowest.
    assert rows[-1].name == "their wall over ours, lognormal, geometric mean of 1, --patience 0"
    assert re.fullmatch(r"\d\.\d\d s, 1 round, 1 choice", rows[1].ours)
    assert rows[3].better == pytest.approx(rows[1].better)
    assert rows[3].ours.endswith("(leap)")


def test_what_is_worse_is_named() -> None:
    theirs = Graded(right=0.8, questions=100, choices=5.0)
    assert theirs.error == pytest.approx(0.04)
    assert theirs.told == "0.80 ± 0.04, 5.0 choices"
    assert Graded(0.73, 100, 5.0).beside(theirs) == "as good or better"
    assert Graded(0.71, 100, 5.0).beside(theirs) == "less right"
    assert Graded(0.71, 100, 5.1, 0.3).beside(theirs) == "less right, more choices"


def test_how_many_times_better() -> None:
    assert Row("a", "1 s", "2.5 s", 2.5).cells == ("a", "1 s", "2.5 s", "2.5 ×")
    assert Row("a", "0.8", "0.6").cells[-1] == ""
    assert Row("a", "0.8", "0.9", "less right").cells[-1] == "less right"


def test_a_peer_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.main(["--optillm", os.fspath(tmp_path / "none")]) == 2
    assert "make bench-peer installs it" in capsys.readouterr().err


def test_a_peer_that_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = script(tmp_path / "optillm", f"#!{sys.executable}\nraise SystemExit('no luck')\n")
    assert peer.main(["--optillm", program, "--quick"]) == 1
    assert "no luck" in capsys.readouterr().err
