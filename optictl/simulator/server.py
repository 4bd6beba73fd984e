"""A simulated upstream on a port of its own, on the caller's loop or on a thread's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from types import TracebackType
from typing import Any, Self

import uvloop
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from optictl.simulator.ask import RefusedError
from optictl.simulator.behaviour import Behaviour
from optictl.simulator.control import routes
from optictl.simulator.log import CallLog
from optictl.simulator.service import Service
from optictl.simulator.wire import error

_MOST_BODY = 256 * 2**20
_SHUTDOWN = 0.05


class Simulator:
    """A simulated OpenAI-compatible upstream.

        async with Simulator(Behaviour(latency=0.2, probability=0.6)) as sim:
            client = AsyncOpenAI(base_url=sim.url, api_key="none")

    Args:
        behaviour: how each model behaves that has no behaviour of its own.
        models: names in the model list, or those names with behaviours of their own.
        any_model: serve every name, not only those of `models`.
        api_key: the key to ask for; None asks for none.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        keep_bodies: keep requests, headers and answers in the log.
        limit: calls kept in the log.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        models: Sequence[str] | Mapping[str, Behaviour] = ("sim",),
        any_model: bool = True,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_bodies: bool = True,
        limit: int = 10_000,
    ) -> None:
        self.log = CallLog(limit=limit, keep_bodies=keep_bodies)
        self._service = Service(
            behaviour or Behaviour(),
            models,
            any_model=any_model,
            api_key=api_key,
            log=self.log,
        )
        self._routes = routes(self._service)
        self._host = host
        self._port = port
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """The base URL of the API, ``http://127.0.0.1:PORT/v1``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    def behave(self, *, model: str | None = None, **changes: Any) -> None:
        """Change fields of `Behaviour` from the next call on, of one model or of the default."""
        self._service.behave(changes, model)

    def reset(self) -> None:
        """Forget the calls: the log, the sample numbers, how often a fault has struck."""
        self._service.reset()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or not ours.
        """
        self._service.closing = False
        server = web.Server(
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=2048).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection; calls in flight are not answered."""
        self._service.closing = True
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = self._routes.get((request.method, request.path))
        try:
            if handler is None:
                raise RefusedError(
                    f"Unknown request URL: {request.method} {request.path}", status=404
                )
            return await handler(request)
        except RefusedError as refused:
            after = refused.retry_after
            headers = {} if after is None else {"Retry-After": f"{after:g}"}
            return web.Response(
                status=refused.status,
                body=error(refused),
                content_type="application/json",
                headers=headers,
            )


class SimulatorThread:
    """A `Simulator` for synchronous code, on a loop in a daemon thread of its own.

    All methods may be used from any thread. The arguments are the simulator's.
    """

    def __init__(self, behaviour: Behaviour | None = None, **options: Any) -> None:
        self._simulator = Simulator(behaviour, **options)
        self._loop = uvloop.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="simulator", daemon=True)

    @property
    def url(self) -> str:
        """The base URL of the API, ``http://127.0.0.1:PORT/v1``."""
        return self._simulator.url

    @property
    def log(self) -> CallLog:
        """The calls so far."""
        return self._simulator.log

    def behave(self, *, model: str | None = None, **changes: Any) -> None:
        """Change fields of `Behaviour` from the next call on, of one model or of the default."""
        self._do(lambda: self._simulator.behave(model=model, **changes))

    def reset(self) -> None:
        """Forget the calls: the log, the sample numbers, how often a fault has struck."""
        self._do(self._simulator.reset)

    def stop(self) -> None:
        """Die: close the port and every connection. The log stays."""
        asyncio.run_coroutine_threadsafe(self._simulator.stop(), self._loop).result()

    def start(self) -> None:
        """Come back, on the port of before.

        Raises:
            OSError: somebody else has taken it.
        """
        asyncio.run_coroutine_threadsafe(self._simulator.start(), self._loop).result()

    def _do(self, action: Callable[[], None]) -> None:
        async def on_loop() -> None:
            action()

        asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.start()
        except OSError:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """aiohttp's own factory refuses bodies above 1 MiB; images and long documents are larger."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=_MOST_BODY
    )
