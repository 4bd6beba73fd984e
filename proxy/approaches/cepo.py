"""CePO: plan, execute, compare the executions, answer; the best of several such answers.

Cerebras Planning and Optimization (cerebras.ai/blog/cepo, 2024; there is no paper). The options
have its names, and so has its YAML file (``optictl serve --cepo-config-file``).

1. Plan: a chain writes down steps, each with a confidence (`planning_n` chains side by side).
2. Execute: the same chain carries its plan out. A chain that fails, or is cut short, is replaced
   by a spare; so is the last one where it takes as long again as the others took, and whichever
   of the two lands first counts. No more than `planning_m` chains are started.
3. Review: where the executions contradict each other, find out why; one corrected solution.
   Models spot a contradiction between solutions better than a mistake in one.
4. Answer from that solution. Without a single execution, answer the conversation directly.
5. Of `bestofn_n` such answers the best: rated one by one as they land (absolute), compared in both
   orders of every pair (pairwise), or the most frequent (majority).

Deviations: an answer's length is the client's `max_tokens` where it sets one, a reply is rated
from 0 to 10 and not as right or wrong, and `reasoning_effort` is sent only with
`use_reasoning_fallback`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from proxy.answers import choice, score
from proxy.best_of import best_rated, most_frequent, winner_of_pairs
from proxy.chat import Chat, Message, Reply
from proxy.llm import LLM, SHAPE_PARAMS, Range, Shape, UpstreamError, approach
from proxy.spares import enough

_Temperature = Range(0.0, 2.0)
_Tokens = Range(1, 1_000_000)


def _shape(o: Any) -> Shape:
    n, rating = o.bestofn_n, _rated(o)
    each = o.use_plan_diversity + 2 * min(o.planning_n, o.planning_m) + 2
    ratings = rating * (n * (n - 1) if o.bestofn_rating_type == "pairwise" else n)
    # A majority waits for no answer that cannot change it: where half agree, others can but tie.
    needed = n if rating else (n + 1) // 2
    calls = (needed * each + ratings, n * each + ratings)
    return Shape(calls=calls, rounds=o.use_plan_diversity + 4 + rating)


def _rated(o: Any) -> bool:
    return bool(o.bestofn_n > 1 and o.bestofn_rating_type != "majority")


@approach(
    "cepo",
    shape=_shape,
    aliases={
        f"cepo_{name}": name
        for name in (
            *("bestofn_n", "bestofn_temperature", "bestofn_max_tokens", "bestofn_rating_type"),
            *("planning_n", "planning_m"),
            *("planning_temperature_step1", "planning_temperature_step2"),
            *("planning_temperature_direct_resp", "planning_temperature_step3"),
            *("planning_temperature_step4", "planning_max_tokens_step1"),
            *("planning_max_tokens_step2", "planning_max_tokens_direct_resp"),
            *("planning_max_tokens_step3", "planning_max_tokens_step4"),
            *("use_plan_diversity", "use_reasoning_fallback", "num_of_retries"),
            *("rating_model", "print_output"),
        )
    },
    use="Hard mathematics and code, where five rounds and 27 calls are affordable.",
    roles=lambda o: (
        ("proposer", "critic", "aggregator", "judge")
        if _rated(o)
        else ("proposer", "critic", "aggregator")
    ),
)
async def cepo(
    chat: Chat,
    llm: LLM,
    *,
    bestofn_n: Annotated[int, Range(1, 16), "answers to choose from"] = 3,
    bestofn_temperature: Annotated[float, _Temperature, "of ratings"] = 0.1,
    bestofn_max_tokens: Annotated[int, _Tokens, "most tokens of a rating"] = 4096,
    bestofn_rating_type: Annotated[
        Literal["absolute", "pairwise", "majority"],
        "rate each answer, compare each pair in both orders, or take the most frequent",
    ] = "absolute",
    planning_n: Annotated[int, Range(1, 16), "executed plans behind an answer"] = 3,
    planning_m: Annotated[int, Range(1, 64), "most plans that are tried for them"] = 6,
    planning_temperature_step1: Annotated[float, _Temperature, "of plans"] = 0.55,
    planning_temperature_step2: Annotated[float, _Temperature, "of executions"] = 0.25,
    planning_temperature_direct_resp: Annotated[
        float, _Temperature, "of an answer without any executed plan"
    ] = 0.1,
    planning_temperature_step3: Annotated[float, _Temperature, "of reviews"] = 0.1,
    planning_temperature_step4: Annotated[float, _Temperature, "of answers"] = 0.0,
    planning_max_tokens_step1: Annotated[int, _Tokens, "most tokens of a plan"] = 4096,
    planning_max_tokens_step2: Annotated[int, _Tokens, "most tokens of an execution"] = 4096,
    planning_max_tokens_direct_resp: Annotated[
        int, _Tokens, "most tokens of an answer without any executed plan"
    ] = 4096,
    planning_max_tokens_step3: Annotated[int, _Tokens, "most tokens of a review"] = 4096,
    planning_max_tokens_step4: Annotated[
        int, _Tokens, "most tokens of an answer, where the client sets no limit"
    ] = 4096,
    use_plan_diversity: Annotated[
        bool, "have different ways to go named first, and each plan go one of them"
    ] = False,
    use_reasoning_fallback: Annotated[
        bool, "ask for high reasoning effort; where that fails for medium, then for low"
    ] = False,
    num_of_retries: Annotated[int, Range(0, 10), "more attempts at a call that fails"] = 0,
    rating_model: Annotated[str | None, "model that rates, instead of the judge"] = None,
    print_output: Annotated[bool, "tell what every stage said, as progress"] = False,
) -> Reply:
    """Plan, execute and review several times over, and return the best of the answers."""
    calls = _Calls(llm, num_of_retries, use_reasoning_fallback, print_output)
    work = _Work(
        chat=chat,
        llm=llm,
        calls=calls,
        chains=min(planning_n, planning_m),
        attempts=planning_m,
        diverse=use_plan_diversity,
        plan=_Step("plan", planning_temperature_step1, planning_max_tokens_step1),
        execute=_Step("execution", planning_temperature_step2, planning_max_tokens_step2),
        direct=_Step("answer", planning_temperature_direct_resp, planning_max_tokens_direct_resp),
        review=_Step("review", planning_temperature_step3, planning_max_tokens_step3),
        answer=_Step("answer", planning_temperature_step4, planning_max_tokens_step4),
    )
    answers = [work.candidate(number) for number in range(bestofn_n)]
    rating = _Step("rating", bestofn_temperature, bestofn_max_tokens)
    judge = _Judge(chat, llm, calls, rating, rating_model)
    if bestofn_n == 1 or bestofn_rating_type == "majority":
        return await most_frequent(llm, answers)
    if bestofn_rating_type == "pairwise":
        return await winner_of_pairs(llm, answers, judge.prefers)
    return await best_rated(llm, answers, judge.rating)


@dataclass(frozen=True, slots=True)
class _Step:
    """How one step's calls are made."""

    name: str
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Calls:
    """Calls that are made again where they fail."""

    llm: LLM
    retries: int
    fallback: bool
    shown: bool

    async def make(
        self,
        step: _Step,
        ask: Callable[..., Awaitable[Reply]],
        messages: Sequence[Message],
        **params: Any,
    ) -> Reply:
        """The step's reply; one that is cut short only where all are."""
        params = {"temperature": step.temperature, "max_tokens": step.max_tokens, **params}
        cut: Reply | None = None
        failure: UpstreamError | None = None
        for effort in _EFFORTS if self.fallback else _AS_IT_IS:
            for _ in range(self.retries + 1):
                try:
                    reply = await ask(messages, **params, **effort)
                except UpstreamError as error:
                    failure = error
                    continue
                if self.shown:
                    self.llm.note(f"{step.name}: {reply.rendered}")
                if not reply.truncated:
                    return reply
                # The same again would be as long again: only less effort helps.
                cut = reply
                break
        if cut is not None:
            return cut
        assert failure is not None, "no reply without a failure"
        raise failure


