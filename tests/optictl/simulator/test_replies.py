"""What a simulated model says: roles, determinism, and frequencies that theory predicts."""

import math
from collections import Counter
from dataclasses import replace
from random import Random
from statistics import NormalDist, fmean
from typing import Any

import orjson
import pytest

from optictl.simulator import Behaviour, distractor, gold
from optictl.simulator.ask import RefusedError, read_ask
from optictl.simulator.replies import Reply, Role, compose, read_prompt

QUESTION = "What is 17 * 23 + 5?"
RIGHT, WRONG = "\\boxed{396}", "\\boxed{402}"


def say(behaviour: Behaviour, text: str = QUESTION, number: int = 0, **body: Any) -> Reply:
    body = {"model": "sim", "messages": [{"role": "user", "content": text}], **body}
    ask = read_ask(orjson.dumps(body))
    return compose(behaviour, ask, read_prompt(ask), number)


def text_of(behaviour: Behaviour, text: str = QUESTION, number: int = 0, **body: Any) -> str:
    return say(behaviour, text, number, **body).content or ""


def role_of(*messages: tuple[str, Any]) -> Role:
    body = {"model": "sim", "messages": [{"role": r, "content": c} for r, c in messages]}
    return read_prompt(read_ask(orjson.dumps(body))).role


def assert_frequency(hits: int, trials: int, expected: float) -> None:
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) <= 4 * error


def quoted(*answers: str) -> str:
    return "".join(f"<candidate>So {answer}.</candidate>\n" for answer in answers)


@pytest.mark.parametrize(
    ("ending", "role"),
    [
        ("", Role.SOLVER),
        ("Reply with Score: [0-10]", Role.JUDGE),
        ("Reply with Best candidate: [number]", Role.SELECTOR),
        ("End with one line:\nBest candidate: <number from 1 to 4>", Role.SELECTOR),
        ("Finish with Overall assessment (CORRECT/INCORRECT)", Role.VERIFIER),
        ("Do not provide the final answer", Role.STAGE),
        ("Write something deliberately wrong", Role.DECEIVER),
        (quoted(RIGHT, WRONG), Role.AGGREGATOR),
        (f"{RIGHT} or {WRONG}", Role.AGGREGATOR),
        (quoted(RIGHT, WRONG) + "Score: [0-10]", Role.JUDGE),
        ("Earlier: Score: [0-10]. Now: Do not provide the final answer.", Role.STAGE),
    ],
)
def test_the_ending_of_the_last_user_message_says_the_role(ending: str, role: Role) -> None:
    assert role_of(("user", f"{QUESTION}\n{ending}")) is role
    assert role_of(("system", ending), ("user", QUESTION)) is (
        Role.SOLVER if role is Role.AGGREGATOR else role
    )


def test_an_earlier_message_does_not_say_the_role() -> None:
    earlier = ("user", f"{QUESTION} Score: [0-10]")
    assert role_of(earlier, ("assistant", "Score: 3"), ("user", "Why?")) is Role.SOLVER


def test_a_question_is_found_in_an_earlier_turn_and_among_parts() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": QUESTION}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Go on."},
    ]
    assert text_of(Behaviour(), messages=messages) == text_of(Behaviour())


def test_each_sample_of_a_seed_is_always_the_same_and_differs_from_the_others() -> None:
    behaviour = Behaviour(probability=0.5)
    first = [say(behaviour, number=i) for i in range(50)]
    assert first == [say(behaviour, number=i) for i in range(50)]
    assert len({reply.content for reply in first}) == 50
    for other in (replace(behaviour, seed=1), behaviour):
        model = "sim" if other.seed else "other"
        again = [say(other, number=i, model=model).right for i in range(50)]
        assert again != [reply.right for reply in first]


def test_a_prompt_around_a_question_does_not_change_the_sample() -> None:
    behaviour = Behaviour(probability=0.5)
    assert [say(behaviour, f"Think hard.\n{QUESTION}", i) for i in range(20)] == [
        say(behaviour, number=i) for i in range(20)
    ]


def test_p_and_the_weights_of_the_distractors_are_met() -> None:
    behaviour = Behaviour(probability=0.5, distractors=(2, 2, 1, 0))
    trials = 4000
    seen = Counter(text_of(behaviour, number=i).split("boxed")[1] for i in range(trials))
    for answer, expected in [
        (gold(QUESTION), 0.5),
        (distractor(QUESTION, 0), 0.2),
        (distractor(QUESTION, 1), 0.2),
        (distractor(QUESTION, 2), 0.1),
    ]:
        assert_frequency(seen.pop(f"{{{answer}}}."), trials, expected)
    assert not seen


