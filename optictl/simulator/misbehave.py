"""Faults at the wire: what goes wrong with a response once it is known."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import orjson
from aiohttp import web

from optictl.simulator.ask import RefusedError
from optictl.simulator.behaviour import Behaviour
from optictl.simulator.replies import Reply
from optictl.simulator.wire import Answer, completion, error, events

JSON = {"Content-Type": "application/json"}
SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
_PAGE = b"<!doctype html><html><body><h1>Sign in</h1></body></html>"
_DRIBBLE = 0.05


def distort(kind: int | str, answer: Answer) -> Answer:
    """The answer with what a fault of content does to it; other faults leave it as it is."""
    match kind:
        case "no_choices":
            return replace(answer, replies=())
        case "no_usage":
            return replace(answer, usage=False)
        case "null_content":
            return replace(answer, replies=[replace(r, content=None) for r in answer.replies])
        case "length":
            return replace(answer, replies=[_halved(reply) for reply in answer.replies])
    return answer


def _halved(reply: Reply) -> Reply:
    text = reply.content or ""
    return replace(reply, content=text[: len(text) // 2], finish_reason="length")


async def misbehave(
    kind: int | str,
    request: web.BaseRequest,
    answer: Answer,
    behaviour: Behaviour,
    done: Callable[[], None],
) -> web.StreamResponse | None:
    """Send the answer as a fault of the wire would; None where the fault is none of those.

    `done` is called when all that will be sent has been, before the connection goes: from there
    on its end is no hang-up of the peer.
    """
    stream = answer.ask.stream
    response = web.StreamResponse(headers=SSE if stream else JSON)
    parts = list(events(answer, behaviour.chunk_chars)) if stream else []
    middle = len(parts) // 2
    match kind:
        case "html":
            return web.Response(body=_PAGE, content_type="text/html")
        case "hang_after_headers":
            await response.prepare(request)
            await never()
        case "reset":
            done()
            await _reset(request)
        case "malformed" if stream:
            cut = parts[middle].rstrip()
            parts[middle] = cut[: len(cut) // 2] + b"\n\n"
        case "malformed":
            body = _body(answer)
            return web.Response(body=body[: len(body) // 2], headers=JSON)
        case "truncated":
            body = _body(answer)
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            done()
            await _leave(request)
        case "stream_error":
            refused = RefusedError(
                "The model stopped answering.", status=500, code="upstream_error"
            )
            parts[middle:] = [b"data: " + error(refused) + b"\n\n"]
        case "stream_cut" | "stream_reset":
            del parts[middle:]
        case "slow_loris":
            parts = [bytes([byte]) for byte in (b"".join(parts) or _body(answer))]
            if not stream:
                response.content_length = len(parts)
        case _:
            return None
    await response.prepare(request)
    pause = _DRIBBLE if kind == "slow_loris" else 0
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        if not left:
            done()
        await response.write(part)
        await asyncio.sleep(behaviour.chunk_interval or pause)
    if kind == "stream_cut":
        await _leave(request)
    if kind == "stream_reset":
        # It would overtake what was only just written, and what a stalled reader has not read.
        await asyncio.sleep(10 * _DRIBBLE)
        await _reset(request)
    return response


def _body(answer: Answer) -> bytes:
    return orjson.dumps(completion(answer))


async def never() -> NoReturn:
    """Wait for the connection to go, which cancels us."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets")


async def _leave(request: web.BaseRequest) -> NoReturn:
    """Close the connection in the middle of the response."""
    if request.transport is not None:
        request.transport.close()
    await never()


async def _reset(request: web.BaseRequest) -> NoReturn:
    """Close the connection with a TCP RST: lingering for zero seconds means exactly that."""
    transport = request.transport
    if transport is not None:
        raw: socket.socket = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    await never()
