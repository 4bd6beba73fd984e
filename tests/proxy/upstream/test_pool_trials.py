"""When a provider that has failed is tried again, and for how long it is on trial."""

from __future__ import annotations

from threading import Thread

from conftest import MakeProxy, eventually

from optictl.simulator import Fault, SimulatorThread
from proxy.upstream.config import HealthCheck, PoolConfig, ProviderConfig


def test_a_stream_is_on_trial_until_it_says_something(make_proxy: MakeProxy) -> None:
    """It may go on for minutes: nobody else would be served in that time."""
    with SimulatorThread() as first, SimulatorThread() as second:
        pool = PoolConfig(
            providers=(ProviderConfig("first", first.url), ProviderConfig("second", second.url)),
            strategy="failover",
            health_check=HealthCheck(interval=0.1),
            request_timeout=1.0,
        )
        proxy = make_proxy(base_url="", pool=pool)
        first.behave(faults=(Fault("hang", times=1),))
        assert proxy.ask().status_code == 200
        assert (first.log.calls, second.log.calls) == (1, 1)
        first.behave(chunk_interval=0.05, tokens=1000)

        def stream() -> None:
            proxy.ask(stream=True, optillm_budget={"max_seconds": 6}).get_data()

        streams = [Thread(target=stream)]
        streams[0].start()

        def streaming() -> bool:
            if not streams[-1].is_alive():  # it went to the other one
                streams.append(Thread(target=stream))
                streams[-1].start()
            return first.log.inflight == 1

        assert eventually(streaming)
        before = first.log.calls

        def served() -> bool:
            assert proxy.ask().status_code == 200
            return first.log.calls > before

        assert eventually(served)
        assert first.log.inflight == 1, "the stream has ended before"
        for each in streams:
            each.join()
