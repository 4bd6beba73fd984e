"""`optictl simulate`: a simulated upstream on a port, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optictl.console import emit_json, say
from optictl.errors import OptictlError
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.simulator import Simulator


class Choices(StrEnum):
    """What the simulated server does with n > 1."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 4000,
    latency: Annotated[
        float, typer.Option(min=0, help="Seconds to an answer, or to a stream's first byte.")
    ] = 0.5,
    sigma: Annotated[
        float, typer.Option(min=0, help="Spread of a lognormal latency; 0 is the same each time.")
    ] = 0.0,
    chunk_interval: Annotated[
        float, typer.Option(min=0, help="Seconds between the chunks of a stream.")
    ] = 0.02,
    probability: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that a sample is right.")
    ] = 0.6,
    judge_separation: Annotated[
        float, typer.Option(min=0, help="Standard deviations between right and wrong to a judge.")
    ] = 2.0,
    tokens: Annotated[
        int, typer.Option(min=0, help="Length of the reasoning in an answer, in tokens.")
    ] = 24,
    models: Annotated[
        str, typer.Option(help="Names in the model list, separated by commas. All are served.")
    ] = "sim",
    n: Annotated[Choices, typer.Option(help="What to do with n > 1.")] = Choices.HONOURED,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    api_key_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File with the key to ask for."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell its address in JSON.")] = False,
) -> None:
    """Run a simulated upstream: an OpenAI-compatible server that needs no model.

    Its answers are right with a known probability, and the same for the
    same seed, so that an approach can be watched at work, measured and
    scored without a GPU. It runs until SIGINT or SIGTERM.

    \b
    Examples:
      optictl simulate
      optictl simulate --port 0 --probability 0.7 --latency 0.2
      optictl simulate --latency 0 --chunk-interval 0   # as fast as it goes
    \b
    While it runs:
      curl localhost:4000/sim/calls              # calls, rounds, peak
      curl -X DELETE localhost:4000/sim/calls    # forget them
      curl -X PUT localhost:4000/sim/behaviour \\
           -d '{"faults": [{"kind": 429, "times": 2, "retry_after": 1}]}'
      curl -G localhost:4000/sim/gold --data-urlencode 'question=2 + 3?'
    """
    # Imported here: `optictl --help` needs no web server.
    import uvloop

    from optictl.simulator import Behaviour, Simulator

    simulator = Simulator(
        Behaviour(
            latency=latency,
            sigma=sigma,
            chunk_interval=chunk_interval,
            probability=probability,
            judge_separation=judge_separation,
            tokens=tokens,
            n=n.value,
            seed=seed,
        ),
        models=[name.strip() for name in models.split(",") if name.strip()],
        api_key=api_key_file.read_text().strip() if api_key_file else None,
        host=host,
        port=port,
        limit=1_000,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(simulator, as_json=as_json))
    except OSError as error:
        raise OptictlError(f"cannot listen on {host}:{port}: {error.strerror}") from error


async def _serve(simulator: Simulator, *, as_json: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with simulator:
        if as_json:
            emit_json(Result("simulate", {"url": simulator.url}))
        else:
            say(simulator.url)
        await stopped.wait()
