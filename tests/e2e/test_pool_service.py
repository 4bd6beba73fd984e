"""The pool as a service has it: limits over all workers, reloads, and where its file is found."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from conftest import Service, chat_body, eventually
from pool_load import MIX, USUAL, Load, Pooled, peak, provider, serving, write_config
from raw_http import CHAT, Wire, request_bytes

from optictl.simulator import Behaviour, Fault, SimulatorThread

FAST = Behaviour(latency=0.002, tokens=4)
PATIENT = {"timeouts": {"request": 60, "connect": 5}}


def chat(service: Service, model: str = "sim", timeout: float = 30.0) -> httpx.Response:
    return httpx.post(service.url + CHAT, json=chat_body(model), timeout=timeout)


def ask_all(service: Service, count: int, *models: str) -> list[int]:
    """The statuses of so many requests, many at a time."""

    async def client(http: aiohttp.ClientSession, numbers: Iterator[int]) -> list[int]:
        statuses = []
        for number in numbers:
            body = chat_body(models[number % len(models)])
            async with http.post(service.url + CHAT, json=body) as response:
                statuses.append(response.status)
                await response.read()
        return statuses

    async def all_of_them() -> list[int]:
        numbers = iter(range(count))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            found = await asyncio.gather(*(client(http, numbers) for _ in range(24)))
        return [status for statuses in found for status in statuses]

    return asyncio.run(all_of_them())


class TestLimits:
    """With two workers they are those of the whole service."""

    def test_2500_calls_never_are_more_at_once_than_a_provider_takes(self, tmp_path: Path) -> None:
        with SimulatorThread(FAST, keep_bodies=False) as sim:
            config = write_config(
                tmp_path / "limits.yaml", {"a": provider(sim, max_concurrent=3)}, **PATIENT
            )
            with serving(tmp_path, "--proxy-config", str(config), "--workers", "2") as service:
                assert set(ask_all(service, 2500, "sim")) == {200}
            assert (sim.log.calls, sim.log.peak) == (2500, 3)

    def test_providers_on_one_host_are_limited_together(self, tmp_path: Path) -> None:
        with SimulatorThread(FAST) as a, SimulatorThread(FAST) as b:
            members = {"host": "box", "max_concurrent": 20}
            config = write_config(
                tmp_path / "limits.yaml",
                {"a": provider(a, **members), "b": provider(b, **members)},
                hosts={"box": 2},
                **PATIENT,
            )
            with serving(tmp_path, "--proxy-config", str(config), "--workers", "2") as service:
                assert set(ask_all(service, 500, "sim")) == {200}
            assert a.log.calls + b.log.calls == 500
            assert min(a.log.calls, b.log.calls) > 150
            assert peak(a, b) == 2

    def test_the_queue_limits_all_providers_together(self, tmp_path: Path) -> None:
        with SimulatorThread(FAST) as a, SimulatorThread(FAST) as b:
            config = write_config(
                tmp_path / "limits.yaml",
                {"a": provider(a, max_concurrent=20), "b": provider(b, max_concurrent=20)},
                # 24 requests of up to three calls at once: more than may wait by default.
                queue={"max_concurrent": 4, "size": 100},
                **PATIENT,
            )
            with serving(tmp_path, "--proxy-config", str(config), "--workers", "2") as service:
                assert set(ask_all(service, 500, "sim", "sim", "moa-sim")) == {200}
            assert peak(a, b) == 4

    def test_what_a_killed_worker_held_is_free_again(self, tmp_path: Path) -> None:
        with SimulatorThread(FAST) as sim:
            sim.behave(model="never", faults=(Fault("hang"),))
            config = write_config(
                tmp_path / "limits.yaml", {"a": provider(sim, max_concurrent=2)}, **PATIENT
            )
            with serving(tmp_path, "--proxy-config", str(config), "--workers", "2") as service:
                assert eventually(lambda: service.log.count(" serves on ") == 2)
                victim, other = service.workers()
                with ExitStack() as wires:

                    def send(model: str) -> Wire:
                        wire = wires.enter_context(Wire(service.port))
                        return wire.send(request_bytes(chat_body(model)))

                    with stopped(other):
                        send("never")
                        send("never")
                        assert eventually(lambda: sim.log.inflight == 2)
                    with stopped(victim):
                        waiting = send("sim")
                        with pytest.raises(httpx.ReadTimeout):
                            chat(service, timeout=0.5)
                        assert sim.log.calls == 2
                        os.kill(victim, signal.SIGKILL)
                    assert waiting.response().status == 200
                assert set(ask_all(service, 50, "sim")) == {200}
                assert sim.log.peak == 2


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While it is stopped, the other worker takes all that comes."""
    os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def reload_state(service: Service) -> Any:
    """What /health/ready says of the last reload."""
    response = httpx.get(f"{service.url}/health/ready", timeout=30.0)
    assert response.status_code == 200
    return response.json()["reload"]


