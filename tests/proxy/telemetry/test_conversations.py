"""The conversation log: every path of a request, under the names that OptiLLM's log has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import InProcess, MakeProxy, chat_body, events, eventually
from driving import app_with, example

from optictl.simulator import Fault, SimulatorThread
from proxy.chat import Chat, Reply
from proxy.errors import UpstreamError
from proxy.llm import LLM
from proxy.run.ledger import Ledger
from proxy.settings import ConversationLog, Secret
from proxy.telemetry.conversations import Conversations
from proxy.telemetry.folder import DailyFiles
from proxy.telemetry.record import Record, Trace

MEMBERS = [
    *("timestamp", "request_id", "approach", "model", "client_request", "provider_calls"),
    *("final_response", "total_duration_ms", "error"),
]


def entries(folder: Path) -> list[dict[str, Any]]:
    """All lines that are written by now."""
    texts = (file.read_text() for file in sorted(folder.glob("conversations_*.jsonl")))
    return [json.loads(line) for text in texts for line in text.split("\n")[:-1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep/conversations"


@pytest.fixture
def logging_proxy(make_proxy: MakeProxy, folder: Path) -> InProcess:
    return make_proxy(conversations=ConversationLog(folder))


def only(folder: Path) -> dict[str, Any]:
    """The one entry, once it is there."""
    assert eventually(lambda: folder.is_dir() and len(entries(folder)) > 0)
    (entry,) = entries(folder)
    return entry


def streamed(proxy: InProcess, model: str) -> list[Any]:
    """The events of a stream that was read to its end and closed, as a server does."""
    response = proxy.post(json=chat_body(model, stream=True), buffered=True)
    return events(response.get_data(as_text=True))


class TestWhatIsWritten:
    def test_a_plain_request_has_the_members_of_optillms_log(
        self, logging_proxy: InProcess, folder: Path
    ) -> None:
        response = logging_proxy.ask(temperature=0.5, user="u")
        entry = only(folder)
        assert list(entry) == MEMBERS
        assert entry["request_id"] == response.headers["x-request-id"]
        assert (entry["approach"], entry["model"], entry["error"]) == ("none", "sim", None)
        asked = entry["client_request"]
        assert (asked["model"], asked["stream"], asked["n"]) == ("sim", False, 1)
        assert (asked["temperature"], asked["user"]) == (0.5, "u")
        (call,) = entry["provider_calls"]
        assert call["call_number"] == 1
        assert call["request"]["model"] == "sim"
        assert call["request"]["messages"] == asked["messages"]
        assert call["response"]["choices"][0]["message"]["content"]
        assert call["response"]["usage"]["completion_tokens"] > 0
        final = entry["final_response"]
        assert final.pop("timestamp") > entry["timestamp"]
        assert final == response.json

    def test_its_files_are_nobody_elses(self, logging_proxy: InProcess, folder: Path) -> None:
        logging_proxy.ask()
        only(folder)
        (file,) = folder.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.name == time.strftime("conversations_%Y-%m-%d.jsonl", time.gmtime())

    @pytest.mark.parametrize(
        ("model", "approach"),
        [
            ("bon-sim", "bon"),
            ("re2&bon-sim", "AND(re2,bon)"),
            ("bon|cot_reflection-sim", "OR(bon,cot_reflection)"),
        ],
    )
    def test_an_approach_has_each_of_its_calls(
        self, logging_proxy: InProcess, folder: Path, model: str, approach: str
    ) -> None:
        response = logging_proxy.ask(model)
        entry = only(folder)
        assert entry["approach"] == approach
        made = entry["provider_calls"]
        assert len(made) == response.json["optillm"]["calls"]
        assert [call["call_number"] for call in made] == list(range(1, len(made) + 1))
        assert all(call["response"]["choices"] for call in made)

    @pytest.mark.parametrize("model", ["sim", "bon-sim", "re2-sim", "bon|cot_reflection-sim"])
    def test_a_stream_is_written_as_what_it_amounts_to(
        self, logging_proxy: InProcess, folder: Path, model: str
    ) -> None:
        chunks = streamed(logging_proxy, model)
        entry = only(folder)
        assert entry["client_request"]["stream"] is True
        final = entry["final_response"]
        for choice in final["choices"]:
            said = (
                c["delta"].get("content") or ""
                for chunk in chunks[:-1]
                for c in chunk["choices"]
                if c["index"] == choice["index"]
            )
            assert choice["message"]["content"] == "".join(said)
            assert choice["finish_reason"] == "stop"
        assert final["choices"]
        assert all(call["response"]["choices"] for call in entry["provider_calls"])

    def test_a_legacy_completion_keeps_its_prompt(
        self, logging_proxy: InProcess, folder: Path
    ) -> None:
        logging_proxy.post("/v1/completions", json={"model": "sim", "prompt": "Say it"})
        entry = only(folder)
        assert entry["client_request"]["prompt"] == "Say it"
        assert entry["final_response"]["object"] == "text_completion"

    def test_nothing_is_written_unless_it_is_asked_for(
        self, make_proxy: MakeProxy, folder: Path
    ) -> None:
        make_proxy().ask()
        assert not folder.exists()

    def test_health_checks_and_strangers_are_no_conversations(
        self, make_proxy: MakeProxy, folder: Path
    ) -> None:
        proxy = make_proxy(conversations=ConversationLog(folder), proxy_key=Secret("a-proper-key"))
        assert proxy.ask().status_code == 401
        header = {"Authorization": "Bearer a-proper-key"}
        body = {"model": "optictl-health", "messages": [{"role": "user", "content": "hi"}]}
        assert proxy.post(json=body, headers=header).status_code == 200
        assert proxy.post(json={**body, "model": "sim"}, headers=header).status_code == 200
        assert only(folder)["model"] == "sim"


class TestWhatGoesWrong:
    def test_a_refused_request_says_why(self, logging_proxy: InProcess, folder: Path) -> None:
        logging_proxy.ask(temperature="hot")
        entry = only(folder)
        assert entry["error"].startswith("invalid_request: 'temperature'")
        assert entry["client_request"]["temperature"] == "hot"
        assert (entry["final_response"], entry["provider_calls"]) == (None, [])

    def test_an_upstreams_error_stands_with_its_call(
        self, make_proxy: MakeProxy, sim: SimulatorThread, folder: Path
    ) -> None:
        sim.behave(faults=(Fault(500),))
        make_proxy(conversations=ConversationLog(folder)).ask("bon-sim")
        entry = only(folder)
        assert entry["error"].startswith("upstream_error")
        calls = entry["provider_calls"]
        assert calls
        assert {(call["outcome"], call["response"]) for call in calls} == {("upstream_error", None)}

    def test_a_stream_that_breaks_keeps_what_was_said(
        self, make_proxy: MakeProxy, folder: Path
    ) -> None:
        @example
        async def breaking(chat: Chat, llm: LLM) -> Reply:
            """Break in the middle of the answer."""
            await llm.emit("The beginning")
            raise UpstreamError("it is gone")

        proxy = app_with(make_proxy, breaking, conversations=ConversationLog(folder))
        streamed(proxy, "example-sim")
        entry = only(folder)
        assert entry["error"] == "upstream_error: it is gone"
        assert entry["final_response"]["choices"][0]["message"]["content"] == "The beginning"

    def test_a_bug_in_an_approach_is_told(self, make_proxy: MakeProxy, folder: Path) -> None:
        @example
        async def buggy(chat: Chat, llm: LLM) -> Reply:
            """Divide by zero."""
            return Reply.of(str(1 / 0))

        proxy = app_with(make_proxy, buggy, conversations=ConversationLog(folder))
        response = proxy.ask("example-sim")
        assert response.status_code == 500
        entry = only(folder)
        assert entry["error"].startswith("internal_error")
        assert entry["request_id"] == response.headers["x-request-id"]


class TestKeysAndBulk:
    def test_keys_are_hidden_wherever_they_are_quoted(
        self, make_proxy: MakeProxy, folder: Path
    ) -> None:
        proxy = make_proxy(
            conversations=ConversationLog(folder), upstream_key=Secret("plain-words-key")
        )
        proxy.ask(
            content="plain-words-key and sk-abcdefgh12345 and Bearer abcdef123456",
            metadata={"api_key": "hunter2"},
        )
        only(folder)
        text = "".join(file.read_text() for file in folder.iterdir())
        for key in ("plain-words-key", "sk-abcdefgh", "abcdef123456", "hunter2"):
            assert key not in text

    def test_a_picture_is_shortened(self, logging_proxy: InProcess, folder: Path) -> None:
        url = "data:image/png;base64," + "iVBORw0KGgo" * 1000
        logging_proxy.ask(content=[{"type": "image_url", "image_url": {"url": url}}])
        part = only(folder)["client_request"]["messages"][0]["content"][0]
        assert part["image_url"]["url"] == "data:image/png;base64,[11000 characters]"

    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
    def test_a_prompt_of_ten_megabytes_is_cut(self, logging_proxy: InProcess, folder: Path) -> None:
        assert logging_proxy.ask(content="long " * 2_000_000).status_code == 200
        entry = only(folder)
        assert entry["truncated"] is True
        said = entry["client_request"]["messages"][0]["content"]
        assert said.startswith("long long")
        assert said.endswith("… [of 10000000 characters]")
        assert entry["final_response"]["choices"][0]["message"]["content"]
        assert sum(file.stat().st_size for file in folder.iterdir()) < 1_500_000

    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
    def test_no_end_of_items_is_cut(self, logging_proxy: InProcess, folder: Path) -> None:
        logging_proxy.ask(metadata={"many": [[]] * 300_000})
        entry = only(folder)
        assert entry["truncated"] is True
        assert len(entry["client_request"]["metadata"]["many"]) < 200_000


class Disk:
    """Stands in for the files: refuses while ``full``."""

    def __init__(self) -> None:
        self.full = True
        self.lines: list[str] = []
        self.tried = 0

    def open(self) -> None:
        pass

    def append(self, lines: bytes) -> None:
        self.tried += 1
        if self.full:
            raise OSError(28, "No space left on device")
        self.lines += lines.decode().splitlines()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def log(disk: Disk) -> Iterator[Conversations]:
    conversations = Conversations(cast(DailyFiles, disk), again=0.01)
    conversations.start()
    yield conversations
    conversations.close()


def record(identity: str, size: int = 100) -> Record:
    return Record(
        id=identity,
        path="/v1/chat/completions",
        began=0.0,
        seconds=1.0,
        status=400,
        code="invalid_request",
        stream=False,
        tenant="",
        trace=Trace.begin(),
        plan=None,
        ledger=Ledger(),
        request={"messages": []},
        request_size=size,
    )


class TestADiskThatRefuses:
    def test_it_is_told_once_and_nothing_short_is_lost(
        self, log: Conversations, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        log.ended(record("first"))
        assert eventually(lambda: disk.tried > 3)
        log.ended(record("second"))
        disk.full = False
        assert eventually(lambda: len(disk.lines) == 2)
        assert [json.loads(line)["request_id"] for line in disk.lines] == ["first", "second"]
        told = [r.getMessage() for r in caplog.records if r.name == "optillm.conversations"]
        assert told == [
            "conversations are not written at present, all else goes on: "
            "[Errno 28] No space left on device",
            "conversations are written again",
        ]

    def test_what_waits_is_bounded_and_what_is_lost_is_counted(
        self, log: Conversations, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(100):
            log.ended(record(str(number), size=10 * 1024 * 1024))
        disk.full = False
        assert eventually(lambda: "left out" in caplog.text)
        assert len(disk.lines) == 6
        assert "94 conversations were left out: too many waited" in caplog.text

    def test_a_worker_ends_though_its_disk_never_takes_anything(
        self, log: Conversations, disk: Disk
    ) -> None:
        log.ended(record("lost"))
        log.close()
        assert disk.lines == []

    def test_what_waits_at_the_end_is_written(self, log: Conversations, disk: Disk) -> None:
        disk.full = False
        for number in range(50):
            log.ended(record(str(number)))
        log.close()
        assert len(disk.lines) == 50

    def test_an_entry_that_cannot_be_told_costs_no_other(
        self, log: Conversations, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        disk.full = False
        log.ended(replace(record("odd"), request={"a": object()}))
        log.ended(record("sound"))
        assert eventually(lambda: len(disk.lines) == 1)
        assert "request odd is missing in the conversation log" in caplog.text
