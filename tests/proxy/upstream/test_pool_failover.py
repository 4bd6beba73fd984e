"""What a failed call says about its provider, and who is asked next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from endpoints import (
    END,
    ROLE,
    FakeEndpoint,
    Tally,
    asked,
    call,
    delta,
    failure_of,
    now,
    pooled,
    read,
    run,
)

from proxy.errors import (
    ModelNotFound,
    NoHealthyProvider,
    UpstreamAuth,
    UpstreamError,
    UpstreamInvalid,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.upstream.blame import Blame, blame
from proxy.upstream.pool import Pool
from proxy.upstream.port import Call


def down() -> UpstreamError:
    return UpstreamUnreachable("nobody listens", refused=True)


def broken() -> UpstreamError:
    return UpstreamError("The upstream answered 500: oops")


def bad() -> UpstreamError:
    return UpstreamRejected("temperature is too high", status=400)


def missing() -> UpstreamError:
    return ModelNotFound("no such model")


def scripted(*steps: Callable[[], UpstreamError] | str) -> Callable[[Call], Any]:
    """One step for each call; the last one for all that follow."""
    left = list(steps)

    def respond(_: Call) -> Any:
        step = left.pop(0) if len(left) > 1 else left[0]
        return step if isinstance(step, str) else step()

    return respond


def states(pool: Pool) -> dict[str, Any]:
    """Which providers, and which of their models, are left out."""
    return {
        report["name"]: report["state"] if report["state"] != "closed" else report["models_failing"]
        for report in pool.report()
        if report["state"] != "closed" or report["models_failing"]
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamRejected("no", status=400), Blame.CLIENT),
        (UpstreamRejected("no", status=422), Blame.CLIENT),
        (ModelNotFound("no"), Blame.LACKS_MODEL),
        (UpstreamRateLimited("no"), Blame.OVERLOAD),
        (UpstreamOverloaded("no"), Blame.OVERLOAD),
        (UpstreamError("no"), Blame.SERVICE),
        (UpstreamTimeout("no"), Blame.SERVICE),
        (UpstreamInvalid("no"), Blame.SERVICE),
        (UpstreamUnreachable("no"), Blame.SERVICE),
        (UpstreamUnreachable("no", refused=True), Blame.PROVIDER),
        (UpstreamAuth("no"), Blame.PROVIDER),
    ],
)
def test_whose_fault_it_is(error: UpstreamError, expected: Blame) -> None:
    assert blame(error) is expected


class TestTheClientS:
    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_is_final_and_marks_nobody(self, status: int) -> None:
        refused = UpstreamRejected("too much of it", status=status)

        async def test() -> None:
            a, b = FakeEndpoint("a", lambda _: refused), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                for _ in range(20):
                    watch = Tally()
                    assert await failure_of(pool.complete(call(watch=watch))) is refused
                    assert watch.attempts == ["a"]
                assert await failure_of(read(pool, call())) is refused
                assert states(pool) == {}
                assert b.calls == []

        run(test)

    def test_says_that_the_provider_is_back(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", scripted(down, bad, "a"))
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert await asked(pool) == "b"
                assert states(pool) == {"a": "open"}
                await asyncio.sleep(1.0)
                assert type(await failure_of(asked(pool))) is UpstreamRejected
                assert states(pool) == {}
                assert await asked(pool) == "a"

        run(test)


class TestTheProviderS:
    @pytest.mark.parametrize("error", [down(), UpstreamAuth("refused key")])
    def test_leaves_all_of_it_out_at_once(self, error: UpstreamError) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: error)
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert await asked(pool) == "b"
                assert await asked(pool, "another") == "b"
                assert len(a.calls) == 1
                assert states(pool) == {"a": "open"}

        run(test)

    @pytest.mark.parametrize("error", [broken(), UpstreamUnreachable("reset"), UpstreamInvalid("")])
    def test_of_one_model_is_certain_after_three_times(self, error: UpstreamError) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda call: error if call.model == "m" else "a")
            async with pooled(a, FakeEndpoint("b")) as pool:
                for _ in range(3):
                    assert states(pool) == {}
                    assert await asked(pool) == "b"
                assert states(pool) == {"a": ["m"]}
                assert await asked(pool) == "b"
                assert len(a.calls) == 3
                assert await asked(pool, "another") == "a"
                assert states(pool) == {"a": ["m"]}

        run(test)

    def test_an_answer_in_between_starts_the_count_again(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", scripted(broken, broken, "a", broken, broken, "a"))
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert [await asked(pool) for _ in range(6)] == ["b", "b", "a", "b", "b", "a"]
                assert states(pool) == {}

        run(test)

    def test_nobody_waits_through_a_second_silence(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: UpstreamTimeout("silence"))
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert await asked(pool) == "b"
                assert states(pool) == {"a": ["m"]}

        run(test)

    def test_a_lone_upstream_is_asked_again_and_again(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: down())
            async with pooled(a, breaker=False) as pool:
                for _ in range(5):
                    assert type(await failure_of(asked(pool))) is UpstreamUnreachable
                assert len(a.calls) == 5

        run(test)


class TestWhoIsNext:
    def test_each_is_asked_once_and_fallbacks_last(self) -> None:
        async def test() -> None:
            spare = FakeEndpoint("spare", fallback_only=True)
            a, b = FakeEndpoint("a", lambda _: broken()), FakeEndpoint("b", lambda _: broken())
            async with pooled(spare, a, b) as pool:
                watch = Tally()
                assert await asked(pool, watch=watch) == "spare"
                assert watch.attempts == ["a", "b", "spare"]
                assert [error.code for error in watch.errors] == ["upstream_error"] * 2

        run(test)

    def test_a_fallback_is_not_asked_while_another_is_well(self) -> None:
        async def test() -> None:
            spare, a = FakeEndpoint("spare", fallback_only=True), FakeEndpoint("a")
            async with pooled(spare, a, strategy="round_robin") as pool:
                assert {await asked(pool) for _ in range(10)} == {"a"}
                assert spare.calls == []

        run(test)

    def test_a_fallback_is_not_asked_because_others_are_full(self) -> None:
        async def wait(_: Call) -> str:
            await asyncio.sleep(2)
            return "a"

        async def test() -> None:
            spare = FakeEndpoint("spare", fallback_only=True)
            async with pooled(spare, FakeEndpoint("a", wait, max_concurrent=1)) as pool:
                assert await asyncio.gather(*(asked(pool) for _ in range(3))) == ["a"] * 3

        run(test)

    def test_nobody_left_is_the_last_one_s_error(self) -> None:
        async def test() -> None:
            last = UpstreamError("The upstream answered 502: last")
            a, b = FakeEndpoint("a", lambda _: broken()), FakeEndpoint("b", lambda _: last)
            async with pooled(a, b) as pool:
                watch = Tally()
                assert await failure_of(asked(pool, watch=watch)) is last
                assert watch.attempts == ["a", "b"]

        run(test)

    def test_nobody_to_ask_names_the_reasons(self) -> None:
        async def test() -> None:
            async with pooled(FakeEndpoint("a", lambda _: down())) as pool:
                # Who asked and found nobody there, and who need not ask any more.
                for attempts in (["a"], []):
                    watch = Tally()
                    error = await failure_of(asked(pool, watch=watch))
                    assert type(error) is NoHealthyProvider
                    assert (error.http_status(), error.code) == (503, "no_healthy_providers")
                    assert error.message == "No healthy providers available (a: nobody listens)."
                    assert float(error.headers()["Retry-After"]) >= 1
                    assert watch.attempts == attempts

        run(test)

    def test_second_attempts_are_rationed(self) -> None:
        """With everybody in trouble, retries must not multiply the load."""

        async def test() -> None:
            timeout = UpstreamTimeout("silence")
            a, b = FakeEndpoint("a", lambda _: timeout), FakeEndpoint("b", lambda _: timeout)
            async with pooled(a, b, breaker=False) as pool:
                for _ in range(300):
                    await failure_of(asked(pool))
                assert len(a.calls) == 300
                # 50 to begin with, and one for each five calls.
                assert 100 <= len(b.calls) <= 115

        run(test)


class TestAModelThatIsLacking:
    def test_is_looked_for_elsewhere_and_marks_nobody(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: missing())
            async with pooled(a, FakeEndpoint("b")) as pool:
                for _ in range(10):
                    assert await asked(pool) == "b"
                assert states(pool) == {}

        run(test)

    def test_everywhere_is_the_client_s_error(self) -> None:
        async def test() -> None:
            a, b = FakeEndpoint("a", lambda _: missing()), FakeEndpoint("b", lambda _: missing())
            async with pooled(a, b) as pool:
                error = await failure_of(asked(pool))
                assert (type(error), error.http_status()) == (ModelNotFound, 400)
                assert states(pool) == {}

        run(test)

    def test_is_not_looked_for_where_the_list_lacks_it(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: missing(), lambda: ["m"])
            b = FakeEndpoint("b", lambda _: missing(), lambda: ["other"])
            async with pooled(a, b) as pool:
                await pool.models()
                assert type(await failure_of(asked(pool))) is ModelNotFound
                assert b.calls == []

        run(test)

    def test_once_refused_is_only_asked_of_those_that_may_have_it(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: missing(), lambda: ["x"])
            b = FakeEndpoint("b", lambda _: missing(), lambda: ["y"])
            async with pooled(a, b) as pool:
                await pool.models()
                watch = Tally()
                assert type(await failure_of(asked(pool, watch=watch))) is ModelNotFound
                assert watch.attempts == ["a"]

        run(test)

    def test_goes_first_to_those_that_list_it(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: missing(), lambda: ["x"])
            b = FakeEndpoint("b", listing=lambda: ["m"])
            async with pooled(a, b) as pool:
                await pool.models()
                assert await asked(pool) == "b"
                assert a.calls == []

        run(test)

    def test_in_no_list_is_asked_of_all(self) -> None:
        """Wildcards are in none."""

        async def test() -> None:
            a = FakeEndpoint("a", listing=lambda: ["x"])
            async with pooled(a, FakeEndpoint("b", listing=lambda: ["y"])) as pool:
                await pool.models()
                assert await asked(pool) == "a"

        run(test)

    def test_where_the_one_that_has_it_has_failed_is_not_called_unknown(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", scripted(broken, down), lambda: ["m"])
            b = FakeEndpoint("b", lambda _: missing(), lambda: ["y"])
            async with pooled(a, b) as pool:
                await pool.models()
                assert "500" in (await failure_of(asked(pool))).message
                assert "nobody listens" in (await failure_of(asked(pool))).message
                assert type(await failure_of(asked(pool))) is NoHealthyProvider
                assert b.calls == []

        run(test)

    def test_nor_where_another_s_list_is_unknown(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: broken(), lambda: ["m"])
            b = FakeEndpoint("b", lambda _: missing(), missing)
            async with pooled(a, b) as pool:
                await pool.models()
                watch = Tally()
                assert "500" in (await failure_of(asked(pool, watch=watch))).message
                assert watch.attempts == ["a", "b"]

        run(test)

    def test_under_a_pattern_of_the_operator_s_is_there(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", listing=lambda: ["fixed"], model_map={"gpt-*": "fixed"})
            b = FakeEndpoint("b", lambda _: missing(), lambda: ["gpt-4"])
            async with pooled(a, b) as pool:
                await pool.models()
                assert await asked(pool, "gpt-4") == "a"
                assert a.calls[0].model == "fixed"

        run(test)


class TestHalfOpen:
    def test_lets_one_call_through(self) -> None:
        async def test() -> None:
            release = asyncio.Event()
            first = scripted(down, "a")

            async def respond(call: Call) -> Any:
                said = first(call)
                if isinstance(said, str):
                    await release.wait()
                return said

            a = FakeEndpoint("a", respond)
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert await asked(pool) == "b"
                await asyncio.sleep(1.0)
                calls = [asyncio.create_task(asked(pool)) for _ in range(20)]
                await asyncio.sleep(0.1)
                assert len(a.calls) == 2
                release.set()
                assert sorted(await asyncio.gather(*calls)) == ["a"] + ["b"] * 19
                assert await asked(pool) == "a"

        run(test)

    def test_is_over_when_the_trial_is_cancelled(self) -> None:
        async def test() -> None:
            first = scripted(down, "wait", "a")

            async def respond(call: Call) -> Any:
                said = first(call)
                if said == "wait":
                    await asyncio.sleep(1000)
                return said

            async with pooled(FakeEndpoint("a", respond)) as pool:
                await failure_of(asked(pool))
                await asyncio.sleep(1.0)
                trial = asyncio.create_task(asked(pool))
                await asyncio.sleep(0.1)
                assert type(await failure_of(asked(pool))) is NoHealthyProvider
                trial.cancel()
                await asyncio.gather(trial, return_exceptions=True)
                assert await asked(pool) == "a"

        run(test)

    @pytest.mark.parametrize("error", [down(), broken()])
    def test_comes_later_with_each_failed_trial(self, error: UpstreamError) -> None:
        async def test() -> None:
            tried: list[float] = []

            def respond(_: Call) -> UpstreamError:
                tried.append(now())
                return error

            async with pooled(FakeEndpoint("a", respond)) as pool:
                end = now() + 200
                while now() < end:
                    await failure_of(asked(pool))
                    await asyncio.sleep(0.01)
                gaps = [b - a for a, b in pairwise(tried)]
                gaps = [gap for gap in gaps if gap > 0.05]
                for gap, pause in zip(gaps, [1, 2, 4, 8, 16, 30, 30, 30], strict=False):
                    assert 0.8 * pause <= gap <= pause + 0.1

        run(test)

    def test_recovers_with_the_first_answer(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", scripted(broken, broken, broken, broken, "a"))
            async with pooled(a, FakeEndpoint("b")) as pool:
                assert [await asked(pool) for _ in range(3)] == ["b"] * 3
                await asyncio.sleep(1.0)
                assert await asked(pool) == "b"
                await asyncio.sleep(1.0)
                assert await asked(pool) == "b"
                await asyncio.sleep(1.0)
                assert await asked(pool) == "a"
                assert states(pool) == {}

        run(test)


class TestStreams:
    @pytest.mark.parametrize("script", [[], [ROLE], [ROLE, ROLE, delta("")]])
    def test_fail_over_before_the_first_content(self, script: list[Any]) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: [*script, UpstreamUnreachable("reset")])
            async with pooled(a, FakeEndpoint("b")) as pool:
                watch = Tally()
                assert await read(pool, call(watch=watch)) == "b"
                assert watch.attempts == ["a", "b"]
                assert a.running == 0

        run(test)

    @pytest.mark.parametrize("first", [delta("said"), delta("", logprobs=None, finish_reason="x")])
    def test_do_not_after_it(self, first: Any) -> None:
        async def test() -> None:
            reset = UpstreamUnreachable("reset")
            a, b = FakeEndpoint("a", lambda _: [ROLE, first, 0.1, reset]), FakeEndpoint("b")
            async with pooled(a, b) as pool:
                for _ in range(3):
                    watch = Tally()
                    assert await failure_of(read(pool, call(watch=watch))) is reset
                    assert watch.attempts == ["a"]
                assert states(pool) == {"a": ["m"]}
                assert b.calls == []

        run(test)

    @pytest.mark.parametrize("choice", ["text", {"delta": "text"}, {"delta": ["text"]}])
    def test_of_nonsense_are_no_crash(self, choice: Any) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: [{"choices": [choice]}])
            async with pooled(a, FakeEndpoint("b")) as pool, pool.stream(call()) as batches:
                assert [batch async for batch in batches] == [[{"choices": [choice]}]]

        run(test)

    def test_that_are_left_early_mark_nobody(self) -> None:
        async def test() -> None:
            a = FakeEndpoint("a", lambda _: [ROLE, delta("1"), 1.0, delta("2"), END])
            async with pooled(a, FakeEndpoint("b")) as pool:
                for _ in range(5):
                    async with pool.stream(call()) as batches:
                        await anext(batches)
                        assert pool.under_way == 1
                    assert (pool.under_way, a.running) == (0, 0)
                assert states(pool) == {}
                assert pool.report()[0]["success_rate"] == 0

        run(test)

    def test_answer_for_nothing_that_their_reader_raises(self) -> None:
        """While it reads one stream an approach may fail at another provider."""

        async def test() -> None:
            a = FakeEndpoint("a", lambda _: [ROLE, delta("1"), END])
            elsewhere = UpstreamUnreachable("elsewhere", refused=True)
            async with pooled(a, FakeEndpoint("b")) as pool:

                async def reader() -> None:
                    async with pool.stream(call()) as batches:
                        await anext(batches)
                        raise elsewhere

                assert await failure_of(reader()) is elsewhere
                assert states(pool) == {}
                assert pool.under_way == 0

        run(test)

    def test_pass_on_each_chunk_once_and_in_order(self) -> None:
        async def test() -> None:
            chunks = [ROLE, delta("1"), delta("2"), delta("3"), END]
            a = FakeEndpoint("a", lambda _: chunks)
            async with pooled(a, FakeEndpoint("b")) as pool, pool.stream(call()) as batches:
                assert [chunk async for batch in batches for chunk in batch] == chunks

        run(test)

    def test_count_as_answered_once_they_have_ended(self) -> None:
        async def test() -> None:
            async with pooled(FakeEndpoint("a"), FakeEndpoint("b")) as pool:
                assert await read(pool, call()) == "a"
                assert pool.report()[0]["success_rate"] == 1

        run(test)


class TestCancelled:
    @pytest.mark.parametrize("stream", [False, True])
    def test_leaves_no_mark_and_no_slot(self, stream: bool) -> None:
        async def test() -> None:
            async def respond(_: Call) -> str:
                await asyncio.sleep(1000)
                return "late"

            a = FakeEndpoint("a", respond, max_concurrent=2)
            async with pooled(a, FakeEndpoint("b")) as pool:
                for _ in range(5):
                    asking = read(pool, call()) if stream else asked(pool)
                    task = asyncio.create_task(asking)
                    await asyncio.sleep(0.01)
                    assert (a.running, pool.under_way) == (1, 1)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    assert (a.running, pool.under_way) == (0, 0)
                assert states(pool) == {}
                assert len(a.calls) == 5

        run(test)


def test_every_attempt_is_told_of_exactly_once() -> None:
    """Of whatever becomes of 300 calls."""

    def respond_in(name: str) -> Callable[[Call], Any]:
        count = iter(range(10**6))
        outcomes: list[Callable[[], Any]] = [lambda: name, broken, missing, lambda: name, bad]
        outcomes += [lambda: UpstreamRateLimited("slow down", retry_after=0.01), lambda: name]

        async def respond(_: Call) -> Any:
            at = next(count)
            await asyncio.sleep(0.001 * (at % 5))
            return outcomes[(at * 7 + len(name)) % len(outcomes)]()

        return respond

    async def test() -> None:
        ends = [FakeEndpoint(name, respond_in(name), max_concurrent=3) for name in ("a", "bb", "c")]
        watches = [Tally() for _ in range(300)]
        async with pooled(*ends, strategy="round_robin") as pool:

            async def one(number: int) -> None:
                asked = call(watch=watches[number], owner=number % 7, patience=5.0)
                try:
                    async with asyncio.timeout(0.02 if number % 11 == 0 else None):
                        await (read(pool, asked) if number % 2 else pool.complete(asked))
                except (UpstreamError, TimeoutError):
                    pass

            await asyncio.gather(*(one(number) for number in range(300)))
            assert (pool.under_way, pool.waiting) == (0, 0)
        sent = sorted(name for watch in watches for name in watch.attempts)
        assert sent == sorted(end.config.name for end in ends for _ in end.calls)
        assert all(end.peak <= 3 for end in ends)
        for watch in watches:
            assert len(watch.attempts) - len(watch.errors) in (0, 1)

    run(test)