@dataclass(slots=True)
class _Work:
    """Steps 1 to 4."""

    chat: Chat
    llm: LLM
    calls: _Calls
    chains: int
    attempts: int
    diverse: bool
    plan: _Step
    execute: _Step
    direct: _Step
    review: _Step
    answer: _Step
    #: Whether anything better than an execution has been kept.
    answered: bool = False

    async def candidate(self, number: int) -> Reply:
        """One answer, from executed plans where there are any."""
        executions = await self._executions(number)
        solutions = await self._reviewed(executions) if executions else ()
        messages, step = self.chat.messages, self.direct
        if solutions:
            messages = self.chat.followed_by(_ANSWER.format(solutions=_quoted(solutions)))
            step = self.answer
        ask = partial(self.llm.role("aggregator").answer, nth=number)
        # How long the answer may be is the client's to say.
        limits = _LIMITS & self.chat.params.keys()
        reply = await self.calls.make(
            step, ask, messages, **{name: self.chat.params[name] for name in limits}
        )
        self.answered = True
        return reply

    async def _executions(self, number: int) -> list[Reply]:
        """Executions of as many plans as are wanted, or of as many as succeed."""
        ways = await self._ways(number) if self.diverse else ""

        def keep(execution: Reply) -> None:
            if not self.answered:
                self.llm.keep(execution)

        execute = partial(self._executed, number, ways)
        return await enough(self.llm, execute, self.chains, self.attempts, keep)

    async def _ways(self, number: int) -> str:
        """Different ways to go, numbered; '' where nobody names them."""
        text = _WAYS.format(count=self.attempts)
        ask = partial(self.llm.answer, nth=number, **_MATERIAL)
        try:
            return (await self.calls.make(self.plan, ask, self.chat.followed_by(text))).rendered
        except UpstreamError:
            return ""

    async def _executed(self, number: int, ways: str, attempt: int) -> Reply | None:
        """The execution of a new plan; None where either fails or is cut short."""
        ask = partial(self.llm.answer, nth=number * self.attempts + attempt, **_MATERIAL)
        one_way = _PLAN_ONE_WAY.format(ways=ways, number=attempt + 1) if ways else ""
        try:
            plan = await self.calls.make(self.plan, ask, self.chat.followed_by(one_way + _PLAN))
            if plan.truncated:
                return None
            messages = self.chat.followed_by(_EXECUTE.format(plan=plan.rendered))
            execution = await self.calls.make(self.execute, ask, messages)
        except UpstreamError:
            return None
        return None if execution.truncated else execution

    async def _reviewed(self, executions: Sequence[Reply]) -> Sequence[Reply]:
        """The corrected solution; the executions as they are where nobody reviews them."""
        messages = self.chat.followed_by(_REVIEW.format(solutions=_quoted(executions)))
        try:
            review = await self.calls.make(self.review, self.llm.role("critic").ask, messages)
        except UpstreamError:
            return executions
        return executions if review.truncated else [review]


