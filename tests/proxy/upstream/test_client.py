"""One provider over HTTP: what is sent, what comes back, and when a connection is closed."""

from __future__ import annotations

import asyncio

import pytest
from canned import ANSWER, CALL, CHUNK, DONE, KEY, failure, lone_client, provider, reply, run, sse
from conftest import free_port

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.settings import Settings


class TestWhatIsSent:
    def test_a_completion(self) -> None:
        async def test() -> None:
            async with provider(reply(ANSWER)) as (client, canned):
                assert await client.complete(CALL) == ANSWER
            ((line, headers, body),) = canned.requests
            assert line == "POST /v1/chat/completions HTTP/1.1"
            assert headers["authorization"] == f"bearer {KEY}"
            assert headers["content-type"] == "application/json"
            assert body == {**CALL.body, "model": "m"}

        run(test)

    def test_a_stream(self) -> None:
        async def test() -> None:
            answer = reply(sse(CHUNK) + DONE, kind="text/event-stream")
            async with provider(answer) as (client, canned), client.stream(CALL) as batches:
                assert [chunk async for batch in batches for chunk in batch] == [CHUNK]
            ((_, _, body),) = canned.requests
            assert body == {**CALL.body, "model": "m", "stream": True}

        run(test)

    def test_no_key_no_header(self) -> None:
        async def test() -> None:
            async with provider(reply(ANSWER), key=None) as (client, canned):
                await client.complete(CALL)
            assert "authorization" not in canned.requests[0][1]

        run(test)

    def test_the_list_of_models(self) -> None:
        async def test() -> None:
            entries = [{"id": "a"}, {"id": 7}, "b", {"id": "c", "owned_by": "us"}]
            async with provider(reply({"data": entries})) as (client, canned):
                assert await client.models() == [{"id": "a"}, {"id": "c", "owned_by": "us"}]
            assert canned.requests[0][0] == "GET /v1/models HTTP/1.1"

        run(test)


class TestConnections:
    def test_they_are_used_again(self) -> None:
        async def test() -> None:
            async with provider(reply(ANSWER)) as (client, canned):
                for _ in range(3):
                    await client.complete(CALL)
                assert canned.connections == 1

        run(test)

    def test_after_a_whole_stream_too(self) -> None:
        async def test() -> None:
            answer = reply(sse(CHUNK) + DONE, kind="text/event-stream")
            async with provider(answer) as (client, canned):
                for _ in range(3):
                    async with client.stream(CALL) as batches:
                        async for _ in batches:
                            pass
                assert canned.connections == 1

        run(test)

    def test_a_cancelled_call_hangs_up(self) -> None:
        async def test() -> None:
            async with provider(b"", hang=True) as (client, canned):
                call = asyncio.create_task(client.complete(CALL))
                while not canned.requests:
                    await asyncio.sleep(0.001)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                while canned.open:
                    await asyncio.sleep(0.001)

        run(test)

    def test_a_stream_that_is_left_hangs_up(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

        async def test() -> None:
            async with provider(head + sse(CHUNK), hang=True) as (client, canned):
                async with client.stream(CALL) as batches:
                    async for _ in batches:
                        break
                while canned.open:
                    await asyncio.sleep(0.001)

        run(test)


@pytest.mark.parametrize(
    "events",
    [
        sse(CHUNK, CHUNK) + DONE,
        (sse(CHUNK, CHUNK) + DONE).replace(b"\n", b"\r\n"),
        sse(CHUNK) + b": a comment\n\nevent: x\nid: 7\n" + sse(CHUNK) + DONE,
        sse(CHUNK, CHUNK) + b"data:[DONE]",
    ],
)
def test_streams_that_are_fine(events: bytes) -> None:
    async def test() -> None:
        answer = reply(events, kind="text/event-stream; charset=utf-8")
        async with provider(answer) as (client, _), client.stream(CALL) as batches:
            assert [chunk async for batch in batches for chunk in batch] == [CHUNK, CHUNK]

    run(test)


class TestSilence:
    @pytest.mark.parametrize("stream", [False, True])
    def test_before_the_answer(self, stream: bool) -> None:
        error = failure(b"", hang=True, stream=stream, upstream_timeout=0.1)
        assert type(error) is UpstreamTimeout
        assert "0.1 s" in error.message

    @pytest.mark.parametrize("stream", [False, True])
    def test_in_the_middle(self, stream: bool) -> None:
        whole = reply(sse(CHUNK) + DONE, kind="text/event-stream") if stream else reply(ANSWER)
        error = failure(whole[:-20], hang=True, stream=stream, upstream_timeout=0.1)
        assert type(error) is UpstreamTimeout

    def test_nobody_there(self) -> None:
        async def test() -> None:
            client, network = lone_client(Settings(base_url=f"http://127.0.0.1:{free_port()}/v1"))
            for call in (client.complete(CALL), client.models()):
                with pytest.raises(UpstreamUnreachable, match="Cannot connect"):
                    await call
            with pytest.raises(UpstreamUnreachable):
                async with client.stream(CALL):
                    pass
            await client.close()
            await network.connector.close()

        run(test)
