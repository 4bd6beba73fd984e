"""What crosses between a request's thread and the loop, and what a client's leaving does."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import QUESTION, InProcess, MakeProxy, SimulatorThread, chat_body, events, eventually

from optictl.simulator import Fault
from proxy.edge import handoff
from proxy.edge.client import ClientGone, ClientSocket
from proxy.edge.handoff import Job
from proxy.errors import BadRequest, ShuttingDown
from proxy.registry import discover
from proxy.run.engine import Outcome
from proxy.run.ledger import Ledger
from proxy.run.plan import Plan, make_plan
from proxy.run.scope import Caller
from proxy.settings import Settings
from proxy.wire.request import parse_chat

KB = 1024
DONE = Outcome(None, {})
#: A server that does not tell its sockets: such a client is never seen to leave.
UNKNOWN = ClientSocket({})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that turns in a thread, as a worker's does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


Ends = tuple[socket.socket, dict[str, socket.socket]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A client's end of a connection, and the other in the environment of its request."""
    near, far = socket.socketpair()
    with near, far:
        yield near, {"gunicorn.socket": far}


class TestJob:
    def test_bytes_come_in_order_and_then_how_the_run_ended(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def run(job: Job) -> Outcome:
            for letter in b"abc":
                job.put(bytes([letter]))
                await asyncio.sleep(0)
            return DONE

        with Job(loop, run) as job:
            received = b""
            while isinstance(taken := job.take(UNKNOWN), bytes):
                received += taken
        assert received == b"abc"
        assert taken is DONE

    def test_what_is_ready_comes_in_one_piece(self, loop: asyncio.AbstractEventLoop) -> None:
        """A write to the client's socket is most of what a chunk costs."""
        written = threading.Event()

        async def run(job: Job) -> Outcome:
            for _ in range(10):
                job.put(b"x")
            written.set()
            return DONE

        with Job(loop, run) as job:
            assert written.wait(30)
            assert job.take(UNKNOWN) == b"x" * 10

    def test_what_the_run_raises_is_raised_to_the_view(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def run(job: Job) -> Outcome:
            raise BadRequest("no")

        with pytest.raises(BadRequest), Job(loop, run) as job:
            job.take(UNKNOWN)

    def test_a_run_that_the_engine_cancels_is_a_shutdown(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def run(job: Job) -> Outcome:
            raise asyncio.CancelledError

        with pytest.raises(ShuttingDown) as caught, Job(loop, run) as job:
            job.take(UNKNOWN)
        assert caught.value.headers()["Retry-After"] == "1"

    @pytest.mark.parametrize("error", [None, RuntimeError("a bug in the view"), GeneratorExit()])
    def test_leaving_the_block_always_cancels_the_run(
        self, loop: asyncio.AbstractEventLoop, error: BaseException | None
    ) -> None:
        started, ended = threading.Event(), threading.Event()

        async def run(job: Job) -> Outcome:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return DONE

        def view() -> None:
            with Job(loop, run):
                assert started.wait(30)
                if error is not None:
                    raise error

        if error is None:
            view()
        else:
            with pytest.raises(type(error)):
                view()
        assert ended.wait(30)

    def test_a_block_that_is_left_at_once_leaves_no_run(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        """The loop may not even have begun it."""

        async def run(job: Job) -> Outcome:
            await asyncio.Event().wait()
            return DONE

        with Job(loop, run):
            pass
        assert eventually(lambda: asyncio.run_coroutine_threadsafe(_others(), loop).result(30) == 0)

    def test_a_client_that_hangs_up_is_noticed_while_nothing_else_happens(
        self, loop: asyncio.AbstractEventLoop, ends: Ends
    ) -> None:
        client, environ = ends
        ended = threading.Event()

        async def run(job: Job) -> Outcome:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return DONE

        threading.Timer(0.3, client.close).start()
        with pytest.raises(ClientGone), Job(loop, run) as job:
            job.take(ClientSocket(environ))
        assert ended.wait(30)

    def test_a_client_that_pipelines_has_not_hung_up(
        self, loop: asyncio.AbstractEventLoop, ends: Ends
    ) -> None:
        client, environ = ends
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")

        async def run(job: Job) -> Outcome:
            await asyncio.sleep(0.5)
            return DONE

        with Job(loop, run) as job:
            assert job.take(ClientSocket(environ)) is DONE

    def test_a_run_waits_for_a_client_that_is_behind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Backpressure: a slow client's answer waits upstream, not in our memory."""
        ahead = Writer(chunks=100)
        with Job(loop, ahead.write) as job:
            assert eventually(lambda: ahead.waiting)
            assert not ahead.finished.wait(0.1)
            assert ahead.put <= 512 * KB
            while isinstance(job.take(UNKNOWN), bytes):
                pass
        assert ahead.put == 100 * Writer.CHUNK

    def test_all_choices_of_a_stream_go_on_when_the_client_catches_up(
        self, loop: asyncio.AbstractEventLoop, ends: Ends
    ) -> None:
        """They share one way out: each of them may be waiting for it."""
        writers = [Writer(chunks=20) for _ in range(3)]

        async def run(job: Job) -> Outcome:
            await asyncio.gather(*(writer.write(job) for writer in writers))
            return DONE

        client, environ = ends
        received = 0
        # What waits for ever ends as a client that is gone.
        late = threading.Timer(30, client.close)
        late.start()
        with Job(loop, run) as job:
            assert eventually(lambda: all(writer.waiting for writer in writers))
            while isinstance(taken := job.take(ClientSocket(environ)), bytes):
                received += len(taken)
        late.cancel()
        assert received == 3 * 20 * Writer.CHUNK


class Writer:
    """One choice, written as fast as it is let."""

    CHUNK = 64 * KB

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self.put = 0
        self.waiting = False
        self.finished = threading.Event()

    async def write(self, job: Job) -> Outcome:
        for _ in range(self._chunks):
            job.put(b"x" * self.CHUNK)
            self.put += self.CHUNK
            self.waiting = True
            await job.room()
            self.waiting = False
        self.finished.set()
        return DONE


async def _others() -> int:
    """How many other tasks the loop has."""
    return len(asyncio.all_tasks()) - 1


def plan_of(model: str = "sim", **members: Any) -> Plan:
    settings = Settings(base_url="http://unused", model="sim")
    request = parse_chat(chat_body(model, QUESTION, **members))
    return make_plan(request, discover(), (), settings)


class TestNoOrphans:
    """Whatever becomes of the view, the upstream stops generating."""

    @pytest.fixture(autouse=True)
    def never(self, sim: SimulatorThread) -> None:
        sim.behave(faults=(Fault("hang"),))

    @pytest.mark.parametrize("model", ["sim", "self_consistency-sim", "moa-sim"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_view_that_raises_after_submitting(
        self, proxy: InProcess, sim: SimulatorThread, model: str, stream: bool
    ) -> None:
        def view() -> None:
            with proxy.app.engine.submit(plan_of(model, stream=stream), Caller(), Ledger()):
                assert eventually(lambda: sim.log.inflight > 0)
                raise RuntimeError("a bug in the view")

        with pytest.raises(RuntimeError):
            view()
        assert idle(proxy, sim)

    @pytest.mark.parametrize("model", ["sim", "self_consistency-sim", "bon|re2-sim"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_client_that_leaves_before_the_answer(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        ends: Ends,
        model: str,
        stream: bool,
    ) -> None:
        client, environ = ends

        def leave() -> None:
            assert eventually(lambda: sim.log.inflight > 0)
            client.close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        response = proxy.post(
            json=chat_body(model, stream=stream),
            environ_overrides=environ,
        )
        leaving.join()
        assert response.status_code == 499
        assert idle(proxy, sim)

    def test_a_client_that_has_left_before_it_is_served(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        ends: Ends,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Its call is upstream by then.
        monkeypatch.setattr(handoff, "_WATCH_EVERY", 1.0)
        client, environ = ends
        client.close()
        response = proxy.post(json=chat_body(), environ_overrides=environ)
        assert response.status_code == 499
        assert idle(proxy, sim)


@pytest.mark.parametrize("model", ["sim", "re2-sim", "moa-sim"])
def test_a_client_that_leaves_in_the_middle_of_a_stream(
    proxy: InProcess, sim: SimulatorThread, model: str
) -> None:
    """The WSGI server closes the body it was iterating."""
    sim.behave(tokens=10_000, chunk_interval=0.01)
    response = proxy.post(json=chat_body(model, stream=True, max_tokens=9_000))
    body = iter(response.response)
    while not any(
        chunk["choices"][0]["delta"].get("content") for chunk in events(next(body).decode())
    ):
        pass
    response.close()
    assert idle(proxy, sim)


def test_an_engine_that_ends_answers_what_still_waits(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    sim.behave(faults=(Fault("hang"),))
    proxy = make_proxy()

    def end() -> None:
        assert eventually(lambda: sim.log.inflight == 1)
        proxy.app.engine.stop()

    ending = threading.Thread(target=end)
    ending.start()
    response = proxy.ask()
    ending.join()
    assert response.status_code == 503
    assert response.json["error"]["code"] == "shutting_down"


def idle(proxy: InProcess, sim: SimulatorThread) -> bool:
    """Whether soon nothing is left: every upstream call was hung up on, no run, no slot."""
    return eventually(
        lambda: (
            sim.log.inflight == 0
            and sim.log.dropped > 0
            and proxy.app.engine.engine.running == 0
            and proxy.app.admission.in_flight == 0
        )
    )