def replaced(service: Service, workers: list[int]) -> bool:
    """Whether none of ``workers`` is there any more, in time."""
    return eventually(lambda: not set(workers) & set(service.workers()))


def refuses(service: Service, said: str) -> bool:
    """Whether it tells in time that it did not reload, and why."""
    return eventually(lambda: said in str(reload_state(service)))


class TestReload:
    def test_new_providers_serve_new_requests_and_old_streams_go_on(self, tmp_path: Path) -> None:
        file = tmp_path / "proxy_config.yaml"
        with SimulatorThread(USUAL) as old, SimulatorThread(USUAL) as new:
            old.behave(model="slow", tokens=1200, chunk_interval=0.02)
            write_config(file, {"a": provider(old)})
            with serving(tmp_path, "--proxy-config", str(file)) as service:
                before = service.workers()
                with Wire(service.port) as wire:
                    wire.send(request_bytes(chat_body("slow", stream=True)))
                    stream = wire.response()
                    assert stream.readline().startswith(b"data: ")
                    write_config(file, {"b": provider(new)})
                    service.signal(signal.SIGHUP)
                    assert eventually(lambda: chat(service).is_success and new.log.calls > 0)
                    # The old worker is there until the stream has ended, but for nothing else.
                    assert old.log.inflight == 1
                    assert set(before) < set(service.workers())
                    asked = old.log.calls
                    assert set(ask_all(service, 50, "sim", "moa-sim")) == {200}
                    assert old.log.calls == asked
                    text = stream.read()
                assert text.endswith(b"data: [DONE]\n\n")
                assert b'"finish_reason":"stop"' in text
                assert replaced(service, before)

    def test_no_request_is_dropped_by_reloads_under_load(self, tmp_path: Path) -> None:
        file = tmp_path / "proxy_config.yaml"
        with SimulatorThread(USUAL) as a, SimulatorThread(USUAL) as b:
            both = [{"a": provider(a)}, {"b": provider(b)}]
            write_config(file, both[0])
            with serving(tmp_path, "--proxy-config", str(file), "--workers", "2") as service:
                # On connections of their own: one that is kept may be closed as it is used again.
                with Load(service, MIX, keep_alive=False) as load:
                    for turn in range(1, 6):
                        workers = service.workers()
                        write_config(file, both[turn % 2])
                        service.signal(signal.SIGHUP)
                        assert replaced(service, workers)
                        load.more(15)
                Pooled(service, {"a": a, "b": b}).check(load.outcomes)
                assert min(a.log.calls, b.log.calls) > 50
                assert reload_state(service) is None

    def test_a_wrong_file_changes_nothing_and_is_told(self, tmp_path: Path) -> None:
        file = tmp_path / "proxy_config.yaml"
        with SimulatorThread(FAST) as sim:

            def restored() -> None:
                file.unlink(missing_ok=True)
                write_config(file, {"a": provider(sim)})

            restored()
            good = file.read_text()
            key = re.search(r'^ *"max_concurrent"', good, re.MULTILINE)
            assert key is not None
            line = good[: key.start()].count("\n") + 1
            column = key[0].index('"') + 1

            def renamed() -> None:
                other = tmp_path / "other.yaml"
                other.write_text(good.replace('"round_robin"', '"round_robbin"'))
                other.replace(file)

            strategy = good[: good.index('"strategy"')].count("\n") + 1
            wrongs: dict[str, tuple[Callable[[], object], str]] = {
                "a key": (
                    lambda: file.write_text(good.replace("max_concurrent", "max_concurent")),
                    f"{file}:{line}:{column}: unknown key 'max_concurent'; "
                    "did you mean 'max_concurrent'?",
                ),
                "emptied": (lambda: file.write_text(""), f"{file}:1:1: "),
                "renamed": (renamed, f"{file}:{strategy}:"),
                "mode": (lambda: file.chmod(0), f"{file}: nobody may read it (mode 0000)"),
                "deleted": (file.unlink, f"{file} does not exist"),
            }
            with serving(tmp_path, "--proxy-config", str(file)) as service:
                workers = service.workers()
                for spoil, said in wrongs.values():
                    restored()
                    before = service.log.count("reload refused")
                    spoil()
                    service.signal(signal.SIGHUP)
                    assert refuses(service, said), reload_state(service)
                    assert reload_state(service).startswith("refused, the previous configuration")
                    (line_,) = [
                        each for each in service.log.splitlines() if "reload refused" in each
                    ][before:]
                    assert said in line_
                    assert "ERROR" in line_
                    assert chat(service).status_code == 200
                    assert service.workers() == workers
                restored()
                service.signal(signal.SIGHUP)
                assert eventually(lambda: reload_state(service) is None)
                assert chat(service).status_code == 200
                assert "Traceback" not in service.log


