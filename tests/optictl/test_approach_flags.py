"""OptiLLM's flags for options of approaches: each reaches the requests that do not set it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProxy

import proxy.server
from optictl import cli
from optictl.approach_flags import FLAGS, Flag
from optictl.simulator import SimulatorThread
from proxy.registry import discover
from proxy.settings import Settings

UPSTREAM = ("--base-url", "http://127.0.0.1:9/v1")
#: OptiLLM's packaged cepo_config.yaml, with its spelling of nothing.
PEERS_FILE = """\
bestofn_n: 2
bestofn_temperature: 0.3
bestofn_max_tokens: 4000
bestofn_rating_type: "pairwise"  # or "absolute"
planning_n: 2
planning_m: 6
planning_temperature_step4: 0
planning_max_tokens_direct_resp: 4096.0
use_plan_diversity: False
rating_model: None
print_output: False
"""
#: A value for each option of CePO that is no number.
WORDS = {"bestofn_rating_type": "majority", "rating_model": "judge-model"}
BUILT = [flag for flag in FLAGS if flag.slug in discover()]

Start = Callable[..., Mapping[str, Any]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the service as far as its settings; the options it would have, read twice."""

    def start(*arguments: str) -> Mapping[str, Any]:
        kept: list[Settings] = []

        def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
            kept.extend([settings, reload()])
            return 0

        monkeypatch.setattr(proxy.server, "serve", serve)
        monkeypatch.setattr(sys, "argv", ["optillm", *UPSTREAM, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.optillm()
        assert ended.value.code == 0
        assert kept[0].options == kept[1].options
        return kept[0].options

    return start


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["optillm", *UPSTREAM, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.optillm()
    assert ended.value.code == 2
    said: str = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def value_for(flag: Flag) -> tuple[str, Any]:
    """A value that is not the default, as text and as the option takes it."""
    if flag.type is bool:
        return "True", True
    if flag.type is str:
        return WORDS[flag.option], WORDS[flag.option]
    number = flag.type(discover()[flag.slug].options[flag.option].default) + flag.type(1)
    return str(number), number


def test_every_option_of_cepo_has_its_flag() -> None:
    assert {flag.option for flag in FLAGS if flag.slug == "cepo"} == set(discover()["cepo"].options)


@pytest.mark.parametrize("flag", BUILT, ids=lambda flag: str(flag.name))
def test_a_flag_sets_its_option_in_both_spellings(start: Start, flag: Flag) -> None:
    text, value = value_for(flag)
    for name in (f"--{flag.name}", f"--{flag.name.replace('_', '-')}"):
        assert start(name, text)[f"{flag.slug}.{flag.option}"] == value
    assert start(f"--{flag.name}={text}")[f"{flag.slug}.{flag.option}"] == value


@pytest.mark.parametrize(
    "flag", [flag for flag in BUILT if flag.variable], ids=lambda flag: str(flag.name)
)
def test_a_variable_does_too_and_an_empty_one_does_not(
    start: Start, monkeypatch: pytest.MonkeyPatch, flag: Flag
) -> None:
    text, value = value_for(flag)
    monkeypatch.setenv(str(flag.variable), text)
    assert start()[f"{flag.slug}.{flag.option}"] == value
    monkeypatch.setenv(str(flag.variable), "")
    assert f"{flag.slug}.{flag.option}" not in start()


def test_without_any_the_approaches_have_their_own_defaults(start: Start) -> None:
    assert start().keys() == {"bon.samples", "cot_reflection.full"}


class TestFile:
    def test_the_peers_is_honoured_and_flags_go_before_it(
        self, start: Start, tmp_path: Path
    ) -> None:
        file = tmp_path / "cepo.yaml"
        file.write_text(PEERS_FILE)
        found = start("--cepo_config_file", str(file), "--cepo-planning-n", "4")
        assert found["cepo.bestofn_rating_type"] == "pairwise"
        assert found["cepo.planning_max_tokens_direct_resp"] == 4096
        assert found["cepo.rating_model"] is None
        assert found["cepo.planning_n"] == 4
        assert found["cepo.bestofn_n"] == 2

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"no_such: 1", "no option 'no_such'"),
            (b"planning_n: many", "'planning_n'"),
            (b"bestofn_rating_type: best", "absolute | pairwise | majority"),
            (b"- 1", "must hold settings"),
            (b"", "must hold settings"),
            (b"a: [", "no YAML"),
            (b"\xff", "utf-8"),
        ],
    )
    def test_one_that_cannot_be_used_is_refused_by_name(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        content: bytes,
        said: str,
    ) -> None:
        file = tmp_path / "cepo.yaml"
        file.write_bytes(content)
        refused = refusal(monkeypatch, capsys, "--cepo-config-file", str(file))
        assert refused.startswith(f"optillm: --cepo-config-file {file}: ")
        assert said in refused

    def test_one_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused = refusal(monkeypatch, capsys, "--cepo-config-file", "/no/such")
        assert refused == "optillm: --cepo-config-file /no/such: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cepo-planning-n", "0"),
        ("--cepo-planning-n", "x"),
        ("--cepo-bestofn-rating-type", "best"),
        ("--cepo-print-output", "maybe"),
        ("--cepo-planning-temperature-step1", "9"),
    ],
)
def test_what_an_approach_does_not_take_is_refused_by_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert arguments[0] in refusal(monkeypatch, capsys, *arguments)


def test_a_request_goes_before_the_server(
    make_proxy: MakeProxy, sim: SimulatorThread, start: Start
) -> None:
    options = start("--cepo-bestofn-n", "1", "--cepo-planning-n", "1")
    proxy = make_proxy(options=options)
    assert proxy.ask("cepo-sim").json["optillm"]["calls"] == 4
    asked = proxy.ask("cepo-sim", optillm_options={"planning_n": 2})
    assert asked.json["optillm"]["calls"] == 6
    assert proxy.ask("cepo-sim", cepo_planning_n=2).json["optillm"]["calls"] == 6
