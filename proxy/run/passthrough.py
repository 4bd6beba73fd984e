"""``none`` by itself: the client's request to the upstream and back, nothing rewritten."""

from __future__ import annotations

from typing import Any

from proxy.errors import UpstreamInvalid
from proxy.run import calls
from proxy.run.ledger import complete_usage
from proxy.run.scope import Run
from proxy.run.stream import Stream
from proxy.upstream.port import Call, Json
from proxy.wire.assemble import completion
from proxy.wire.request import ChatRequest


def untouched(run: Run, request: ChatRequest, model: str, choices: int) -> Call:
    """The client's own members; ``n`` only where it is more than the default."""
    body: dict[str, Any] = {"messages": request.messages, **request.params}
    if choices > 1 or request.choices is not None:
        body["n"] = choices
    return run.call(model, body)


async def forward(run: Run, call: Call, choices: int) -> Json:
    """The upstream's answer as it came."""
    with calls.recorded(run, call, "final", choices, patient=False) as recording:
        async with run.clock():
            answer = await run.upstream.complete(recording.call)
        recording.keep(lambda: answer)
        usage = answer.get("usage")
        recording.done(usage if isinstance(usage, dict) else None)
    return answer


async def forward_stream(
    run: Run, call: Call, request: ChatRequest, choices: int, stream: Stream
) -> list[Json]:
    """Pass the upstream's chunks on as they arrive; returns the last ones, held back.

    Chunks that finish a choice and the usage chunk are held: the ``optillm`` object belongs into
    the very last one.
    """
    held: list[Json] = []
    finished: set[int] = set()
    body = {**call.body, "stream_options": {**request.stream_options, "include_usage": True}}
    usage: Json | None = None
    call = run.call(call.model, body)
    with calls.recorded(run, call, "final", choices, patient=False) as recording:
        async with run.clock(), run.upstream.stream(recording.call) as batches:
            recording.keep(lambda: completion(run.ledger.streamed, call.model, usage))
            async for batch in batches:
                ready: list[bytes] = []
                for chunk in batch:
                    recording.replied()
                    if isinstance(chunk.get("usage"), dict):
                        usage = chunk["usage"]
                        if not chunk.get("choices"):
                            continue
                        chunk.pop("usage")
                    for choice in _choices(chunk):
                        told = run.ledger.told(choice.get("index", 0))
                        if told is not None:
                            told.add(choice)
                    ends = [c.get("index", 0) for c in _choices(chunk) if c.get("finish_reason")]
                    finished.update(ends)
                    if ends:
                        held.append(chunk)
                    else:
                        ready.append(stream.envelope.forwarded(chunk))
                if ready:
                    await stream.write(b"".join(ready), opens=any(map(_gives_role, batch)))
        if not finished:
            raise UpstreamInvalid("The upstream's stream ended without a finish_reason.")
        recording.done(usage)
    if request.include_usage:
        held.append({**_head(held[-1]), "choices": [], "usage": complete_usage(usage or {})})
    return held


def _choices(chunk: Json) -> list[Json]:
    return [choice for choice in chunk.get("choices") or () if isinstance(choice, dict)]


def _gives_role(chunk: Json) -> bool:
    return any((choice.get("delta") or {}).get("role") for choice in _choices(chunk))


def _head(chunk: Json) -> Json:
    return {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
