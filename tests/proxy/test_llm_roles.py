"""Several models in one request: who plays which part, and whose parameters win."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from driving import MESSAGES, Driver, FakeUpstream, Live

from proxy.ensembles import Member, Team
from proxy.errors import UpstreamError

FULL = (
    Member("anna", "proposer"),
    Member("bela", "proposer"),
    Member("carl", "aggregator"),
    Member("dora", "judge"),
    Member("emil", "critic"),
    Member("fred", "helper"),
)
PROPOSERS = FULL[:2]
CLIENT: Mapping[str, Any] = {
    "temperature": 0.1,
    "top_k": 7,
    "max_tokens": 100,
    "stop": ["x"],
    "user": "me",
}


def driven(
    *members: Member,
    use: Callable[[Driver], Awaitable[Any]],
    upstream: FakeUpstream | None = None,
    **options: Any,
) -> FakeUpstream:
    """What the upstream saw while ``use`` had its way with a team."""
    upstream = upstream or FakeUpstream(lambda call: f"{call.model} says Score: 5")

    async def run() -> None:
        await use(Driver(upstream, *members, **options))

    asyncio.run(run())
    return upstream


async def sampled(driver: Driver, k: int) -> None:
    async with driver.llm.sample(MESSAGES, k) as landed:
        async for _ in landed:
            pass


class TestWhoPlaysWhat:
    def test_each_role_has_its_member(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.llm.role("judge").ask(MESSAGES)
            await driver.llm.role("critic").ask(MESSAGES)
            await driver.llm.ask(MESSAGES)
            await driver.llm.answer(MESSAGES)
            await driver.llm.final(MESSAGES)

        assert driven(*FULL, use=use).models_called == ["dora", "emil", "fred", "anna", "carl"]

    def test_samples_cycle_over_the_proposers(self) -> None:
        seen = driven(*FULL, use=lambda driver: sampled(driver, 5)).models_called
        assert seen == ["anna", "bela", "anna", "bela", "anna"]

    def test_a_stream_is_a_proposers_too(self) -> None:
        async def use(driver: Driver) -> None:
            async with driver.llm.stream(MESSAGES, nth=1) as incoming:
                async for _ in incoming:
                    pass

        assert driven(*FULL, use=use).models_called == ["bela"]

    @pytest.mark.parametrize(
        ("role", "members", "model"),
        [
            ("aggregator", PROPOSERS, "anna"),
            ("judge", PROPOSERS, "anna"),
            ("judge", FULL[:3], "carl"),
            ("critic", FULL[:3], "carl"),
            ("critic", FULL[:4], "dora"),
            ("helper", PROPOSERS, "bela"),
            ("helper", FULL[:4], "bela"),
            ("critic", FULL[2:3], "carl"),
        ],
    )
    def test_somebody_stands_in_for_a_role_nobody_has(
        self, role: Any, members: tuple[Member, ...], model: str
    ) -> None:
        async def use(driver: Driver) -> None:
            await driver.llm.role(role).ask(MESSAGES)

        assert driven(*members, use=use).models_called == [model]

    def test_one_model_plays_every_part(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.llm.role("judge", not_model="base").ask(MESSAGES)
            await sampled(driver, 2)
            await driver.llm.final(MESSAGES)

        assert set(driven(use=use).models_called) == {"base"}

    @pytest.mark.parametrize(
        ("members", "not_model", "model"),
        [
            (FULL, "dora", "carl"),
            (FULL, "anna", "dora"),
            ((*FULL, Member("gina", "judge")), "dora", "gina"),
            (PROPOSERS, "anna", "bela"),
            ((Member("anna"),), "anna", "anna"),
        ],
    )
    def test_none_judges_itself_where_there_is_another(
        self, members: tuple[Member, ...], not_model: str, model: str
    ) -> None:
        async def use(driver: Driver) -> None:
            await driver.llm.role("judge", not_model=not_model).ask(MESSAGES)

        assert driven(*members, use=use).models_called == [model]

    def test_a_bound_role_is_kept_by_every_call(self) -> None:
        async def use(driver: Driver) -> None:
            critic = driver.llm.role("critic")
            await critic.answer(MESSAGES)
            async with critic.sample(MESSAGES, 2) as landed:
                assert len([reply async for reply in landed]) == 2

        assert driven(*FULL, use=use).models_called == ["emil", "emil", "emil"]

    def test_the_ledger_tells_the_role(self) -> None:
        roles: list[str] = []

        async def use(driver: Driver) -> None:
            await driver.llm.role("judge").ask(MESSAGES)
            await driver.llm.ask(MESSAGES)
            await driver.llm.answer(MESSAGES)
            await driver.llm.final(MESSAGES)
            roles.extend(record.role for record in driver.run.ledger.calls)

        driven(*FULL, use=use)
        assert roles == ["judge", "helper", "proposer", "final"]


class TestWhoseParametersWin:
    def sent(self, member: Member, params: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
        async def use(driver: Driver) -> None:
            await driver.llm.answer(MESSAGES, **arguments)

        body = dict(driven(member, use=use, params=params).calls[0].body)
        del body["messages"]
        return body

    def test_argument_before_member_before_client(self) -> None:
        member = Member("anna", params={"temperature": 0.5, "top_k": 9})
        assert self.sent(member, CLIENT) == {**CLIENT, "temperature": 0.5, "top_k": 9}
        assert self.sent(member, CLIENT, top_k=1)["top_k"] == 1
        assert "top_k" not in self.sent(member, CLIENT, top_k=None)

    def test_a_members_limit_displaces_the_clients_under_its_other_name(self) -> None:
        newer = Member("anna", params={"max_completion_tokens": 50})
        assert self.sent(newer, {"max_tokens": 100}) == {"max_completion_tokens": 50}
        older = Member("anna", params={"max_tokens": 50})
        assert self.sent(older, {"max_completion_tokens": 100}) == {"max_completion_tokens": 50}
        assert self.sent(newer, {}, max_tokens=7) == {"max_completion_tokens": 7}

    def test_a_members_temperature_0_is_for_single_answers_only(self) -> None:
        member = Member("anna", params={"temperature": 0})
        upstream = driven(member, use=lambda driver: sampled(driver, 2))
        assert all(call.body["temperature"] > 0 for call in upstream.calls)
        assert self.sent(member, {})["temperature"] == 0

    def test_a_helper_keeps_its_own_sampling_but_no_shape(self) -> None:
        member = Member("fred", "helper", {"temperature": 0.5, "top_k": 9, "stop": ["y"]})

        async def use(driver: Driver) -> None:
            await driver.llm.ask(MESSAGES)

        body = driven(Member("anna"), member, use=use, params=CLIENT).calls[0].body
        assert {n: v for n, v in body.items() if n != "messages"} == {
            "temperature": 0.5,
            "top_k": 9,
            "user": "me",
        }


class TestBuiltApproachesWithATeam:
    def test_moa(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.play("moa", samples=3, layers=2)

        seen = driven(*FULL, use=use).models_called
        assert seen == [*["anna", "bela", "anna"] * 2, "emil", "carl"]

    def test_moa_streams_its_aggregator(self) -> None:
        outlet = Live()

        async def use(driver: Driver) -> None:
            await driver.play("moa")

        driven(*FULL, use=use, outlet=outlet)
        assert outlet.text == "carl says Score: 5"
        assert len(outlet.deltas) == len(outlet.text)

    def test_bon_has_each_proposer_judged_by_another(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.play("bon", samples=2)

        upstream = driven(*PROPOSERS, use=use)
        judged = {
            call.model: call.body["messages"][-1]["content"]
            for call in upstream.calls
            if call.body["messages"][0]["role"] == "system"
        }
        assert "bela says" in judged["anna"]
        assert "anna says" in judged["bela"]

    def test_an_approach_that_never_says_role_works_too(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.play("self_consistency", samples=4)

        seen = driven(*FULL, use=use).models_called
        assert sorted(seen) == ["anna", "anna", "bela", "bela"]

    def test_one_proposer_may_be_down(self) -> None:
        def respond(call: Any) -> Any:
            return UpstreamError("down") if call.model == "anna" else "The answer is 4."

        async def use(driver: Driver) -> None:
            await driver.play("self_consistency", samples=4)
            assert driver.text == "The answer is 4."

        driven(*FULL, use=use, upstream=FakeUpstream(respond))


def test_a_team_of_one() -> None:
    assert Team.of("base").member("critic", nth=5, not_model="base") == Member("base")


class TestOneModel:
    def test_by_its_name_whoever_is_in_the_team(self) -> None:
        async def use(driver: Driver) -> None:
            await driver.llm.model("outsider").ask(MESSAGES)
            await driver.llm.role("judge").model("bela").ask(MESSAGES)
            await driver.llm.model("bela").role("judge").answer(MESSAGES, nth=3)

        assert driven(*FULL, use=use).models_called == ["outsider", "bela", "bela"]

    def test_with_its_own_parameters_where_it_is_a_member(self) -> None:
        members = (Member("anna"), Member("bela", "critic", {"top_k": 3}))

        async def use(driver: Driver) -> None:
            await driver.llm.model("bela").answer(MESSAGES)

        assert driven(*members, use=use).calls[0].body["top_k"] == 3
