"""The service told to stop, to reload, or in trouble by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import (
    Service,
    SimulatorThread,
    StartService,
    chat_body,
    content_of,
    events,
    eventually,
)
from raw_http import CHAT, Wire, request_bytes

ROOT = Path(__file__).parents[2]
ODD = Path(__file__).parent / "odd_service.py"


class Client:
    """Requests on threads of their own, so that a test can act meanwhile."""

    def __init__(self, service: Service, **headers: str) -> None:
        self._url = service.url + CHAT
        self._headers = headers
        self._pool = ThreadPoolExecutor()

    def ask(self, model: str = "sim", **members: Any) -> Future[httpx.Response]:
        return self._pool.submit(
            httpx.post,
            self._url,
            json=chat_body(model, **members),
            headers=self._headers,
            timeout=60.0,
        )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused(service: Service) -> bool:
    """Whether a new connection is refused."""
    try:
        socket.create_connection(("127.0.0.1", service.port), timeout=5.0).close()
    except ConnectionRefusedError:
        return True
    except (ConnectionResetError, TimeoutError):
        # In the backlog of a socket that closed under it.
        return False
    return False


class TestStop:
    def test_requests_shorter_than_the_drain_are_finished_and_new_ones_refused(
        self, start_service: StartService, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=5.0)
        service = start_service("--graceful-timeout", "20")
        client = Client(service)
        plain, streamed = client.ask(), client.ask(stream=True)
        assert eventually(lambda: sim.log.inflight == 2)
        with Wire(service.port) as kept:
            assert kept.send(request_bytes({})).response().read()
            service.signal(signal.SIGTERM)
            assert eventually(lambda: refused(service))
            # On a connection from before, as long as it is still there.
            with suppress(ConnectionError):
                answer = kept.send(request_bytes(chat_body())).response()
                assert answer.status == 503
                assert json.loads(answer.read())["error"]["code"] == "shutting_down"
        assert not plain.done(), "refused only because it had ended"
        assert plain.result().status_code == 200
        chunks = events(streamed.result().text)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert service.process.wait(60) == 0
        assert sim.log.dropped == 0

    def test_runs_longer_than_the_drain_end_with_what_they_have(
        self, start_service: StartService, sim: SimulatorThread
    ) -> None:
        """Every run's deadline is brought forward; none is cut, none hangs."""
        sim.behave(latency=60.0, model="never")
        sim.behave(tokens=4000, chunk_interval=0.05, model="endless")
        service = start_service(
            "--with",
            json.dumps({"graceful_timeout": 4.0}),
            script=ODD,
            env={"PYTHONPATH": str(ROOT)},
        )
        client = Client(service)
        kept = client.ask("keeps-sim")
        kept_stream = client.ask("keeps-sim", stream=True)
        nothing = client.ask("never")
        sampled = client.ask("self_consistency-never")
        streamed = client.ask("endless", stream=True)
        staged = client.ask("re2-endless", stream=True)
        assert eventually(lambda: sim.log.inflight == 1 + 5 + 2)
        service.signal(signal.SIGTERM)

        assert kept.result().status_code == 200
        assert kept.result().json()["choices"][0]["message"]["content"] == "kept"
        assert kept.result().json()["optillm"]["exhausted"] == "shutdown"
        chunks = events(kept_stream.result().text)
        assert content_of(chunks) == "kept"
        assert chunks[-1] == "[DONE]"
        for response in (nothing.result(), sampled.result()):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "shutting_down"
            assert "Retry-After" in response.headers
        for response in (streamed.result(), staged.result()):
            assert response.status_code == 200
            chunks = events(response.text)
            assert content_of(chunks)
            assert chunks[-1] == "[DONE]"
            last = chunks[-2]
            assert last["choices"][0]["finish_reason"] == "length"
            assert last["optillm"]["exhausted"] == "shutdown"
        assert service.process.wait(60) == 0
        assert eventually(lambda: sim.log.inflight == 0)

    def test_a_stop_in_the_middle_of_the_start_is_a_clean_end(
        self, start_service: StartService
    ) -> None:
        """Between the fork and its own handlers a worker hears no SIGTERM."""
        services = [start_service(healthy=False) for _ in range(3)]
        for nth, service in enumerate(services):
            # From the moment that the master listens, in steps through the worker's start.
            assert eventually(lambda service=service: not refused(service))
            time.sleep(0.15 * nth)
            service.signal(signal.SIGTERM)
        assert [service.process.wait(60) for service in services] == [0] * 3
        for service in services:
            assert "Traceback" not in service.log

    def test_an_interrupt_ends_at_once_but_not_without_a_word(
        self, start_service: StartService, sim: SimulatorThread
    ) -> None:
        """Ctrl-C reaches master and worker alike."""
        sim.behave(latency=60.0)
        service = start_service()
        waiting = Client(service).ask()
        assert eventually(lambda: sim.log.inflight == 1)
        for pid in (service.process.pid, *service.workers()):
            os.kill(pid, signal.SIGINT)
        assert waiting.result().status_code == 503
        assert service.process.wait(60) == 0
        assert eventually(lambda: sim.log.inflight == 0)