class TestStart:
    def test_a_wrong_file_ends_the_start(self, tmp_path: Path) -> None:
        file = tmp_path / "proxy_config.yaml"
        text = "providers:\n  - name: a\n    base_url: http://127.0.0.1:1/v1\n    api_kee: x\n"
        file.write_text(text)
        absent = tmp_path / "absent.yaml"
        for path, said in (
            (file, f"{file}:4:5: unknown key 'api_kee'; did you mean 'api_key'?"),
            (absent, f"--proxy-config: {absent} does not exist"),
        ):
            with serving(tmp_path, "--proxy-config", str(path), healthy=False) as service:
                assert service.process.wait(60) == 2
                assert said in service.log
                assert "Traceback" not in service.log
                with pytest.raises(httpx.ConnectError):
                    httpx.get(f"{service.url}/health", timeout=30.0)

    def test_where_the_file_is_found(self, tmp_path: Path) -> None:
        names = ("flag", "yaml", "yml")
        home = tmp_path / ".optillm"
        home.mkdir()
        sims = {name: SimulatorThread(FAST) for name in names}
        files = {
            "flag": tmp_path / "given.yaml",
            "yaml": home / "proxy_config.yaml",
            "yml": home / "proxy_config.yml",
        }
        with sims["flag"], sims["yaml"], sims["yml"]:
            for name in names:
                write_config(files[name], {name: provider(sims[name])})

            def served_by(*flags: str) -> list[str]:
                for sim in sims.values():
                    sim.reset()
                with serving(tmp_path, *flags) as service:
                    assert chat(service).status_code == 200
                return [name for name, sim in sims.items() if sim.log.calls]

            assert served_by("--proxy-config", str(files["flag"])) == ["flag"]
            assert served_by() == ["yaml"]
            files["yaml"].unlink()
            assert served_by() == ["yml"]


def test_how_much_is_logged(tmp_path: Path) -> None:
    """The flag first, then the variable that OptiLLM's proxy reads, then the file."""
    with SimulatorThread(FAST) as sim:
        file = write_config(
            tmp_path / "proxy_config.yaml",
            {"a": provider(sim)},
            monitoring={"log_level": "WARNING"},
        )

        def informs(*flags: str, **env: str) -> bool:
            with serving(tmp_path, "--proxy-config", str(file), *flags, env=env) as service:
                assert chat(service).status_code == 200
                assert service.stop() == 0
                return " INFO optillm.requests " in service.log

        assert not informs()
        assert informs(OPTILLM_LOG_LEVEL="INFO")
        assert not informs("--log", "error", OPTILLM_LOG_LEVEL="INFO")


def test_latency_and_choice_are_logged_call_by_call(tmp_path: Path) -> None:
    with SimulatorThread(FAST) as a, SimulatorThread(FAST) as b:
        file = write_config(
            tmp_path / "proxy_config.yaml",
            {"a": provider(a), "b": provider(b)},
            monitoring={"track_latency": True},
        )
        with serving(tmp_path, "--proxy-config", str(file)) as service:
            a.behave(faults=(Fault(500, times=1),))
            assert [chat(service).status_code for _ in range(4)] == [200] * 4
            assert service.stop() == 0
            lines = re.findall(
                r"optillm\.pool provider=(\w) model=sim chosen_by=round_robin outcome=(\w+) "
                r"latency_ms=[\d.]+ success_rate=([\d.]+)",
                service.log,
            )
        calls = {"a": a.log.calls, "b": b.log.calls}
        assert {name: sum(line[0] == name for line in lines) for name in "ab"} == calls
        assert next(outcome for name, outcome, _ in lines if name == "a") == "upstream_error"
        assert {outcome for name, outcome, _ in lines if name == "b"} == {"ok"}
        rates = [float(rate) for name, _, rate in lines if name == "a"]
        assert rates[-1] == pytest.approx((calls["a"] - 1) / calls["a"], abs=0.001)
