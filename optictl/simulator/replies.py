"""What a simulated model says: the role a call plays, and a seeded reply for that role."""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Any

import orjson

from optictl.simulator.ask import Ask, text_of
from optictl.simulator.behaviour import Behaviour
from optictl.simulator.questions import (
    Candidate,
    distractor,
    find_answer,
    find_candidates,
    find_question,
    gold,
)

CHARS_PER_TOKEN = 4
#: A judge's score is 5 where right and wrong are equally likely, and one sigma is so many points.
POINTS_PER_SIGMA = 1.25


class Role(StrEnum):
    """The part a call plays in an approach."""

    SOLVER = "solver"
    AGGREGATOR = "aggregator"
    JUDGE = "judge"
    SELECTOR = "selector"
    VERIFIER = "verifier"
    STAGE = "stage"
    DECEIVER = "deceiver"


#: The words by which approaches ask for a reply that they can parse, or for a mistake.
ENDINGS = {
    "Score: [0-10]": Role.JUDGE,
    "Best candidate:": Role.SELECTOR,
    "Overall assessment (CORRECT/INCORRECT)": Role.VERIFIER,
    "Do not provide the final answer": Role.STAGE,
    "deliberately wrong": Role.DECEIVER,
}
#: What asks a stage for questions, and for how many of them.
_QUESTIONS = re.compile(
    r"\b(?:ask|give|list|write)\b[^.\n]{0,40}?\b(\d{1,3})\b[^.\n]{0,40}\bquestions\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the messages ask for."""

    role: Role
    question: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice. `right` is None where the role has no right and wrong."""

    content: str | None
    finish_reason: str
    right: bool | None
    reasoning: str = ""
    tool_call: ToolCall | None = None

    @property
    def completion_tokens(self) -> int:
        """Tokens at four characters each, reasoning included, at least one."""
        call = self.tool_call
        chars = len(self.content or "") + len(self.reasoning)
        return tokens(chars + (len(call.name) + len(call.arguments) if call else 0))


def tokens(chars: int) -> int:
    """Tokens of a text of so many characters, at least one."""
    return max(1, -(-chars // CHARS_PER_TOKEN))


def read_prompt(ask: Ask, override: Role | None = None) -> Prompt:
    """The role a call plays, and on which question and candidates; `override` names the role."""
    candidates = tuple(find_candidates(ask.user))
    role = override or _role(ask, candidates)
    question = next(
        (
            question
            for message in reversed(ask.messages)
            if message.get("role") == "user" and (question := find_question(text_of(message)))
        ),
        ask.user.strip(),
    )
    return Prompt(role, question, candidates)


def _role(ask: Ask, candidates: tuple[Candidate, ...]) -> Role:
    for text in (ask.user, ask.system):
        place, role = max((text.rfind(ending), role) for ending, role in ENDINGS.items())
        if place >= 0:
            return role
    return Role.AGGREGATOR if candidates else Role.SOLVER


class Draw:
    """The dice of one reply: the same for the same seed, model, role, prompt and sample number."""

    def __init__(self, behaviour: Behaviour, ask: Ask, prompt: Prompt, number: int) -> None:
        self.behaviour = behaviour
        self.prompt = prompt
        key = f"{behaviour.seed}\0{ask.model}\0{sample_key(ask, prompt)}\0{number}"
        self.random = Random(int.from_bytes(blake2b(key.encode(), digest_size=16).digest()))

    def answer(self) -> str:
        """A solver's answer: right with probability p, else one of the distractors."""
        behaviour, question = self.behaviour, self.prompt.question
        if self.random.random() < behaviour.probability:
            return gold(question)
        return self.mistake()

    def mistake(self) -> str:
        """One of the distractors."""
        behaviour, question = self.behaviour, self.prompt.question
        weights = list(accumulate(behaviour.distractors))
        last = len(weights) - 1
        return distractor(question, bisect(weights, self.random.random() * weights[-1], hi=last))

    def judgement(self, answer: str) -> float:
        """What a noisy judge sees: N(d, 1) for a right answer, N(0, 1) for a wrong one."""
        d = self.behaviour.judge_separation if same(answer, gold(self.prompt.question)) else 0.0
        return self.random.gauss(d, 1)

    def reasoning(self, chars: int) -> str:
        """Prose of about so many characters; no two samples say the same."""
        path = f"{self.random.getrandbits(40):x}".translate(_LETTERS)
        text = f"Along path {path} the problem is taken apart and put together again. "
        if len(text) < chars:
            text += _FILLER * ((chars - len(text)) // len(_FILLER) + 1)
            text = text[: text.rfind(". ", 0, chars) + 1]
        return text.rstrip()


def sample_key(ask: Ask, prompt: Prompt) -> str:
    """What samples are numbered by: a solver's by question, of other roles by the whole prompt."""
    text = prompt.question if prompt.role is Role.SOLVER else f"{prompt.question}\0{ask.user}"
    return blake2b(f"{prompt.role}\0{text}".encode(), digest_size=16).hexdigest()


def compose(behaviour: Behaviour, ask: Ask, prompt: Prompt, number: int) -> Reply:
    """The reply of sample `number` (the request's seed, where it has one)."""
    draw = Draw(behaviour, ask, prompt, number)
    if ask.tool and ask.tool_result is None and prompt.role in (Role.SOLVER, Role.AGGREGATOR):
        return _tool_reply(ask.tool, draw)
    answer, ending, right = _ending(ask, draw)
    if ask.json:
        text = orjson.dumps({"text": ending} if answer is None else {"answer": _plain(answer)})
        content = text.decode()
    else:
        content = f"{draw.reasoning(behaviour.tokens * CHARS_PER_TOKEN)}\n\n{ending}"
    finish = "stop"
    for stop in ask.stop:
        if stop:
            content = content.partition(stop)[0]
    if ask.max_tokens is not None and len(content) > ask.max_tokens * CHARS_PER_TOKEN:
        content, finish = content[: ask.max_tokens * CHARS_PER_TOKEN], "length"
    return Reply(content, finish, right, behaviour.reasoning)


def _ending(ask: Ask, draw: Draw) -> tuple[str | None, str, bool | None]:
    """The answer if there is one, the sentence a reply ends with, and whether it is right."""
    behaviour, prompt = draw.behaviour, draw.prompt
    answer: str | None = None
    match prompt.role:
        case Role.JUDGE:
            seen = draw.judgement(_judged(ask, prompt)) - behaviour.judge_separation / 2
            return None, f"Score: {min(10, max(0, 5 + POINTS_PER_SIGMA * seen)):.2f}", None
        case Role.VERIFIER:
            correct = draw.judgement(_judged(ask, prompt)) > behaviour.judge_separation / 2
            return None, f"Overall assessment: {'CORRECT' if correct else 'INCORRECT'}", None
        case Role.SELECTOR:
            best = max(prompt.candidates, key=lambda c: draw.judgement(c.answer), default=None)
            return None, f"Best candidate: {best.number if best else 1}", None
        case Role.STAGE if asked := _QUESTIONS.search(ask.user):
            return None, _questions(int(asked[1])), None
        case Role.STAGE if _PROGRAM.search(ask.user):
            return None, _program(draw), None
        case Role.STAGE:
            return None, _staged(ask.user), None
        case Role.AGGREGATOR if prompt.candidates and (
            draw.random.random() < behaviour.aggregator_skill
        ):
            votes = Counter(candidate.answer for candidate in prompt.candidates)
            answer = votes.most_common(1)[0][0]
        case Role.DECEIVER:
            answer = draw.mistake()
        case Role.AGGREGATOR | Role.SOLVER:
            answer = draw.answer()
    said = f"The tool says: {ask.tool_result[:400]}\n\n" if ask.tool_result else ""
    right = same(answer, gold(prompt.question))
    return answer, f"{said}The final answer is \\boxed{{{answer}}}.", right


def _questions(count: int) -> str:
    return "\n".join(f"{number}. Does step {number} hold?" for number in range(1, count + 1))


def _program(draw: Draw) -> str:
    """A program that prints the answer: to state a question is easier than to answer it."""
    stated = draw.random.random() < _STATED_RIGHT
    value = gold(draw.prompt.question) if stated else draw.mistake()
    return f"```python\nprint({value!r})\n```"


def _staged(asked: str) -> str:
    """What a stage in between comes to: a numbered list where one is asked for."""
    if not (lengths := _LIST.findall(asked)):
        return "What remains is to carry this through with care."
    points = range(1, int(lengths[-1]) + 1)
    return "\n".join(f"{number}. Point {number} needs a closer look." for number in points)


def _judged(ask: Ask, prompt: Prompt) -> str:
    """The answer under judgement: the last candidate, else what the conversation says last."""
    if prompt.candidates:
        return prompt.candidates[-1].answer
    return find_answer(ask.user if "\\boxed{" in ask.user or not ask.draft else ask.draft)


def _tool_reply(function: dict[str, Any], draw: Draw) -> Reply:
    """A call of the function: its first text argument is the question where the sample is right."""
    answer = draw.answer()
    right = same(answer, gold(draw.prompt.question))
    schema = function.get("parameters") or {}
    arguments: dict[str, Any] = {}
    text = draw.prompt.question if right else answer
    for name, kind in (schema.get("properties") or {}).items():
        if "enum" in kind:
            arguments[name] = kind["enum"][0]
            continue
        values = {"string": text, "integer": 1, "number": 1, "boolean": True, "array": []}
        arguments[name] = values.get(kind.get("type", "string"), {})
    call = ToolCall(
        id="call_" + f"{draw.random.getrandbits(64):016x}",
        name=str(function.get("name")),
        arguments=orjson.dumps(arguments).decode(),
    )
    return Reply(None, "tool_calls", right, draw.behaviour.reasoning, call)


def same(answer: str, truth: str) -> bool:
    """Whether an answer states the gold answer."""
    return answer.strip(" $").replace(",", "") == truth


def _plain(answer: str) -> int | str:
    return int(answer) if answer.lstrip("-").isdecimal() else answer


#: What asks a stage for a program, and how often that says what the question says.
_PROGRAM = re.compile(r"\bwrite (?:a|one) python program\b", re.IGNORECASE)
_STATED_RIGHT = 0.95
#: A list of so many items; up to three words may stand in front of the number.
_LIST = re.compile(r"\bnumbered list of (?:\w+ ){0,3}(\d{1,2})\b", re.IGNORECASE)
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjklmnprstv")
_FILLER = (
    "First the known quantities are written down and named. "
    "Then each step follows from the one before it, and none is skipped. "
    "A rough estimate shows that the result has the right size. "
    "A second way of going about it leads to the same place. "
)
