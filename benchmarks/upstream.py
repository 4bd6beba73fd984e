"""The simulated model in a process of its own.

``python -m benchmarks.upstream '{"latency": 0.2}'``, with any fields of its `Behaviour`. It writes
its URL to stdout and ends when its stdin is closed, so that it never outlives its parent.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop

from benchmarks.load import raise_descriptor_limit
from optictl.simulator import Behaviour, Simulator

#: Records kept for a look at what happened: few, since listing them costs the model's own loop.
_RECORDS = 64


async def serve(behaviour: Behaviour) -> None:
    """Until stdin is closed."""
    async with Simulator(behaviour, keep_bodies=False, limit=_RECORDS) as simulator:
        sys.stdout.write(f"{simulator.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Behaviour(**orjson.loads(sys.argv[1]))))
