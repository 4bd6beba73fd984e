"""A stream as one answer, and one answer as a stream."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.errors import UpstreamInvalid
from proxy.upstream.port import Batches, Json
from proxy.wire.assemble import Assembler, deltas_of

_HEAD = ("id", "created", "model", "system_fingerprint")


async def whole(chunks: Batches) -> Json:
    """The completion that a stream of one choice amounts to; raises `UpstreamInvalid`."""
    assembler = Assembler()
    answer: Json = {}
    async for batch in chunks:
        for chunk in batch:
            answer.update((name, chunk[name]) for name in _HEAD if chunk.get(name) is not None)
            if chunk.get("usage"):
                answer["usage"] = chunk["usage"]
            for choice in chunk.get("choices") or ():
                if isinstance(choice, dict):
                    assembler.add(choice)
    if not assembler.complete:
        raise UpstreamInvalid("The upstream's stream ended without a finish_reason.")
    reply = assembler.reply()
    choice = {"index": 0, "message": reply.message, "finish_reason": reply.finish_reason}
    if reply.logprobs is not None:
        choice["logprobs"] = reply.logprobs
    return {"object": "chat.completion", **answer, "choices": [choice]}


async def chunks_of(answer: Json) -> Batches:
    """A completion as the stream it might have been: a chunk a choice, then the usage."""
    head = {name: answer[name] for name in _HEAD if name in answer}
    head["object"] = "chat.completion.chunk"
    chunks: list[Json] = []
    for position, choice in enumerate(answer["choices"]):
        message = choice["message"]
        chunk = {
            "index": choice.get("index", position),
            "delta": {"role": message.get("role", "assistant"), **deltas_of(message)},
            "finish_reason": choice.get("finish_reason") or "stop",
        }
        if choice.get("logprobs") is not None:
            chunk["logprobs"] = choice["logprobs"]
        chunks.append({**head, "choices": [chunk]})
    if answer.get("usage"):
        chunks.append({**head, "choices": [], "usage": answer["usage"]})
    yield chunks


def says_something(chunk: Json) -> bool:
    """Whether a chunk holds more than the role that opens an answer."""
    for choice in chunk.get("choices") or ():
        if not isinstance(choice, dict) or choice.get("finish_reason"):
            return True
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict) or any(
            value for name, value in delta.items() if name != "role"
        ):
            return True
    return False


def unpaid(batch: Sequence[Json]) -> list[Json]:
    """The same without usage: another's call has it. A chunk that holds nothing else is dropped."""
    kept = []
    for chunk in batch:
        if isinstance(chunk.get("usage"), dict):
            del chunk["usage"]
            if not chunk.get("choices"):
                continue
        kept.append(chunk)
    return kept