@pytest.mark.parametrize(
    ("p", "distractors", "n", "expected"),
    [(0.6, (1,), 5, 0.68256), (0.4, (1, 1), 5, 0.44704)],
)
def test_a_vote_is_right_as_often_as_theory_says(
    p: float, distractors: tuple[float, ...], n: int, expected: float
) -> None:
    """The probability of a plurality of n, ties to the first seen."""
    behaviour = Behaviour(probability=p, distractors=distractors)
    trials = 1500
    hits = 0
    for trial in range(trials):
        answers = [text_of(behaviour, number=trial * n + i)[-20:] for i in range(n)]
        hits += Counter(answers).most_common(1)[0][0].endswith("{396}.")
    assert_frequency(hits, trials, expected)


@pytest.mark.parametrize(
    ("p", "n", "d", "expected"),
    [(0.5, 3, 1.0, 0.69519), (0.3, 3, 0.0, 0.3), (0.6, 5, 0.5, 0.73141)],
)
def test_best_of_n_by_a_noisy_judge_is_right_as_often_as_theory_says(
    p: float, n: int, d: float, expected: float
) -> None:
    """P = n ∫ p φ(x−d) [p Φ(x−d) + (1−p) Φ(x)]^(n−1) dx, by the selector and by single scores."""
    behaviour = Behaviour(judge_separation=d)
    random = Random(5)
    trials = 1500
    selected = rated = 0
    for trial in range(trials):
        right = [random.random() < p for _ in range(n)]
        boxes = [RIGHT if ok else WRONG for ok in right]
        prompt = f"{QUESTION}\n{quoted(*boxes)}Best candidate: [number]"
        choice = text_of(behaviour, prompt, trial).split("Best candidate: ")[1]
        selected += right[int(choice) - 1]
        scores = [
            score(behaviour, f"{QUESTION}\n{quoted(box)}Score: [0-10]", trial * n + i)
            for i, box in enumerate(boxes)
        ]
        rated += right[scores.index(max(scores))]
    assert_frequency(selected, trials, expected)
    assert_frequency(rated, trials, expected)


def score(behaviour: Behaviour, prompt: str, number: int = 0, **body: Any) -> float:
    return float(text_of(behaviour, prompt, number, **body).rpartition("Score: ")[2])


def test_a_verifier_is_right_as_often_as_its_separation_says() -> None:
    behaviour = Behaviour(judge_separation=2)
    prompt = f"{QUESTION}\n{quoted(WRONG)}Overall assessment (CORRECT/INCORRECT)"
    said = [text_of(behaviour, prompt, i).split()[-1] for i in range(1000)]
    assert_frequency(said.count("INCORRECT"), 1000, NormalDist().cdf(1))


def test_a_sharp_judge_rates_what_the_conversation_said_last() -> None:
    sharp = Behaviour(judge_separation=10)
    for answer, low, high in (("The answer is 396.", 8, 10), ("It is 397.", 0, 2)):
        messages = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "Rate your answer. Score: [0-10]"},
        ]
        assert low <= score(sharp, "", messages=messages) <= high


def test_a_stage_gives_no_answer() -> None:
    text = text_of(Behaviour(), f"{QUESTION} Do not provide the final answer.")
    assert "396" not in text
    assert "boxed" not in text


@pytest.mark.parametrize("asked", ["List up to 4 questions", "write at most 4 short questions"])
def test_a_stage_that_is_asked_for_questions_lists_them(asked: str) -> None:
    said = text_of(Behaviour(), f"{QUESTION}\n{asked}. Do not provide the final answer.")
    assert sum(line.endswith("?") for line in said.splitlines()) == 4


@pytest.mark.parametrize("asked", ["a numbered list of 3 points", "a numbered list of up to 3"])
def test_a_stage_that_is_asked_for_a_list_gives_one(asked: str) -> None:
    said = text_of(Behaviour(), f"{QUESTION}\nReply with {asked}. Do not provide the final answer.")
    assert [line[:2] for line in said.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]