class TestReload:
    def test_a_bad_configuration_leaves_the_old_one_serving(
        self, start_service: StartService, ca_bundle: Path, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_text("old")
        key.chmod(0o600)
        bundle = ca_bundle
        service = start_service("--optillm-api-key-file", str(key), "--ssl-cert-path", str(bundle))

        def fails(spoil: Callable[[], object]) -> None:
            lines = service.log.count("reload refused")
            workers = service.workers()
            spoil()
            service.signal(signal.SIGHUP)
            assert eventually(lambda: service.log.count("reload refused") == lines + 1)
            assert service.workers() == workers
            assert Client(service, **bearer("old")).ask().result().status_code == 200

        fails(lambda: key.write_text(""))
        fails(lambda: (key.write_text("new"), key.chmod(0o644)))
        fails(key.unlink)
        assert f"--optillm-api-key-file: {key} does not exist" in service.log
        key.write_text("new")
        key.chmod(0o600)
        fails(bundle.unlink)
        assert f"--ssl-cert-path: {bundle}: No such file" in service.log
        assert service.stop() == 0

    def test_a_good_configuration_takes_over_while_a_stream_goes_on(
        self, start_service: StartService, sim: SimulatorThread, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_text("old")
        key.chmod(0o600)
        service = start_service("--optillm-api-key-file", str(key))
        sim.behave(tokens=800, chunk_interval=0.03, model="slow")
        sim.behave(latency=60.0, model="never")
        streamed = Client(service, **bearer("old")).ask("slow", stream=True)
        # It would hold up a master that waits for its old workers.
        waiting = Client(service, **bearer("old")).ask("never")
        assert eventually(lambda: sim.log.inflight == 2)
        old = service.workers()
        key.write_text("new")
        service.signal(signal.SIGHUP)

        def status(key: str) -> int:
            return httpx.post(
                service.url + CHAT, json=chat_body(), headers=bearer(key), timeout=30.0
            ).status_code

        # Once more, before the new one can have heard of the first.
        assert eventually(lambda: service.workers() != old)
        service.signal(signal.SIGHUP)
        assert eventually(lambda: status("new") == 200)
        assert eventually(lambda: len(service.workers()) == 2)
        assert status("old") == 401
        assert not streamed.done()
        chunks = events(streamed.result().text)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"

        # While the old worker still drains, the master looks after the new one.
        assert set(old) < set(service.workers())
        (new,) = set(service.workers()) - set(old)
        os.kill(new, signal.SIGKILL)
        assert eventually(lambda: status("new") == 200)
        # And it hears that it is to stop; what waited is answered, not cut.
        sim.behave(latency=0.0, model="never")
        service.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: refused(service))
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) is not None
        assert waiting.result().status_code == 503


class TestTrouble:
    def test_a_stuck_loop_shows_its_stacks_and_its_worker_is_replaced(
        self, start_service: StartService
    ) -> None:
        service = start_service(
            "--with",
            json.dumps({"loop_stuck_after": 1.5}),
            script=ODD,
            env={"PYTHONPATH": str(ROOT)},
        )
        (old,) = service.workers()
        stuck = Client(service).ask("stuck-sim")
        assert eventually(lambda: service.workers() not in ([], [old]))
        with pytest.raises(httpx.TransportError):
            stuck.result()
        service.wait_healthy()
        assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 200
        assert "event loop stuck" in service.log
        # The stack that shows where.
        assert "odd_service.py" in service.log
        assert "in stuck" in service.log
        assert service.stop() == 0

    def test_a_worker_whose_master_was_killed_ends_and_frees_the_port(
        self, start_service: StartService, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=6.0)
        service = start_service()
        (worker,) = service.workers()
        waiting = Client(service).ask()
        assert eventually(lambda: sim.log.inflight == 1)
        service.process.kill()
        service.process.wait(5)
        assert eventually(lambda: refused(service))
        assert not waiting.done(), "refused only because it had ended"
        assert waiting.result().status_code == 200
        assert eventually(lambda: not Path(f"/proc/{worker}").exists())

    def test_a_killed_worker_is_replaced(self, start_service: StartService) -> None:
        service = start_service("--workers", "2")
        old = service.workers()
        assert len(old) == 2
        os.kill(old[0], signal.SIGKILL)
        assert eventually(lambda: len(service.workers()) == 2 and old[0] not in service.workers())
        for _ in range(4):
            assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 200
        assert service.stop() == 0

    def test_workers_that_cannot_start_end_the_service(self, start_service: StartService) -> None:
        service = start_service(
            "--with",
            json.dumps({"ssl_ca": "no certificate", "workers": 4}),
            script=ODD,
            env={"PYTHONPATH": str(ROOT)},
            healthy=False,
        )
        assert service.process.wait(60) == 3
        assert service.log.count("optictl serve: a worker could not start") == 1
        assert "cadata does not contain a certificate" in service.log
        # The others fail while the master ends because of the first.
        assert "HaltServer" not in service.log
        assert refused(service)


def test_the_master_has_one_thread_and_no_event_loop(start_service: StartService) -> None:
    """Neither survives a fork: a lock that some thread holds would be held for ever."""
    service = start_service()
    assert len(list(Path(f"/proc/{service.process.pid}/task").iterdir())) == 1
    kinds = [str(fd.readlink()) for fd in Path(f"/proc/{service.process.pid}/fd").iterdir()]
    assert "anon_inode:[eventpoll]" not in kinds
    worker = service.workers()[0]
    assert len(list(Path(f"/proc/{worker}/task").iterdir())) > 2


def test_systemd_hears_that_it_is_ready_only_when_a_worker_answers(
    start_service: StartService, tmp_path: Path
) -> None:
    """gunicorn itself would say so before the fork."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60.0)
        service = start_service(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, healthy=False)

        def heard() -> str:
            return systemd.recv(4096).decode()

        assert heard().startswith("READY=1")
        assert httpx.get(f"{service.url}/health", timeout=30.0).status_code == 200
        assert heard() == "WATCHDOG=1"
        service.signal(signal.SIGTERM)
        while (state := heard()) == "WATCHDOG=1":
            pass
        assert state == "STOPPING=1"
