"""What the service remembers of its requests: /traces, /usage, traceparent, and the faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from conftest import InProcess, MakeProxy, chat_body, eventually

from optictl.simulator import SimulatorThread
from proxy.run.ledger import Ledger
from proxy.settings import Secret, Tracing
from proxy.telemetry.batches import Batches
from proxy.telemetry.entry import Texts, dumped, entry_of
from proxy.telemetry.record import Record, Trace
from proxy.telemetry.ring import Ring
from proxy.telemetry.traces import Traces

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def traced(proxy: InProcess, identity: str) -> Any:
    """The trace of a request, once it is there."""
    path = f"/v1/traces/{quote(identity, safe='')}"
    assert eventually(lambda: proxy.http.get(path).status_code == 200)
    return proxy.http.get(path).json


def ask(proxy: InProcess, model: str = "sim", *, identity: str = "r1", **members: Any) -> Any:
    """The trace of one request."""
    response = proxy.post(json=chat_body(model, **members), headers={"x-request-id": identity})
    response.get_data()
    response.close()
    return traced(proxy, identity)


def record(identity: str = "r1", ledger: Ledger | None = None, **members: Any) -> Record:
    values: dict[str, Any] = {
        "path": "/v1/chat/completions",
        "began": 1_000_000_000.0,
        "seconds": 0.5,
        "status": 200,
        "code": "",
        "stream": False,
        "tenant": "t",
        "trace": Trace.begin(),
        "plan": None,
        **members,
    }
    return Record(id=identity, ledger=ledger or Ledger(), **values)


class TestATrace:
    def test_tells_of_the_request_and_of_each_call(self, proxy: InProcess) -> None:
        told = ask(proxy, "moa-sim")
        assert {
            "id": "r1",
            "status": 200,
            "approach": "moa",
            "model": "sim",
        }.items() <= told.items()
        assert (told["handle"], told["rounds"], told["code"]) == ("moa-sim", 3, None)
        roles = [call["role"] for call in told["calls"]]
        assert roles == ["proposer", "proposer", "proposer", "critic", "aggregator"]
        for call in told["calls"]:
            assert call["approach"] == "moa"
            assert call["outcome"] == "ok"
            assert 0 <= call["start"] <= call["sent"] <= call["first"] <= call["end"]
            assert call["completion_tokens"] > 0
        assert told["completion_tokens"] == sum(c["completion_tokens"] for c in told["calls"])

    def test_is_a_tree_with_a_critical_path(self, proxy: InProcess) -> None:
        calls = ask(proxy, "moa-sim")["calls"]
        assert [call["after"] for call in calls[:3]] == [None, None, None]
        last = calls[3]["after"]
        assert calls[last]["end"] == max(call["end"] for call in calls[:3])
        assert calls[4]["after"] == 3
        assert [i for i, call in enumerate(calls) if call["critical"]] == [last, 3, 4]

    def test_says_why_calls_were_cancelled_by_a_vote(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.2, sigma=1.0)
        calls = ask(proxy, "self_consistency-sim")["calls"]
        cancelled = [call for call in calls if call["outcome"] == "cancelled"]
        assert len(calls) == 5
        assert {call["why"] for call in cancelled} <= {"decided"}
        assert {call["why"] for call in calls if call["outcome"] == "ok"} == {None}

    def test_says_why_calls_were_cancelled_by_a_deadline(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=30.0)
        told = ask(proxy, "bon-sim", optillm_budget={"max_seconds": 1.2})
        assert (told["status"], told["code"]) == (504, "deadline_exceeded")
        assert {call["why"] for call in told["calls"]} == {"deadline"}
        assert all(call["end"] is not None for call in told["calls"])

    def test_says_why_calls_were_cancelled_by_the_client(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.0, chunk_interval=5.0, tokens=200)
        response = proxy.post(json=chat_body(stream=True), headers={"x-request-id": "gone"})
        next(iter(response.response))
        response.close()
        told = traced(proxy, "gone")
        assert (told["status"], told["code"]) == (499, "client_gone")
        assert [call["why"] for call in told["calls"]] == ["client_gone"]

    def test_of_a_refused_request_has_no_calls(self, proxy: InProcess) -> None:
        proxy.post(data=b"{", headers={"x-request-id": "bad"})
        told = traced(proxy, "bad")
        assert (told["status"], told["approach"], told["calls"]) == (400, "-", [])

    @pytest.mark.parametrize("identity", ["a/b", "with space", "50%", "?x=1"])
    def test_is_found_by_whatever_id_the_client_gave(self, proxy: InProcess, identity: str) -> None:
        assert ask(proxy, identity=identity)["id"] == identity

    def test_holds_no_text(self, proxy: InProcess) -> None:
        told = ask(proxy, "bon-sim", content="a secret question")
        assert "secret" not in orjson.dumps(told).decode()
        assert "prompt" not in told
        assert "answer" not in told

    @pytest.mark.parametrize("stream", [False, True])
    def test_holds_text_where_that_is_wanted(self, make_proxy: MakeProxy, stream: bool) -> None:
        proxy = make_proxy(tracing=Tracing(text=True))
        told = ask(proxy, "bon-sim", stream=stream)
        assert "user: What is 17 * 23?" in told["prompt"]
        assert "391" in told["answer"]
        [decision] = told["decisions"]
        assert all("391" in each["text"] for each in decision["candidates"])


class TestTheList:
    def test_is_of_the_newest_first_without_their_calls(self, proxy: InProcess) -> None:
        for identity in ("one", "two", "three"):
            ask(proxy, identity=identity)
        listed = proxy.http.get("/traces?limit=2").json["data"]
        assert [each["id"] for each in listed] == ["three", "two"]
        assert listed[0]["calls"] == 1
        assert "decisions" not in listed[0]
        assert listed[0]["number"] > listed[1]["number"]

    def test_can_be_asked_for_some(self, proxy: InProcess) -> None:
        ask(proxy, "re2-sim", identity="one")
        proxy.post(data=b"{", headers={"x-request-id": "two"})
        traced(proxy, "two")

        def ids(query: str) -> list[str]:
            return [each["id"] for each in proxy.http.get(f"/v1/traces?{query}").json["data"]]

        assert ids("approach=re2") == ["one"]
        assert ids("status=400") == ["two"]
        assert ids("model=sim&status=200") == ["one"]
        assert ids("handle=nobody") == []

    @pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "9" * 30, "٣"])
    def test_refuses_a_limit_that_is_none(self, proxy: InProcess, limit: str) -> None:
        response = proxy.http.get("/traces", query_string={"limit": limit})
        assert response.status_code == 400
        assert response.json["error"]["param"] == "limit"

    @pytest.mark.parametrize("path", ["/traces", "/v1/traces/r1", "/v1/usage", "/usage"])
    def test_is_for_those_with_the_key(self, make_proxy: MakeProxy, path: str) -> None:
        proxy = make_proxy(proxy_key=Secret("sesame"))
        assert proxy.http.get(path).status_code == 401
        allowed = proxy.http.get(path, headers={"Authorization": "Bearer sesame"})
        assert allowed.status_code in (200, 404)

    def test_says_what_is_not_there_by_a_code(self, proxy: InProcess) -> None:
        response = proxy.http.get("/v1/traces/nobody")
        assert response.status_code == 404
        assert response.json["error"]["code"] == "trace_not_found"


class TestUsage:
    def test_is_that_of_the_traces_where_there_is_no_file(self, proxy: InProcess) -> None:
        ask(proxy, "bon-sim")
        told = proxy.http.get("/v1/usage").json
        [row] = told["data"]
        assert (told["kept"], row["handle"], row["requests"], row["calls"]) == (
            "traces", "bon-sim", 1, 6,
        )  # fmt: skip
        assert row["model_seconds"] > 0

    def test_is_kept_across_services(self, make_proxy: MakeProxy, tmp_path: Path) -> None:
        tracing = Tracing(usage=tmp_path / "usage.jsonl")
        ask(make_proxy(tracing=tracing))
        second = make_proxy(tracing=tracing)
        ask(second)
        told = second.http.get("/v1/usage?days=1").json
        assert eventually(lambda: second.http.get("/usage").json["data"][0]["requests"] == 2)
        assert told["kept"] == "file"

    def test_that_cannot_be_written_stops_nothing(
        self, make_proxy: MakeProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = make_proxy(tracing=Tracing(usage=tmp_path / "gone" / "usage.jsonl"))
        for identity in ("one", "two", "three"):
            ask(proxy, identity=identity)
        assert proxy.http.get("/usage").status_code == 200
        told = [each for each in caplog.messages if "usage cannot be kept" in each]
        assert len(told) == 1


class TestTraceparent:
    def test_is_carried_on_and_answered(self, proxy: InProcess, sim: SimulatorThread) -> None:
        headers = {"traceparent": PARENT, "x-request-id": "r1"}
        response = proxy.post(json=chat_body("bon-sim"), headers=headers)
        told = traced(proxy, "r1")
        assert (told["trace_id"], told["parent_id"]) == ("a" * 32, "b" * 16)
        assert response.headers["traceparent"] == f"00-{'a' * 32}-{told['span_id']}-01"
        sent = [call.headers["traceparent"] for call in sim.log.records]
        assert {each.split("-")[1] for each in sent} == {"a" * 32}
        # Each call is a span of its own.
        assert len({each.split("-")[2] for each in sent}) == len(sent) == 6
        assert told["span_id"] not in {each.split("-")[2] for each in sent}

    def test_is_answered_in_a_stream(self, proxy: InProcess) -> None:
        response = proxy.post(json=chat_body(stream=True), headers={"traceparent": PARENT})
        assert response.headers["traceparent"].startswith(f"00-{'a' * 32}-")

    def test_that_says_not_to_sample_still_says_so_upstream(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        proxy.post(json=chat_body(), headers={"traceparent": PARENT[:-2] + "00"})
        assert sim.log.records[0].headers["traceparent"].endswith("-00")

    def test_is_not_invented(self, proxy: InProcess, sim: SimulatorThread) -> None:
        response = proxy.ask()
        assert "traceparent" not in response.headers
        assert "traceparent" not in sim.log.records[0].headers

    @pytest.mark.parametrize("header", ["", "00-zz", f"00-{'0' * 32}-{'b' * 16}-01"])
    def test_that_is_none_begins_a_trace_of_our_own(self, proxy: InProcess, header: str) -> None:
        response = proxy.post(
            json=chat_body(), headers={"traceparent": header, "x-request-id": "r1"}
        )
        assert "traceparent" not in response.headers
        assert traced(proxy, "r1")["parent_id"] is None


class TestTheLog:
    def test_has_a_line_for_each_request(self, make_proxy: MakeProxy, tmp_path: Path) -> None:
        log = tmp_path / "traces.jsonl"
        proxy = make_proxy(tracing=Tracing(log=log))
        ask(proxy, identity="one")
        ask(proxy, "bon-sim", identity="two")
        assert eventually(lambda: log.exists() and log.read_bytes().count(b"\n") == 2)
        told = [orjson.loads(line) for line in log.read_bytes().splitlines()]
        assert [(each["id"], len(each["calls"])) for each in told] == [("one", 1), ("two", 6)]

    def test_in_a_folder_has_a_file_a_day(self, make_proxy: MakeProxy, tmp_path: Path) -> None:
        proxy = make_proxy(tracing=Tracing(log=tmp_path / "traces", daily=True))
        ask(proxy)
        assert eventually(lambda: len(list((tmp_path / "traces").glob("traces_*.jsonl"))) == 1)

    def test_whose_folder_goes_is_told_once_and_again_when_it_is_back(
        self, make_proxy: MakeProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "logs"
        proxy = make_proxy(tracing=Tracing(log=folder / "traces.jsonl"))
        for identity in ("one", "two"):
            ask(proxy, identity=identity)
        folder.mkdir()
        ask(proxy, identity="three")
        assert eventually(lambda: "the trace log can be kept again" in caplog.text)
        assert caplog.text.count("the trace log cannot be kept") == 1
        # Nobody was refused, and /traces has all of them.
        assert len(proxy.http.get("/traces").json["data"]) == 3

    def test_on_a_full_disk_stops_nothing(
        self, make_proxy: MakeProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = make_proxy(tracing=Tracing(log=Path("/dev/full")))
        for identity in ("one", "two"):
            ask(proxy, identity=identity)
        assert eventually(lambda: "the trace log cannot be kept" in caplog.text)
        assert caplog.text.count("the trace log cannot be kept") == 1


class TestBounds:
    # Meant for callers that could pass a file.
    @pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
    def test_prompts_of_ten_megabytes_leave_small_traces(self, make_proxy: MakeProxy) -> None:
        proxy = make_proxy(tracing=Tracing(text=True))
        told = ask(proxy, content="x" * 10_000_000)
        assert told["status"] == 200
        assert len(told["prompt"]) == 64 * 1024

    def test_a_trace_that_is_too_large_loses_its_text_and_then_its_calls(self) -> None:
        ledger = Ledger()
        for number in range(5_000):
            call = ledger.begin("proposer", f"model-{number}", 1)
            ledger.sent(call, "upstream")
            ledger.end(call, "ok")
        ledger.decide("bon", "rating", [("x" * 20_000, None)] * 200, 0)
        request = {"id": "r1"}
        told = orjson.loads(dumped(entry_of(request, ledger, Texts([], None))))
        assert told["cut"]
        assert len(told["calls"]) == 1_000
        few = Ledger(decisions=ledger.decisions)
        told = orjson.loads(dumped(entry_of(request, few, Texts([], None))))
        assert told["cut"]
        assert {each["text"] for each in told["decisions"][0]["candidates"]} == {None}

    def test_names_and_codes_of_an_upstreams_invention_are_cut(self) -> None:
        ledger = Ledger(skipped=["z" * 1_000_000])
        call = ledger.begin("final", "x" * 1_000_000, 1)
        ledger.sent(call, "upstream")
        ledger.end(call, "y" * 1_000_000)
        assert len(dumped(entry_of({}, ledger, None))) < 2_000

    def test_what_an_upstream_says_of_its_tokens_is_not_believed_without_end(self) -> None:
        ledger = Ledger()
        call = ledger.begin("final", "sim", 1)
        ledger.sent(call, "upstream")
        ledger.end(call, "ok", {"prompt_tokens": 1e300, "completion_tokens": 2**70})
        told = orjson.loads(dumped(entry_of({}, ledger, None)))
        assert told["prompt_tokens"] == told["completion_tokens"] == 2**40

    def test_a_writer_that_hangs_costs_traces_and_no_request(self) -> None:
        writing, going_on = threading.Event(), threading.Event()

        def hang(_: object) -> None:
            writing.set()
            going_on.wait(30)

        batches: Batches[int] = Batches("test", hang)
        batches.put(0, [])
        assert writing.wait(30)
        began = time.monotonic()
        for number in range(10_000):
            batches.put(number, [])
        assert batches._waiting.qsize() <= 4_096
        assert time.monotonic() - began < 10
        going_on.set()
        batches.close()

    def test_what_came_while_the_last_batch_was_written_is_written(self) -> None:
        writing, going_on = threading.Event(), threading.Event()
        written: list[int] = []

        def write(items: Sequence[int]) -> None:
            writing.set()
            going_on.wait(30)
            written.extend(items)

        batches: Batches[int] = Batches("test", write)
        batches.put(0, [])
        assert writing.wait(30)
        batches.put(1, [])
        closing = threading.Thread(target=batches.close)
        closing.start()
        assert batches._closed.wait(30)
        going_on.set()
        closing.join()
        assert written == [0, 1]


class TestTheWriter:
    def test_waits_for_calls_that_are_being_cancelled(self) -> None:
        ledger, ring = Ledger(), Ring()
        call = ledger.begin("final", "sim", 1)
        ledger.sent(call, "upstream")
        traces = Traces(ring)
        traces.ended(record(ledger=ledger))
        time.sleep(0.3)
        assert list(traces.newest()) == []
        ledger.end(call, "cancelled")
        assert eventually(lambda: bool(list(traces.newest())))
        [told] = traces.newest("r1")
        assert told["calls"][0]["outcome"] == "cancelled"
        traces.close()

    def test_writes_what_waits_when_it_ends(self) -> None:
        ledger = Ledger()
        ledger.sent(ledger.begin("final", "sim", 1), "upstream")
        traces = Traces(Ring())
        for number in range(20):
            traces.ended(record(f"r{number}", ledger))
        traces.close()
        assert [each["id"] for each in traces.newest()] == [f"r{n}" for n in range(19, -1, -1)]

    def test_does_not_mind_a_clock_that_jumps(self) -> None:
        traces = Traces(Ring())
        traces.ended(record("later", began=2_000_000_000.0))
        traces.ended(record("earlier", began=1_000_000_000.0))
        traces.close()
        told = list(traces.newest())
        assert [each["id"] for each in told] == ["earlier", "later"]
        assert [each["began"][:10] for each in told] == ["2001-09-09", "2033-05-18"]
        assert all(each["seconds"] == 0.5 for each in told)


def test_nothing_of_the_keys_is_in_a_trace(make_proxy: MakeProxy, sim: SimulatorThread) -> None:
    keys = {"upstream_key": Secret("upstream-key-123"), "proxy_key": Secret("proxy-key-456")}
    proxy = make_proxy(tracing=Tracing(text=True), **keys)
    authorization = {"Authorization": "Bearer proxy-key-456"}
    proxy.post(json=chat_body("bon-sim"), headers={**authorization, "x-request-id": "r1"})

    def found() -> Any:
        return proxy.http.get("/traces/r1", headers=authorization)

    assert eventually(lambda: found().status_code == 200)
    assert "key-" not in found().get_data(as_text=True)
