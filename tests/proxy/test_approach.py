"""An approach says what it is by its decorator and its signature."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from proxy.approach import Entry, Option, Range, Shape, approach, entry_of, transform
from proxy.chat import Chat, Reply
from proxy.errors import BadRequest
from proxy.llm import LLM
from proxy.registry import checked_options


@approach(
    "example",
    paper="arXiv:0000.00000",
    shape=lambda o: Shape(calls=o.samples + 1, rounds=2),
    aliases={"best_of_n": "samples", "example_depth": "depth"},
    use="In tests.",
)
async def example(
    chat: Chat,
    llm: LLM,
    *,
    samples: Annotated[int, Range(1, 8), "candidates to draw"] = 3,
    warmth: Annotated[float, Range(0, 2)] = 0.5,
    depth: int = 1,
    mode: Literal["fast", "good"] = "fast",
    strict: bool = False,
    name: str = "x",
    limit: Annotated[int | None, Range(1, 9)] = None,
) -> Reply:
    """Do nothing, and say so.

    More words that are no summary.
    """
    return Reply.of("nothing")


@pytest.fixture
def entry() -> Entry:
    found = entry_of(example)
    assert found is not None
    return found


def refusal(entry: Entry, name: str, value: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        checked_options(entry, {name: value})
    return caught.value


class TestTheEntry:
    def test_has_what_the_decorator_says(self, entry: Entry) -> None:
        assert entry.slug == "example"
        assert entry.mark.kind == "approach"
        assert entry.mark.paper == "arXiv:0000.00000"
        assert entry.mark.use == "In tests."
        assert entry.mark.handles == {"parts", "formats"}
        assert entry.function is example

    def test_has_the_docstring_s_first_line(self, entry: Entry) -> None:
        assert entry.summary == "Do nothing, and say so."

    def test_has_the_keyword_only_parameters_as_options(self, entry: Entry) -> None:
        names = ["samples", "warmth", "depth", "mode", "strict", "name", "limit"]
        assert list(entry.options) == names
        assert entry.options["samples"] == Option(
            "samples", int, 3, Range(1, 8), help="candidates to draw"
        )
        assert entry.options["mode"] == Option("mode", str, "fast", values=("fast", "good"))
        assert entry.options["limit"] == Option("limit", int, None, Range(1, 9), nullable=True)
        assert entry.defaults["warmth"] == 0.5

    def test_the_shape_follows_the_options(self, entry: Entry) -> None:
        assert entry.shape({}) == Shape(calls=4, rounds=2)
        assert entry.shape({"samples": 7}).most_calls == 8

    def test_a_function_without_a_mark_is_none(self) -> None:
        assert entry_of(len) is None
        assert entry_of(refusal) is None

    def test_marking_leaves_the_function_as_it_is(self) -> None:
        assert example.__name__ == "example"
        assert callable(example)

    def test_a_transform_handles_everything_unless_it_says_otherwise(self) -> None:
        @transform("t")
        async def wrap(chat: Chat, llm: LLM) -> tuple[Chat, None]:
            return chat, None

        found = entry_of(wrap)
        assert found is not None
        assert found.mark.kind == "transform"
        assert found.mark.handles == {"tools", "parts", "formats"}
        assert found.shape({}) == Shape(calls=0, rounds=0)
        assert found.options == {}

    def test_an_option_that_cannot_be_checked_is_a_mistake_of_the_author(self) -> None:
        @approach("odd", shape=lambda _: Shape(1, 1))
        async def listed(chat: Chat, llm: LLM, *, models: list[str] = []) -> Reply:  # noqa: B006
            return Reply.of("")

        @approach("odd", shape=lambda _: Shape(1, 1))
        async def required(chat: Chat, llm: LLM, *, samples: int) -> Reply:
            return Reply.of("")

        for function in (listed, required):
            with pytest.raises(TypeError, match="needs a plain type and a default"):
                entry_of(function)


class TestCheckingOptions:
    @pytest.mark.parametrize(
        ("name", "value", "accepted"),
        [
            ("samples", 1, 1),
            ("samples", 8, 8),
            ("samples", 3.0, 3),
            ("warmth", 0, 0.0),
            ("warmth", 1.25, 1.25),
            ("depth", -5, -5),
            ("mode", "good", "good"),
            ("strict", True, True),
            ("strict", False, False),
            ("name", "", ""),
            ("limit", None, None),
            ("limit", 9, 9),
        ],
    )
    def test_what_fits_is_accepted(
        self, entry: Entry, name: str, value: object, accepted: object
    ) -> None:
        found = checked_options(entry, {name: value})[name]
        assert found == accepted
        assert type(found) is type(accepted)

    @pytest.mark.parametrize(
        ("name", "value", "range_"),
        [
            ("samples", 0, "whole number from 1 to 8"),
            ("samples", 9, "whole number from 1 to 8"),
            ("samples", 2.5, "whole number from 1 to 8"),
            ("samples", "3", "whole number from 1 to 8"),
            ("samples", True, "whole number from 1 to 8"),
            ("samples", None, "whole number from 1 to 8"),
            ("samples", [3], "whole number from 1 to 8"),
            ("warmth", 2.1, "number from 0 to 2"),
            ("warmth", -0.1, "number from 0 to 2"),
            ("warmth", False, "number from 0 to 2"),
            ("warmth", "1", "number from 0 to 2"),
            ("depth", 1e400, "whole number"),
            ("mode", "best", "fast | good"),
            ("mode", None, "fast | good"),
            ("mode", ["fast"], "fast | good"),
            ("strict", 1, "true or false"),
            ("strict", "true", "true or false"),
            ("strict", None, "true or false"),
            ("name", 7, "text"),
            ("limit", 0, "whole number from 1 to 9"),
            ("limit", "", "whole number from 1 to 9"),
        ],
    )
    def test_what_does_not_names_slug_option_and_range(
        self, entry: Entry, name: str, value: object, range_: str
    ) -> None:
        error = refusal(entry, name, value)
        assert error.code == "invalid_option"
        assert error.param == f"optillm_options.{name}"
        for said in (f"'{name}'", "'example'", range_, repr(value)):
            assert said in error.message

    def test_an_unknown_option_is_told_what_there_is(self, entry: Entry) -> None:
        error = refusal(entry, "sample", 3)
        assert error.code == "unknown_option"
        assert error.param == "optillm_options.sample"
        for said in ("'sample'", "'example'", "samples", "warmth", "limit"):
            assert said in error.message

    def test_a_peer_s_name_means_ours(self, entry: Entry) -> None:
        values = checked_options(entry, {"best_of_n": 5, "example_depth": 2})
        assert values == {"samples": 5, "depth": 2}
        assert "'samples'" in refusal(entry, "best_of_n", 99).message

    def test_a_long_value_is_not_repeated_whole(self, entry: Entry) -> None:
        assert len(refusal(entry, "samples", "x" * 10_000).message) < 300

    def test_options_that_are_not_given_are_not_invented(self, entry: Entry) -> None:
        assert checked_options(entry, {}) == {}


class TestShapes:
    def test_a_single_number_is_least_and_most(self) -> None:
        shape = Shape(calls=3, rounds=(1, 2))
        assert (shape.least_calls, shape.most_calls) == (3, 3)
        assert (shape.least_rounds, shape.most_rounds) == (1, 2)

    def test_one_after_the_other_adds_both(self) -> None:
        assert Shape(3, 1) + Shape((2, 4), (1, 2)) == Shape((5, 7), (2, 3))

    def test_side_by_side_adds_calls_and_takes_the_longer(self) -> None:
        assert Shape(3, 1) | Shape((2, 4), (1, 2)) == Shape((5, 7), (1, 2))
