"""The pieces of `make bench`; what they find is for people to read, not for a test to hold."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, free_port

from benchmarks import bench, critical_path
from benchmarks.figures import Figure, counted, ms, percentile, table
from benchmarks.load import Load, Measured, chat, measure, run
from benchmarks.proc import Meanwhile, cpu_seconds, rss, usage
from benchmarks.processes import NotStartedError, Proxy, Upstream
from optictl.simulator import Fault, SimulatorThread
from proxy.registry import discover


def driven(load: Load) -> Measured:
    return asyncio.run(run(load))


def test_each_connection_asks_once_where_no_time_is_given(sim: SimulatorThread) -> None:
    sim.behave(latency=0.2)
    measured = driven(Load(sim.url, 20))
    assert (measured.total, measured.requests, measured.errors) == (20, 20, {})
    assert sim.log.peak == 20
    assert measured.seconds >= measured.p99 >= measured.p50 >= 0.2


def test_otherwise_it_asks_again_and_counts_after_the_warm_up(sim: SimulatorThread) -> None:
    sim.behave(latency=0.01)
    measured = driven(Load(sim.url, 3, seconds=0.3, warm_up=0.1))
    assert 0 < measured.requests < measured.total <= sim.log.calls
    assert 0.29 < measured.seconds < 10
    assert measured.rate == measured.requests / measured.seconds
    assert measured.errors == {}
    assert sim.log.peak == 3


def test_bodies_take_turns(sim: SimulatorThread) -> None:
    driven(Load(sim.url, 4, bodies=[chat("a"), chat("b", stream=True)]))
    asked = sorted((call.model, call.stream) for call in sim.log.records)
    assert asked == [("a", False), ("a", False), ("b", True), ("b", True)]


def test_the_first_token_of_a_stream_is_the_first_that_says_something(sim: SimulatorThread) -> None:
    sim.behave(latency=0.05, chunk_interval=0.05)
    measured = driven(Load(sim.url, 2, bodies=[chat(stream=True)]))
    # The chunk that opens the choice comes after the latency, the first text one interval later.
    assert 0.1 <= measured.first_p50 < measured.p50
    assert driven(Load(sim.url, 2)).first_p50 == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [(500, "HTTP 500"), ("reset", "connection lost"), ("truncated", "connection lost")],
)
def test_what_fails_is_counted_apart(fault: int | str, error: str, sim: SimulatorThread) -> None:
    sim.behave(faults=(Fault(fault, times=1),))
    measured = driven(Load(sim.url, 5))
    assert measured.errors == {error: 1}
    assert measured.requests == 4


def test_an_address_where_nobody_is() -> None:
    measured = driven(Load(f"http://127.0.0.1:{free_port()}/v1", 2))
    assert measured.errors == {"ConnectionRefusedError": 2}
    assert measured.requests == 0


def test_in_a_process_of_its_own_it_measures_the_same(sim: SimulatorThread) -> None:
    sim.behave(latency=0.05)
    measured = measure(Load(sim.url, 3, bodies=[chat("elsewhere")]))
    assert (measured.requests, measured.errors) == (3, {})
    assert {call.model for call in sim.log.records} == {"elsewhere"}


def test_the_simulated_model_in_a_process_ends_with_its_block() -> None:
    with Upstream(latency=0.01) as upstream:
        assert driven(Load(upstream.url, 2)).requests == 2
        log = upstream.calls()
        assert (log["calls"], log["inflight"]) == (2, 0)
        url = upstream.url
    assert list(driven(Load(url, 1)).errors) == ["ConnectionRefusedError"]


def test_the_proxy_as_a_process(sim: SimulatorThread) -> None:
    with Proxy(sim.url, "--workers", "2") as proxy:
        assert proxy.started_in > 0
        master, *workers = pids = proxy.pids
        assert len(set(pids)) == 3
        assert driven(Load(f"{proxy.url}/v1", 4)).errors == {}
        held = usage(pids)
        assert held.threads >= 3
        # The second worker may still be starting, so that nothing is equal to what it was before.
        assert 0 < held.pss <= held.rss
        # Log records are written by a thread of their own.
        assert eventually(lambda: f"serves on 127.0.0.1:{proxy.port}" in proxy.log())
    assert not any(Path(f"/proc/{pid}").exists() for pid in (master, *workers))


def test_a_proxy_that_does_not_start_says_why(sim: SimulatorThread) -> None:
    with pytest.raises(NotStartedError, match="no such option: --nope"), Proxy(sim.url, "--nope"):
        pass


def test_what_the_kernel_says_about_us() -> None:
    us = [os.getpid()]
    before, held = cpu_seconds(us), usage(us)
    opened = [os.dup(0) for _ in range(10)]
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    assert cpu_seconds(us) - before >= 0.08
    assert usage(us).descriptors >= held.descriptors + 10
    assert held.threads >= threading.active_count()
    assert held.rss > 10_000_000
    assert rss(us) == pytest.approx(held.rss, rel=0.2)
    for descriptor in opened:
        os.close(descriptor)


def test_our_own_work_is_not_other_work() -> None:
    cores = len(os.sched_getaffinity(0))
    before, began, meanwhile = busy_seconds(), time.monotonic(), Meanwhile()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    others, lasted = meanwhile.share(), time.monotonic() - began
    taken = (busy_seconds() - before) / (cores * lasted)
    assert 0 <= others <= max(0.0, taken - 0.5 / (cores * lasted)) + 0.1


def busy_seconds() -> float:
    """Of the whole machine. What is neither that nor idle does not add up where it is shared."""
    times = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([4.0, 1.0, 2.0, 3.0], 0.5, 3.0),
     ([float(n) for n in range(100)], 0.99, 99.0)],
)  # fmt: skip
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_numbers_for_people() -> None:
    assert [ms(s) for s in (0.00123, 0.0123, 0.123, 1.234)] == [
        "1.23 ms", "12.3 ms", "123 ms", "1,234 ms",
    ]  # fmt: skip
    assert (counted(1, "call"), counted(2, "call")) == ("1 call", "2 calls")


def test_the_table_is_markdown_and_reads_as_it_is() -> None:
    lines = table([Figure("wall of a|b", "3 ms", "≤ 4 ms"), Figure("other", "1")])
    assert lines == [
        "| figure       | measured | promise |",
        "| ------------ | -------- | ------- |",
        "| wall of a\\|b | 3 ms     | ≤ 4 ms  |",
        "| other        | 1        |         |",
    ]


def test_the_wall_of_every_approach_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critical_path, "LATENCY", 0.002)
    monkeypatch.setattr(critical_path, "_REPEATS", 1)
    figures = list(critical_path.rounds(0.0))
    assert {figure.name.split()[2] for figure in figures} >= {entry.slug for entry in discover()}
    for figure in figures:
        made, ratio = figure.values["rounds"], figure.values["ratio"]
        assert made >= 1
        assert figure.values["wall_ms"] == pytest.approx(ratio * made * 2)
        assert figure.promise == f"≤ {ms(1.05 * made * 0.002 + 0.02)}"


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`bench.GROUPS` replaced by two that measure nothing; the seconds that they were given."""
    given: list[float] = []

    def group(name: str) -> Callable[[float], Iterator[Figure]]:
        def measured(seconds: float) -> Iterator[Figure]:
            given.append(seconds)
            yield Figure(name, "1 ms", "≤ 2 ms", {"ms": 1.0})

        return measured

    monkeypatch.setattr(bench, "GROUPS", {name: group(name) for name in ("one", "two")})
    return given


def test_the_bench_prints_every_figure_beside_its_promise(
    groups: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--seconds", "0.5"]) == 0
    shown = capsys.readouterr()
    rows = [line for line in shown.out.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in rows[2:]] == ["one", "two"]
    assert "other work took" in shown.out.splitlines()[-1]
    assert "measuring two" in shown.err
    assert groups == [0.5, 0.5]


def test_the_bench_in_json_and_in_part(
    groups: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--only", "two", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["figures"] == [
        {"name": "two", "measured": "1 ms", "promise": "≤ 2 ms", "values": {"ms": 1.0}}
    ]
    assert found["machine"]["cores"] >= 1


def test_every_group_can_be_chosen() -> None:
    assert list(bench.GROUPS) == [
        "start", "commands", "passthrough", "first-token", "rounds", "in-flight", "hang-up", "pool",
        "telemetry",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "nope"])
    assert ended.value.code == 2


@pytest.mark.parametrize("path", sorted(Path(bench.__file__).parent.glob("*.py")), ids=str)
def test_a_module_of_the_benchmarks_fits_into_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400
