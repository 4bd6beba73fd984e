"""What the classifier reads of a conversation: the question before all, and never padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import write_tokenizer

from proxy.chat import Chat
from proxy.router.config import Unusable
from proxy.router.tokenise import Question, Tokeniser, question

FIRST, LAST = 256, 257


def chat(*turns: tuple[str, Any]) -> Chat:
    return Chat(tuple({"role": role, "content": content} for role, content in turns))


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory: pytest.TempPathFactory) -> Tokeniser:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(file)
    return Tokeniser(file)


@pytest.fixture(scope="module")
def said(tokeniser: Tokeniser) -> Any:
    """What ``most`` tokens say of a question, a byte each; [ and ] stand around it."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())

    def said(asked: Question, most: int) -> str:
        ids = tokeniser.encode(asked, most)
        assert (ids[0], ids[-1]) == (FIRST, LAST)
        assert len(ids) <= most
        # GPT-2 writes a space and a line's end as these.
        text = "".join(alphabet[at] for at in ids[1:-1])
        return text.replace("Ġ", " ").replace("Ċ", "\n")

    return said


@pytest.mark.router
def test_a_question_alone_is_read_as_it_is(said: Any) -> None:
    assert said(Question("What is 2 + 2?"), 512) == "What is 2 + 2?"


@pytest.mark.router
def test_all_that_fits_is_read_in_its_order(said: Any) -> None:
    asked = question(
        chat(
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello"),
            ("user", "Why?"),
        )
    )
    text = "Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Why?"
    assert said(asked, 512) == text


@pytest.mark.router
def test_a_long_system_prompt_loses_its_end_and_never_the_question(said: Any) -> None:
    assert said(Question("Why?", system="0123456789" * 100), 24) == "0123456789\n\nUser: Why?"


@pytest.mark.router
def test_recent_turns_come_before_the_system_prompt(said: Any) -> None:
    asked = Question("Why?", history="\n\nUser: Hi", system="Be brief.")
    assert said(asked, 24) == "\n\nUser: Hi\n\nUser: Why?"
    assert said(asked, 21) == "ser: Hi\n\nUser: Why?"


@pytest.mark.router
def test_of_a_question_that_is_too_long_both_ends_are_read(said: Any) -> None:
    assert said(Question("Prove this: " + "x" * 99 + " Answer in JSON.", system="S"), 22) == (
        "Prove this" + "r in JSON."
    )


@pytest.mark.router
def test_a_token_may_reach_over_a_seam(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    file = tmp_path / "tokenizer.json"
    write_tokenizer(file)
    # As GPT-2 and its kin have them: a word and the space before it are one token.
    merged = {"ĠW": 259, ".Ċ": 260}
    said = json.loads(file.read_text())
    said["model"]["vocab"] |= merged
    said["model"]["merges"] = [list(token) for token in merged]
    # Otherwise words are parted from what ends a line before they are looked at.
    said["pre_tokenizer"]["use_regex"] = False
    file.write_text(json.dumps(said))
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = Tokeniser(file).encode(Question("Why?", system="Be brief."), 64)
    assert ids == tokenizer.encode("Be brief.\n\nUser: Why?").ids
    assert set(merged.values()) <= set(ids)
    # Neither token is lost where the system prompt is cut before it.
    assert Tokeniser(file).encode(Question("Why?", system="Be brief."), 14)[-12:] == ids[-12:]


@pytest.mark.router
@pytest.mark.parametrize("text", ["\0", "🜲 🧑‍🚀 👍🏽", "a\0b", "שלום", "x" * 1_000_000])
def test_any_text_becomes_tokens_that_fit(tokeniser: Tokeniser, text: str) -> None:
    asked = question(chat(("system", text), ("user", text)))
    assert asked is not None
    ids = tokeniser.encode(asked, 64)
    assert 2 < len(ids) <= 64
    assert 258 not in ids


@pytest.mark.router
@pytest.mark.parametrize("text", ["", "{}", "{", "no JSON"])
def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    with pytest.raises(Unusable, match=r"tokenizer\.json"):
        Tokeniser(file)


@pytest.mark.router
def test_a_tokenizer_without_special_tokens_is_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    file = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE({"a": 0}, [])).save(str(file))
    with pytest.raises(Unusable, match=r"\[CLS\] and \[SEP\]"):
        Tokeniser(file)


@pytest.mark.parametrize(
    "content", ["", "  \n\t ", None, [{"type": "image_url", "image_url": {"url": "data:,"}}]]
)
def test_a_turn_without_words_asks_nothing(content: Any) -> None:
    assert question(chat(("system", "Be brief."), ("user", content))) is None


def test_a_megabyte_is_cut_before_it_is_sent() -> None:
    long = "a" * 1_000_000
    asked = question(
        chat(
            ("system", long), ("user", long), ("assistant", "recent"), ("user", f"first{long}last")
        )
    )
    assert asked is not None
    assert max(len(asked.query), len(asked.history), len(asked.system)) < 10_000
    assert asked.query.startswith("first")
    assert asked.query.endswith("last")
    assert asked.history.endswith("recent")


def test_half_a_surrogate_pair_is_no_obstacle() -> None:
    asked = question(chat(("user", "a\ud800b")))
    assert asked == Question("a?b")


def test_tools_and_earlier_instructions_are_no_turns() -> None:
    asked = question(
        chat(
            ("user", "Look"), ("tool", "secret of a tool"), ("assistant", ""), ("user", "And now?")
        )
    )
    assert asked == Question("And now?", history="\n\nUser: Look")
