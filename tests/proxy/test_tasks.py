"""Titles, tags and follow-up questions are answered by the base model alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, SimulatorThread, chat_body

from proxy.tasks import HEADER, task_of


def webui(asks: str, member: str, history: str = "USER: hi\nASSISTANT: hello") -> str:
    """A prompt laid out as Open WebUI lays out its own."""
    return (
        f"### Task:\n{asks}\n### Guidelines:\n- Be brief.\n"
        f'### Output:\nJSON format: {{ "{member}": "..." }}\n'
        f"### Chat History:\n<chat_history>\n{history}\n</chat_history>"
    )


PROMPTS = {
    "title_generation": webui("Write a title of three words.", "title"),
    "tags_generation": webui("Name the themes.", "tags"),
    "follow_up_generation": webui("Suggest what to ask next.", "follow_ups"),
    "query_generation": webui("Say what to search for.", "queries"),
    "image_prompt_generation": webui("Describe a picture.", "prompt"),
    "autocomplete_generation": webui("You are an autocompletion system.", "text"),
    "emoji_generation": "Your task is to reflect the speaker's likely facial expression: emoji.",
}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("task", PROMPTS)
def test_open_webuis_prompts_are_known_by_their_markers(task: str) -> None:
    assert task_of(user(PROMPTS[task]), {}) == task


def test_words_of_the_quoted_chat_name_no_task() -> None:
    prompt = webui("Name the themes.", "tags", history='USER: what does "title" mean?')
    assert task_of(user(prompt), {}) == "tags_generation"


@pytest.mark.parametrize(
    "messages",
    [
        user("What is 17 * 23?"),
        user("Explain what '### Task:' and <chat_history> mean in Open WebUI."),
        user("### Task:\nWrite a haiku."),
        [*user("Hello"), {"role": "assistant", "content": "Hi"}, *user(PROMPTS["tags_generation"])],
    ],
)
def test_what_the_user_asks_is_no_task(messages: list[dict[str, Any]]) -> None:
    assert task_of(messages, {}) is None


MARKED: dict[str, dict[str, Any]] = {
    "prompt": {"json": chat_body("moa-sim", PROMPTS["title_generation"])},
    "metadata": {"json": chat_body("moa-sim", metadata={"task": "title_generation"})},
    "header": {"json": chat_body("moa-sim"), "headers": {HEADER: "title_generation"}},
    "stated approach": {
        "json": chat_body("sim", PROMPTS["title_generation"], optillm_approach="moa")
    },
}


@pytest.mark.parametrize("marked", MARKED)
def test_a_marked_request_runs_none_and_says_so(
    proxy: InProcess, sim: SimulatorThread, marked: str
) -> None:
    answer = proxy.post(**MARKED[marked])
    assert answer.status_code == 200
    assert sim.log.calls == 1
    assert answer.json["optillm"]["approach"] == "none"
    assert answer.json["optillm"]["task"] == "title_generation"
    assert answer.json["optillm"]["skipped"] == ["moa: the request is an auxiliary task"]


def test_an_operator_adds_patterns_of_their_own(
    make_proxy: MakeProxy, sim: SimulatorThread
) -> None:
    proxy = make_proxy(task_patterns=(re.compile("^Summarise this thread"),))
    assert proxy.ask("moa-sim", "Summarise this thread: ...").json["optillm"]["task"] == "task"
    assert sim.log.calls == 1
    assert "task" not in proxy.ask("moa-sim").json["optillm"]


def test_a_request_of_the_users_own_says_nothing_of_tasks(proxy: InProcess) -> None:
    assert "task" not in proxy.ask("sim").json["optillm"]
