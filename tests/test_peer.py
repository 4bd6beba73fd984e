"""The pieces of `make bench-peer`: both sides get the same load, the same model, the same judge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import peer
from benchmarks.load import Load, run
from benchmarks.peer import Effort, Optillm, Row
from benchmarks.plain_scores import PlainScores
from optictl.simulator import SimulatorThread, distractor, gold

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


def rating_of(answer: str, scores: PlainScores) -> float:
    """What the judge says of a candidate where it is asked for a number alone."""
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "system", "content": "Grade on a scale from 0 to 10. Nothing but the number."},
        {"role": "assistant", "content": f"The final answer is \\boxed{{{answer}}}."},
        {"role": "user", "content": "Your grade:"},
    ]
    answered = httpx.post(
        f"{scores.url}/chat/completions", json={"model": "sim", "messages": messages}
    )
    return float(answered.raise_for_status().json()["choices"][0]["message"]["content"])


def test_a_judge_who_is_to_say_a_number_says_a_number(sim: SimulatorThread) -> None:
    sim.behave(judge_separation=10.0)
    with PlainScores(sim.url) as scores:
        right, wrong = gold(QUESTION), distractor(QUESTION, 0)
        assert rating_of(right, scores) > 5 > rating_of(wrong, scores) >= 0
    assert [call.role for call in sim.log.records] == ["judge", "judge"]


def test_other_calls_go_through_as_they_are(sim: SimulatorThread) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": QUESTION}], "seed": 7}
    with PlainScores(sim.url) as scores:
        through = httpx.post(f"{scores.url}/chat/completions", json=body)
        assert (
            httpx.post(f"{scores.url}/chat/completions", json={**body, "n": 0}).status_code == 400
        )
    direct = httpx.post(f"{sim.url}/chat/completions", json=body)
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
        assert httpx.get(f"{service.url}/health").status_code == 200
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
    monkeypatch.setattr(peer, "APPROACHES", ("re2", "self_consistency"))
    effort = Effort(seconds=0.2, rounds=1, starts=1, repeats=1, questions=6)
    single, vote = peer.accuracy(lambda url: Optillm(program, url), effort)
    assert single.ours == single.theirs
    assert single.ours.endswith("1.0 choices")
    assert vote.name == "accuracy of self_consistency (exact vote of 5: 0.81)"
    for told in (vote.ours, vote.theirs):
        assert re.fullmatch(r"[01]\.\d\d ± 0\.\d\d, 5\.0 choices( \(\d\.\d cancelled\))?", told)


def test_how_many_times_better() -> None:
    assert Row("a", "1 s", "2.5 s", 2.5).cells == ("a", "1 s", "2.5 s", "2.5 ×")
    assert Row("a", "0.8", "0.6").cells[-1] == ""


def test_a_peer_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.main(["--optillm", os.fspath(tmp_path / "none")]) == 2
    assert "make bench-peer installs it" in capsys.readouterr().err


def test_a_peer_that_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = script(tmp_path / "optillm", f"#!{sys.executable}\nraise SystemExit('no luck')\n")
    assert peer.main(["--optillm", program, "--quick"]) == 1
    assert "no luck" in capsys.readouterr().err
