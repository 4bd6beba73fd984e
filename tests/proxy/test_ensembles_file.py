"""The registry of ensembles: what it says, and every mistake in it at once with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy import registry
from proxy.ensembles import Ensemble, Member, Team
from proxy.ensembles_file import load, loads
from proxy.errors import ConfigError
from proxy.settings import Limits

FILE = Path("ensembles.jsonl")
NAME = "opt-code-balanced-l"
TWO = [{"model": "a"}, {"model": "b", "role": "judge"}]


def row(**changes: Any) -> str:
    """A line that is right, but for ``changes``; None leaves a key out."""
    said = {"ensemble": NAME, "approach": "moa", "members": TWO, **changes}
    return json.dumps({key: value for key, value in said.items() if value is not None})


def refusals(text: str, *, single: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loads(text, FILE, single=single)
    return str(refused.value).splitlines()


def refusal(text: str) -> str:
    (said,) = refusals(text)
    return said.removeprefix("ensembles.jsonl:1: ")


class TestARow:
    def test_with_all_that_it_may_say(self, tmp_path: Path) -> None:
        file = tmp_path / "ensembles.jsonl"
        members = [
            {"model": "a", "weight": 2, "params": {"temperature": 0.2}},
            {"model": "b", "role": "proposer"},
            {"model": "c", "role": "aggregator"},
        ]
        budget = {"max_seconds": 20, "max_calls": 9, "max_total_tokens": 1000}
        file.write_text(
            "# the ensembles of this house\n\n   # indented\r\n"
            + row(
                members=members,
                approach="re2&moa|bon",
                min_successful=2,
                params={"top_p": 0.9},
                budget=budget,
                purpose="Code.",
                notes="none",
            )
            + "\r\n"
        )
        assert load(file) == {
            NAME: Ensemble(
                name=NAME,
                approach="re2&moa|bon",
                team=Team(
                    (
                        Member("a", "proposer", {"temperature": 0.2}, 2.0),
                        Member("b"),
                        Member("c", "aggregator"),
                    ),
                    min_successful=2,
                ),
                params={"top_p": 0.9},
                limits=Limits(max_calls=9, max_total_tokens=1000, max_seconds=20.0),
                purpose="Code.",
                notes="none",
            )
        }

    def test_with_the_least_it_must_say(self) -> None:
        found = loads(row(), FILE)[NAME]
        assert found == Ensemble(NAME, "moa", Team((Member("a"), Member("b", "judge"))))

    def test_with_text_that_only_python_takes_for_two_lines(self) -> None:
        text = row().replace('"moa"', '"moa", "notes": "one\u2028line"')
        assert loads(text, FILE)[NAME].notes == "one\u2028line"

    def test_of_one_model_only_where_that_is_allowed(self) -> None:
        one = row(members=[{"model": "a"}, {"model": "a", "role": "judge"}])
        assert "'a' is the only model" in refusal(one)
        assert "policy.single_model_handles: allow" in refusal(one)
        assert loads(one, FILE, single=True)[NAME].team.member("judge").model == "a"

    def test_may_name_an_approach_that_is_not_built_yet(self) -> None:
        assert loads(row(approach="mcts"), FILE)[NAME].approach == "mcts"


def test_a_file_without_rows_has_no_ensembles() -> None:
    assert loads("\n# nothing yet\n", FILE) == {}


class TestMistakes:
    @pytest.mark.parametrize("name", ["code-balanced-l", "opt-balanced-l", "opt-code-balanced-xxl"])
    @pytest.mark.parametrize("change", [str, str.upper, lambda name: name.replace("-", "_")])
    def test_a_name_that_says_no_intent_profile_and_tier(self, name: str, change: Any) -> None:
        assert refusal(row(ensemble=change(name))).startswith(
            "ensemble must be opt-<intent>-<profile>-<tier>"
        )

    @pytest.mark.parametrize(
        "name",
        ["opt-code-balanced-l", "opt-long-code-fast-xl", "opt-3d-high-s", "opt-a-balanced-m"],
    )
    def test_there_is_none_in_a_name_like_these(self, name: str) -> None:
        assert name in loads(row(ensemble=name), FILE)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"approach": None}, "approach is missing; add it"),
            (
                {"approach": "mao"},
                "approach names 'mao', which is no approach; did you mean 'moa'?",
            ),
            ({"approach": "moa&"}, "approach is no pipeline: a name is missing beside '&' or '|'"),
            ({"members": []}, "members must not be empty; add an entry"),
            ({"members": "a, b"}, "members must be a list, not text; write it in brackets"),
            ({"members": ["a", "b"]}, None),
            ({"aproach": "moa"}, "unknown key 'aproach'; did you mean 'approach'?"),
            ({"min_successful": 0}, "min_successful must be at least 1"),
            ({"min_successful": 2}, "min_successful must be at most the number of proposers, 1"),
            ({"budget": {"max_seconds": 0}}, "budget: max_seconds must be greater than 0"),
            ({"budget": {"max_calls": 1.5}}, None),
            ({"budget": {"max_tokens": 5}}, None),
            ({"params": {"model": "x"}}, None),
            ({"params": {"optillm_approach": "x"}}, None),
            (
                {"members": [{"model": "a", "role": "judge"}, {"model": "b", "role": "critic"}]},
                "members: none is a proposer; give one the role",
            ),
        ],
    )
    def test_are_named(self, changes: dict[str, Any], said: str | None) -> None:
        found = refusals(row(**changes))
        assert all(line.startswith("ensembles.jsonl:1: ") for line in found)
        if said is not None:
            assert found == [f"ensembles.jsonl:1: {said}"]

    @pytest.mark.parametrize(
        ("member", "said"),
        [
            ({}, "members[1]: model is missing; add it"),
            ({"model": ""}, None),
            ({"model": "b", "role": "juge"}, "did you mean 'judge'?"),
            ({"model": "b", "weight": 0}, "members[1]: weight must be greater than 0"),
            ({"model": "b", "rol": "judge"}, "members[1]: unknown key 'rol'; did you mean 'role'?"),
            ({"model": "b", "params": {"messages": []}}, "members[1]: params must not set 'messag"),
        ],
    )
    def test_of_a_member_say_which(self, member: dict[str, Any], said: str | None) -> None:
        assert (said or "members[1]: ") in refusal(row(members=[{"model": "a"}, member]))

    @pytest.mark.parametrize(
        "line", ["{", "[]", "3", '{"a": NaN}', "[" * 5000, '{"a": ' + "9" * 5000 + "}", "\ufeff{}"]
    )
    def test_a_line_that_is_no_object(self, line: str) -> None:
        assert refusals(f"# c\n{line}")[0].startswith("ensembles.jsonl:2: ")

    def test_a_key_that_stands_twice(self) -> None:
        assert refusal('{"ensemble": "a", "ensemble": "b"}') == (
            "key 'ensemble' stands twice; remove one"
        )

    def test_a_name_that_stands_twice(self) -> None:
        assert refusals(f"{row()}\n\n{row()}") == [
            f"ensembles.jsonl:3: the ensemble in line 1 has the name {NAME} too; rename one"
        ]

    def test_a_member_that_is_an_ensemble(self) -> None:
        nested = row(ensemble="opt-other-fast-s", members=[{"model": NAME}, {"model": "a"}])
        assert refusals(f"{row()}\n{nested}") == [
            f"ensembles.jsonl:2: members: '{NAME}' is an ensemble itself; name the models it has"
        ]

    def test_are_told_all_at_once_in_the_order_of_the_file(self) -> None:
        found = refusals(f"{row(approach='x', purpos='')}\n{row(min_successful=3)}\n{{\n{row()}")
        assert [line.split(":")[1] for line in found] == ["1", "1", "2", "3", "4"]

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        file = tmp_path / "ensembles.jsonl"
        with pytest.raises(ConfigError, match="does not exist"):
            load(file)
        with pytest.raises(ConfigError, match="cannot read"):
            load(tmp_path)
        file.write_bytes(b"# c\n\xff")
        with pytest.raises(ConfigError, match="jsonl:2: not UTF-8"):
            load(file)


def test_the_names_that_are_known_without_importing_are_those_that_are_discovered() -> None:
    assert registry.slugs() == set(registry.discover().slugs)
