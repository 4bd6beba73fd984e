"""Tool calls as answers: voted on, rated, aggregated, and always returned as real calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from conftest import QUESTION, InProcess, eventually
from driving import Driver, FakeUpstream, completion

from optictl.simulator import SimulatorThread
from proxy.ensembles import Member
from proxy.errors import UpstreamError
from proxy.registry import discover
from proxy.run.outlet import Collected
from proxy.upstream.port import Call

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
TREATED = ["bon", "cascade", "majority_voting", "moa", "self_consistency"]
#: They hand the request on as it is.
PASSING = ["none", "router"]
OTHERS = sorted(
    entry.slug
    for entry in discover()
    if entry.mark.kind == "approach" and entry.slug not in {*TREATED, *PASSING}
)


def calling(number: int, finish_reason: str = "tool_calls", **arguments: Any) -> Any:
    """A reply that calls the tool, with an id of its own."""
    function = {"name": "look_up", "arguments": json.dumps(arguments)}
    calls = [{"id": f"call_{number}", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return completion(None, choices=[{"message": message, "finish_reason": finish_reason}])


def played(
    slug: str, said: Sequence[Any], *members: Member, judge: Callable[[Call], Any] | None = None
) -> tuple[Any, str, FakeUpstream]:
    """What the client gets where candidates say these in turn: a reply, how it ends, the calls."""
    candidates: Iterator[Any] = iter(said)

    def respond(call: Call) -> Any:
        if judge is not None and "tools" not in call.body:
            return judge(call)
        return next(candidates, UpstreamError("no more"))

    async def run() -> tuple[Any, str, FakeUpstream]:
        driver = Driver(FakeUpstream(respond), *members, params={"tools": [TOOL]})
        ended = await driver.play(slug)
        assert isinstance(driver.outlet, Collected)
        return (
            driver.outlet.result(ended.finish_reason),
            ended.finish_reason,
            driver.upstream,
        )

    return asyncio.run(run())


def ids(reply: Any) -> list[str]:
    return [call["id"] for call in reply.tool_calls]


@pytest.fixture
def client(proxy: InProcess) -> Iterator[openai.OpenAI]:
    """The official SDK, in front of the app in this process."""
    transport = httpx.WSGITransport(app=proxy.app)
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(base_url="http://x/v1", api_key="k", max_retries=0, http_client=http) as sdk,
    ):
        yield sdk


def asked(sdk: openai.OpenAI, slug: str, messages: list[Any], stream: bool) -> tuple[Any, str, Any]:
    """The message, how it ends, and our own object."""
    create: Any = sdk.chat.completions.create
    answer = create(model=f"{slug}-sim", messages=messages, tools=[TOOL], stream=stream)
    if not stream:
        (choice,) = answer.choices
        message = choice.message.model_dump(exclude_none=True)
        return message, choice.finish_reason, answer.model_extra["optillm"]
    message, finish, own = {"role": "assistant", "content": ""}, "", None
    for chunk in answer:
        own = (chunk.model_extra or {}).get("optillm", own)
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            message["content"] += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                (call,) = message.setdefault("tool_calls", [{"id": "", "function": {}}])
                call["id"] += part.id or ""
                call["type"] = "function"
                function = call["function"]
                function["name"] = function.get("name", "") + (part.function.name or "")
                function["arguments"] = function.get("arguments", "") + (
                    part.function.arguments or ""
                )
    return message, finish, own


@pytest.mark.parametrize("right", [1.0, 0.0], ids=["agreed", "split"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("slug", TREATED)
def test_tools_make_the_round_trip(
    client: openai.OpenAI, sim: SimulatorThread, slug: str, stream: bool, right: float
) -> None:
    sim.behave(probability=right, distractors=(1.0,) * 50)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    message, finish, own = asked(client, slug, messages, stream)
    assert (finish, own["approach"], own["skipped"]) == ("tool_calls", slug, [])
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "look_up"
    assert json.loads(call["function"]["arguments"])["what"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It is 391."}
    message, finish, own = asked(client, slug, [*messages, message, result], stream)
    assert (finish, own["approach"], own["skipped"]) == ("stop", slug, [])
    assert "The tool says: It is 391." in message["content"]
    assert "tool_calls" not in message
    assert eventually(lambda: sim.log.inflight == 0)


class TestOthers:
    @pytest.mark.parametrize("slug", OTHERS)
    def test_stand_back_and_say_so(self, proxy: InProcess, sim: SimulatorThread, slug: str) -> None:
        answer = proxy.ask(f"{slug}-sim", tools=[TOOL]).json
        assert answer["choices"][0]["message"]["tool_calls"]
        assert answer["optillm"]["approach"] == "none"
        assert answer["optillm"]["skipped"] == [f"{slug}: the request carries tools"]
        assert sim.log.calls == 1

    @pytest.mark.parametrize("slug", OTHERS)
    def test_do_so_in_a_stream_too(self, proxy: InProcess, sim: SimulatorThread, slug: str) -> None:
        own = proxy.stream(f"{slug}-sim", tools=[TOOL])[-2]["optillm"]
        assert (own["approach"], own["skipped"]) == (
            "none",
            [f"{slug}: the request carries tools"],
        )


@pytest.mark.parametrize("slug", ["self_consistency", "majority_voting"])
class TestVotes:
    def test_are_on_the_call_however_it_is_written(self, slug: str) -> None:
        said = [
            calling(1, what="x"),
            calling(2, what="y", n=1),
            calling(3, n=1.0, what="y"),
            calling(4, what="z"),
            "Text is an answer too: \\boxed{1}",
        ]
        reply, finish, _ = played(slug, said * 2)
        assert (ids(reply), finish) == (["call_2"], "tool_calls")

    def test_of_text_count_against_it(self, slug: str) -> None:
        said = ["\\boxed{1}", calling(1, what="1"), *["So it is \\boxed{1}"] * 6]
        reply, finish, _ = played(slug, said)
        assert (reply.text, ids(reply), finish) == ("\\boxed{1}", [], "stop")

    def test_that_were_cut_short_are_void(self, slug: str) -> None:
        cut = calling(1, "length", what="x")
        reply, _, _ = played(slug, [cut, cut, cut, calling(2, what="y"), *["?" * 90] * 4])
        assert ids(reply) == ["call_2"]

    def test_in_the_older_shape_are_calls(self, slug: str) -> None:
        function = {"name": "look_up", "arguments": '{"what": "x"}'}
        message = {"role": "assistant", "content": None, "function_call": function}
        older = completion(None, choices=[{"message": message, "finish_reason": "function_call"}])
        reply, finish, _ = played(slug, [older] * 8)
        assert (reply.message["function_call"], finish) == (function, "function_call")


class TestBestOfN:
    def test_calls_that_are_alike_are_rated_once(self) -> None:
        said = [calling(1, what="x", n=1), calling(2, n=1, what="x"), calling(3, what="y")]
        shown: list[str] = []

        def judge(call: Call) -> str:
            shown.append(str(call.body["messages"][-1]["content"]))
            return "Score: 9" if '"y' in shown[-1] or '\\"y' in shown[-1] else "Score: 4"

        reply, finish, upstream = played("bon", said, judge=judge)
        assert (ids(reply), finish) == (["call_3"], "tool_calls")
        assert len(shown) == 2
        assert len(upstream.calls) == 5
        assert all("look_up" in text for text in shown)

    def test_a_judge_that_fails_leaves_the_first(self) -> None:
        said = [calling(1, what="x"), calling(2, what="x"), "Or so."]
        reply, _, _ = played("bon", said, judge=lambda _: UpstreamError("down"))
        assert ids(reply) == ["call_1"]


class TestMixture:
    def test_a_call_that_most_proposers_make_is_not_aggregated(self) -> None:
        said = [calling(1, what="x"), "Text.", calling(3, what="x")]
        reply, finish, upstream = played("moa", said)
        assert (ids(reply), finish) == (["call_1"], "tool_calls")
        assert len(upstream.calls) == 3

    def test_who_is_still_writing_is_not_waited_for(
        self, proxy: InProcess, sim: SimulatorThread
    ) -> None:
        sim.behave(latency=0.02, sigma=1.0)
        own = proxy.ask("moa-sim", tools=[TOOL], optillm_options={"samples": 9}).json["optillm"]
        assert (own["calls"], own["rounds"]) == (9, 1)
        assert eventually(lambda: sim.log.inflight == 0)

    @pytest.mark.parametrize(
        "said",
        [
            [calling(1, what="x"), calling(2, what="y"), calling(3, what="z")],
            [calling(1, what="x"), "Text.", "More text."],
            [calling(1, "length", what="x")] * 3,
        ],
        ids=["split", "text", "cut short"],
    )
    def test_else_the_aggregator_decides_and_may_call(self, said: list[Any]) -> None:
        reply, finish, upstream = played(
            "moa", [*said, calling(9, what="w")], judge=lambda _: "A remark."
        )
        assert (ids(reply), finish) == (["call_9"], "tool_calls")
        aggregator = upstream.calls[-1].body
        assert aggregator["tools"] == [TOOL]
        assert "look_up" in aggregator["messages"][-1]["content"]
        assert "never write it out as text" in aggregator["messages"][-1]["content"]

    def test_its_answer_may_be_text(self) -> None:
        said = [calling(1, what="x"), calling(2, what="y"), "Text.", "The answer."]
        reply, finish, _ = played("moa", said, judge=lambda _: "A remark.")
        assert (reply.text, ids(reply), finish) == ("The answer.", [], "stop")

    def test_where_nobody_calls_nothing_is_said_of_calls(self) -> None:
        _, _, upstream = played("moa", ["One.", "Two.", "Three.", "All."], judge=lambda _: "Hm.")
        assert "call of one of the tools" not in str(upstream.calls[-1].body["messages"])


class TestCascade:
    CHEAP, STRONG = Member("cheap", "proposer"), Member("strong", "aggregator")

    def test_a_call_that_all_make_is_the_answer(self) -> None:
        said = [calling(n, what="x") for n in range(3)]
        reply, finish, upstream = played("cascade", said, self.CHEAP, self.STRONG)
        assert (ids(reply), finish) == (["call_0"], "tool_calls")
        assert upstream.models_called == ["cheap"] * 3

    def test_else_the_strong_member_calls(self) -> None:
        said = [*(calling(n, what=str(n)) for n in range(3)), calling(9, what="w")]
        reply, finish, upstream = played("cascade", said, self.CHEAP, self.STRONG)
        assert (ids(reply), finish) == (["call_9"], "tool_calls")
        assert upstream.models_called == ["cheap"] * 3 + ["strong"]
        assert upstream.calls[-1].body["tools"] == [TOOL]