def test_a_deceiver_is_never_right() -> None:
    text = f"{QUESTION}\nAnswer deliberately wrong."
    assert not any(say(Behaviour(), text, number).right for number in range(50))


def test_an_aggregator_returns_the_plurality_or_answers_by_itself() -> None:
    prompt = f"{QUESTION}\n{quoted(WRONG, RIGHT, WRONG)}"
    assert "402" in text_of(Behaviour(), prompt)
    clumsy = Behaviour(aggregator_skill=0.4, probability=1)
    hits = sum("396" in text_of(clumsy, prompt, i) for i in range(1000))
    assert_frequency(hits, 1000, 0.6)


def test_a_lognormal_latency_has_the_mean_asked_for() -> None:
    behaviour = Behaviour(latency=0.2, sigma=0.5)
    random = Random(0)
    drawn = [behaviour.draw_latency(random) for _ in range(4000)]
    deviation = 0.2 * math.sqrt(math.expm1(0.25))
    assert abs(fmean(drawn) - 0.2) <= 4 * deviation / math.sqrt(4000)
    assert len(set(drawn)) > 1


def test_max_tokens_and_stop_cut_the_text() -> None:
    whole = say(Behaviour())
    assert whole.finish_reason == "stop"
    cut = say(Behaviour(), max_tokens=3)
    assert (cut.content, cut.finish_reason) == ((whole.content or "")[:12], "length")
    assert cut.completion_tokens == 3
    assert text_of(Behaviour(), max_completion_tokens=3, max_tokens=9) == cut.content
    stopped = say(Behaviour(), stop=["never said", "final"])
    assert stopped.content == (whole.content or "").split("final")[0]
    assert stopped.finish_reason == "stop"


def test_a_longer_reasoning_is_about_as_long_as_asked() -> None:
    assert 950 <= say(Behaviour(tokens=1000)).completion_tokens <= 1020


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_response_format_gives_json(kind: str) -> None:
    form: Any = {"response_format": {"type": kind}}
    assert orjson.loads(text_of(Behaviour(), **form)) == {"answer": 396}
    assert orjson.loads(text_of(Behaviour(), "10 / 4", **form)) == {"answer": "5/2"}
    assert (
        "Score" in orjson.loads(text_of(Behaviour(), f"{QUESTION} Score: [0-10]", **form))["text"]
    )


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "count": {"type": "integer"},
                },
            },
        },
    }
    for name in ("search", "calculate")
]


def test_a_tool_is_called_once_and_its_result_quoted() -> None:
    reply = say(Behaviour(), tools=TOOLS)
    assert reply.finish_reason == "tool_calls"
    assert reply.content is None
    assert reply.tool_call is not None
    assert reply.tool_call.name == "search"
    assert orjson.loads(reply.tool_call.arguments) == {
        "text": "17 * 23 + 5",
        "unit": "c",
        "count": 1,
    }
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "x", "content": "sunny"},
    ]
    final = say(Behaviour(), tools=TOOLS, messages=messages)
    assert final.finish_reason == "stop"
    assert "sunny" in (final.content or "")
    messages.append({"role": "user", "content": f"{quoted('391')}\nWrite the best answer."})
    assert "sunny" in (say(Behaviour(), tools=TOOLS, messages=messages).content or "")
    messages[-1] = {"role": "user", "content": QUESTION}
    assert say(Behaviour(), tools=TOOLS, messages=messages).finish_reason == "tool_calls"


def test_tool_choice_is_honoured() -> None:
    chosen = {"type": "function", "function": {"name": "calculate"}}
    call = say(Behaviour(), tools=TOOLS, tool_choice=chosen).tool_call
    assert call is not None
    assert call.name == "calculate"
    assert say(Behaviour(), tools=TOOLS, tool_choice="none").tool_call is None


@pytest.mark.parametrize(
    "changes",
    [
        {"latency": -1},
        {"latency": math.inf},
        {"probability": 1.5},
        {"chunk_chars": 0},
        {"distractors": ()},
        {"distractors": (0, 0)},
        {"judge_separation": math.nan},
    ],
)
def test_an_impossible_behaviour_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Behaviour(**changes)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'{"messages": []}',
        b'{"model": "m"}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": ["hi"]}',
        b'{"model": "m", "messages": [{"role": "user"}], "n": 0}',
        b'{"model": "m", "messages": [{"role": "user"}], "top_logprobs": 9223372036854775808}',
    ],
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        read_ask(raw)
