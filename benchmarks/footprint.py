"""What the service takes: time to start, memory when idle, and whether it grows under load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from benchmarks.figures import Figure
from benchmarks.load import Load, Running, chat
from benchmarks.pool import config_file
from benchmarks.proc import Usage, usage
from benchmarks.processes import Proxy, Upstream

_STARTS = 5
_SETTLE = 1.0
_NOBODY = "http://127.0.0.1:9/v1"
_CONNECTIONS = 4
_MB = 1_000_000
_KINDS = (chat(), chat(stream=True), chat("self_consistency-sim"), chat("moa-sim", stream=True))
_PROVIDERS = 3
#: One call in a hundred fails, each time in another way.
_FAULTS = (
    500, 503, 429, "reset", "malformed", "html", "no_choices", "truncated", "stream_cut", "hang",
)  # fmt: skip
_RATE = 0.01 / len(_FAULTS)


def start(seconds: float) -> Iterator[Figure]:
    """From exec to the first answer of /health, and what is held then. ``seconds`` is not used."""
    times: list[float] = []
    held: list[Usage] = []
    # An installed package has its bytecode compiled; the first start here compiles ours.
    with tempfile.TemporaryDirectory() as bytecode:
        compiled = {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(_STARTS + 1):
            with Proxy(_NOBODY, env=compiled) as proxy:
                if number:
                    times.append(proxy.started_in)
                    time.sleep(_SETTLE)
                    held.append(usage(proxy.pids))
    yield Figure(
        f"start to /health, median of {_STARTS}",
        f"{median(times):.2f} s",
        "≤ 1.0 s",
        {"start_s": median(times), "most_s": max(times)},
    )
    resident, share = median(h.rss for h in held) / _MB, median(h.pss for h in held) / _MB
    yield Figure(
        "idle memory, master and one worker",
        f"RSS {resident:.0f} MB, PSS {share:.0f} MB",
        "≤ 120 MB",
        {"rss_mb": resident, "pss_mb": share},
    )


def soak(seconds: float) -> Iterator[Figure]:
    """Four kinds of request through three providers, of which each fails now and then.

    What is held in the first tenth of the time and in the last.
    """
    with ExitStack() as running:
        upstreams = [running.enter_context(Upstream(latency=0.02)) for _ in range(_PROVIDERS)]
        for upstream in upstreams:
            upstream.behave(faults=[{"kind": kind, "probability": _RATE} for kind in _FAULTS])
        file = running.enter_context(
            config_file([each.url for each in upstreams], timeouts={"request": 2})
        )
        proxy = running.enter_context(Proxy("", "--proxy-config", str(file)))
        load = Running(Load(f"{proxy.url}/v1", _CONNECTIONS, seconds, bodies=_KINDS))
        samples: list[Usage] = []
        interval, end = min(1.0, seconds / 40), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(interval)
            samples.append(usage(proxy.pids))
        measured = load.result()
    tenth = max(1, len(samples) // 10)
    # The very first samples are of a service that is still filling its pools.
    first, last = _typical(samples[tenth : 2 * tenth]), _typical(samples[-tenth:])
    failed = sum(measured.errors.values())
    yield Figure(
        f"{seconds:g} s of mixed load, 1 % of calls failing, {measured.total:,} requests",
        f"RSS {first.rss / _MB:.1f} → {last.rss / _MB:.1f} MB, descriptors {first.descriptors} → "
        f"{last.descriptors}, threads {first.threads} → {last.threads}, {failed} errors",
        "memory within 5 %",
        {
            "rss_first_mb": first.rss / _MB,
            "rss_last_mb": last.rss / _MB,
            "descriptors_first": first.descriptors,
            "descriptors_last": last.descriptors,
            "threads_first": first.threads,
            "threads_last": last.threads,
            "errors": failed,
        },
    )


def _typical(samples: list[Usage]) -> Usage:
    return Usage(
        rss=int(median(s.rss for s in samples)),
        pss=int(median(s.pss for s in samples)),
        descriptors=int(median(s.descriptors for s in samples)),
        threads=int(median(s.threads for s in samples)),
    )
