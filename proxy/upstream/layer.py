"""What stands between a request and a pool, and hands on whatever it has no part in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from proxy.upstream.port import Batches, Call, Json, Upstream


class Layer:
    """Implements `proxy.upstream.port.Upstream` by what is behind it."""

    def __init__(self, behind: Upstream) -> None:
        self._behind = behind

    async def complete(self, call: Call) -> Json:
        return await self._behind.complete(call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[Batches]:
        return self._behind.stream(call)

    def native_n(self, model: str) -> bool:
        return self._behind.native_n(model)

    async def models(self) -> list[Json]:
        return await self._behind.models()

    async def close(self) -> None:
        await self._behind.close()