@dataclass(frozen=True, slots=True)
class _Judge:
    """Step 5's rater; one that fails, or babbles, has no say."""

    chat: Chat
    llm: LLM
    calls: _Calls
    step: _Step
    model: str | None

    async def rating(self, reply: Reply) -> float:
        """From 0 to 10; below that where there is none."""
        said = await self._said(_RATE.format(answer=reply.rendered), not_model=reply.model)
        rating = None if said is None else score(said)
        return -1.0 if rating is None else rating

    async def prefers(self, first: Reply, second: Reply) -> int | None:
        """The index of the better one of two, which are shown in this order."""
        said = await self._said(_COMPARE.format(solutions=_quoted([first, second])))
        return None if said is None else choice(said, 2)

    async def _said(self, text: str, not_model: str | None = None) -> str | None:
        judge = self.llm.role("judge", not_model=not_model)
        if self.model is not None:
            judge = judge.model(self.model)
        try:
            return (await self.calls.make(self.step, judge.ask, self.chat.followed_by(text))).text
        except UpstreamError:
            return None


def _quoted(solutions: Sequence[Reply]) -> str:
    return "\n\n".join(
        _SOLUTION.format(number=number, text=solution.rendered)
        for number, solution in enumerate(solutions, start=1)
    )


_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
#: Without the client's shape: what is written is material for the next step.
_MATERIAL: Mapping[str, Any] = dict.fromkeys(sorted(SHAPE_PARAMS - _LIMITS))
_EFFORTS: Sequence[Mapping[str, str]] = [
    {"reasoning_effort": effort} for effort in ("high", "medium", "low")
]
_AS_IT_IS: Sequence[Mapping[str, str]] = [{}]

_SOLUTION = """\
<candidate number="{number}">
{text}
</candidate>"""

_WAYS = """\
Name {count} ways to go about the message above that differ in their idea, not only in their \
details. Number them, one sentence each. Do not provide the final answer."""

_PLAN_ONE_WAY = """\
These are ways to go about the message above:

{ways}

Go way {number}, or one of your own where there is none of that number.

"""

_PLAN = """\
Plan how to answer the message above before anything is worked out. Write down numbered steps, \
each small enough to be carried out without doubt, and behind each how confident you are that it \
is needed and sound (low, medium or high). Where you are not confident, say what would settle it. \
Do not provide the final answer."""

_EXECUTE = """\
Here is a plan for answering the message above:

<plan>
{plan}
</plan>

Carry it out step by step and show the work. Take most care over the steps that the plan is not \
confident about, and leave the plan where it turns out to be wrong. End with the answer."""

_REVIEW = """\
These solutions were worked out for the message above, each from a plan of its own:

{solutions}

Compare them step by step. Where they contradict each other, find out which of them is right and \
why; agreement alone proves nothing. Then write down one complete solution with every mistake \
corrected, and end with its answer."""

_ANSWER = """\
This has been worked out for the message above:

{solutions}

Answer the message now, as its author would want it answered: completely, in the form asked for, \
and without mentioning that anything was worked out before."""

_RATE = """\
Do not answer the message above. Rate this answer to it:

<candidate>
{answer}
</candidate>

First look for mistakes: redo the steps that decide, and check that everything asked for is there. \
Then end with one line, 0 for an answer that is wrong, 10 for one that is surely right:
Score: [0-10]"""

_COMPARE = """\
Do not answer the message above. Two answers to it are compared:

{solutions}

Find out where they differ and which of them is right there. Their order and their length say \
nothing. Then end with one line that names the better one by its number, 1 or 2:
Best candidate: [number]"""
