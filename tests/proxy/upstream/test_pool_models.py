"""Which models a pool has, and what asking for them tells about its providers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from endpoints import FakeEndpoint, asked, call, failure_of, now, pooled, run, text_of

from proxy.errors import (
    ModelNotFound,
    NoHealthyProvider,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from proxy.upstream.config import HealthCheck
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call


def down() -> UpstreamError:
    return UpstreamUnreachable("nobody listens", refused=True)


async def answered(pool: Pool, one: Call) -> str:
    return text_of(await pool.complete(one))


async def names(pool: Pool) -> list[str]:
    return sorted(entry["id"] for entry in await pool.models())


class TestTheList:
    def test_is_of_all_providers(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", listing=lambda: ["x", "y"])
            b = FakeEndpoint("b", listing=lambda: ["y", "z"])
            async with pooled(a, b) as pool:
                assert await names(pool) == ["x", "y", "z"]

        run(test)

    def test_has_the_names_that_clients_use(self) -> None:
        async def test() -> None:
            mapping = {"*": "router-*", "gpt-4": "deployment-1"}
            a = FakeEndpoint("a", listing=lambda: ["router-qwen", "free"], model_map=mapping)
            async with pooled(a) as pool:
                assert await names(pool) == ["free", "gpt-4", "qwen"]

        run(test)

    def test_of_azure_are_the_deployments_that_the_operator_has_named(self) -> None:
        async def test() -> None:
            a = FakeEndpoint(
                "a", listing=lambda: ["gpt-4o"], kind="azure", model_map={"fast": "my-deployment"}
            )
            async with pooled(a) as pool:
                assert await names(pool) == ["fast"]

        run(test)

    def test_does_without_a_provider_that_has_none(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", listing=lambda: ModelNotFound("no such path"))
            b = FakeEndpoint("b", listing=lambda: ["x"])
            async with pooled(a, b) as pool:
                assert await names(pool) == ["x"]
                assert await answered(pool, call("anything")) == "a"

        run(test)

    @pytest.mark.parametrize("error", [down(), UpstreamAuth("wrong key")])
    def test_is_the_first_one_s_trouble_where_all_are_in_trouble(
        self, error: UpstreamError
    ) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", listing=lambda: error), FakeEndpoint("b", listing=down)
            async with pooled(a, b) as pool:
                assert await failure_of(pool.models()) is error

        run(test)

    def test_stays_where_it_was_once_known(self) -> None:
        async def test() -> None:
            lists: list[Any] = [["x"], down()]
            a = FakeEndpoint("a", listing=lambda: lists.pop(0))
            b = FakeEndpoint("b", listing=lambda: ["y"])
            async with pooled(a, b) as pool:
                await pool.models()
                assert await names(pool) == ["x", "y"]

        run(test)


class TestHealth:
    def test_a_provider_that_does_not_answer_is_left_out(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", listing=down), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                await pool.models()
                assert await asked(pool) == "b"
                assert not a.calls

        run(test)

    def test_and_comes_back_with_its_next_answer(self) -> None:
        async def test() -> None:
            lists: list[Any] = [down(), []]
            a, b = FakeEndpoint("a", listing=lambda: lists.pop(0)), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                await pool.models()
                assert await asked(pool) == "b"
                await pool.models()
                assert await asked(pool) == "a"

        run(test)

    def test_one_that_hangs_holds_up_nobody(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", listing=lambda: asyncio.sleep(1000.0))
            b = FakeEndpoint("b", listing=lambda: ["x"])
            async with pooled(a, b, health_check=HealthCheck(timeout=2.0)) as pool:
                began = now()
                assert await names(pool) == ["x"]
                assert now() - began == pytest.approx(2.0)
                assert await answered(pool, call("x")) == "b"

        run(test)

    @pytest.mark.parametrize(
        "error",
        [UpstreamAuth("only for admins"), UpstreamRateLimited("too often"), ModelNotFound("no")],
    )
    def test_what_says_nothing_about_chats_leaves_nobody_out(self, error: UpstreamError) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", listing=lambda: error), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                await failure_or_list(pool)
                assert await asked(pool) == "a"

        run(test)

    def test_a_list_does_not_mend_a_model_that_fails(self) -> None:
        """What a server says of its models says little about whether they answer."""

        async def test() -> None:
            broken = UpstreamError("The upstream answered 500: oops")
            a = FakeEndpoint("a", lambda _: broken, listing=lambda: ["m"])
            async with pooled(a) as pool:
                for _ in range(3):
                    await failure_of(asked(pool))
                await pool.models()
                assert isinstance(await failure_of(asked(pool)), NoHealthyProvider)

        run(test)


async def failure_or_list(pool: Pool) -> None:
    with suppress(UpstreamError):
        await pool.models()
