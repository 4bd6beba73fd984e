"""What LiteLLM is told of our handles."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optictl.errors import OptictlError
from optictl.litellm_entries import Surroundings, entries, env_lines, variable, variables
from optictl.unit_file import environment_file
from proxy.ensembles import Ensemble, Member, Team, aliases_of, handle_key
from proxy.errors import ConfigError
from proxy.settings import Limits

NEW, OLD = (1, 106, 2), (1, 74, 3)
URL = "http://127.0.0.1:4020/v1"
BOUNDED = Limits(max_seconds=20)


def ensemble(name: str = "opt-code-balanced-l", limits: Limits = BOUNDED) -> Ensemble:
    return Ensemble(name, "moa", Team((Member("mlx-a"), Member("mlx-b", "judge"))), limits=limits)


def entry(of: Ensemble | None = None, **around: Any) -> dict[str, Any]:
    given = Surroundings(**{"request_timeout": 600, "version": NEW, **around})
    [found] = yaml.safe_load("\n".join(entries([of or ensemble()], given)))
    assert isinstance(found, dict)
    return found


def test_an_entry_is_what_litellm_has_to_know() -> None:
    assert entry() == {
        "model_name": "opt-code-balanced-l",
        "litellm_params": {
            "model": "os.environ/OPTILLM_OPT_CODE_BALANCED_L_MODEL",
            "api_base": "os.environ/OPTILLM_OPT_CODE_BALANCED_L_API_BASE",
            "api_key": "os.environ/OPTILLM_OPT_CODE_BALANCED_L_API_KEY",
            "num_retries": 0,
            "cooldown_time": 0,
            "timeout": 50,
            "stream_timeout": 120,
            "keepalive_seconds": 15,
            "max_parallel_requests": 8,
        },
        "model_info": {
            "id": "optictl-opt-code-balanced-l",
            "mode": "chat",
            "health_check_model": "openai/optictl-health",
            "health_check_max_tokens": 1,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
        },
    }


@pytest.mark.parametrize("version", [OLD, (1, 106, 1), None])
def test_what_a_litellm_does_not_know_it_is_not_told(version: tuple[int, ...] | None) -> None:
    older = entry(version=version)["litellm_params"]
    assert entry()["litellm_params"] == {**older, "keepalive_seconds": 15}
    assert "keepalive_seconds" not in older


@pytest.mark.parametrize(
    ("deadline", "longest", "least"),
    [(20, 600, 20), (None, 600, 600), (900, 600, 600), (0.5, 9, 1)],
)
def test_litellm_is_more_patient_than_the_proxy_is_slow(
    deadline: float | None, longest: float, least: float
) -> None:
    found = entry(ensemble(limits=Limits(max_seconds=deadline)), request_timeout=longest)
    assert least < found["litellm_params"]["timeout"] <= least + 60


def test_the_context_is_the_least_of_the_members() -> None:
    listed = [
        {"model_name": "mlx-a", "model_info": {"max_input_tokens": 9000, "max_output_tokens": 70}},
        {"model_name": "mlx-b", "model_info": {"max_input_tokens": 8000}},
        {"model_name": "mlx-b", "model_info": {"max_input_tokens": 8500}},
        {"model_name": "other", "model_info": {"max_input_tokens": 5, "max_output_tokens": 5}},
        {"model_name": "mlx-a", "model_info": {"max_input_tokens": "7"}},
        {"model_name": "mlx-a", "model_info": {"max_input_tokens": True}},
        {"model_name": "mlx-a"},
        "no entry",
    ]
    info = entry(listed=listed)["model_info"]
    assert (info["max_input_tokens"], info["max_output_tokens"]) == (8000, 70)


def test_entries_keep_their_order_and_none_are_none() -> None:
    around = Surroundings(600)
    names = ["opt-b-fast-s", "opt-a-fast-s"]
    found = yaml.safe_load("\n".join(entries(map(ensemble, names), around)))
    assert [each["model_name"] for each in found] == names
    assert entries([], around) == []


@pytest.mark.parametrize(
    ("handle", "name"),
    [
        ("opt-code-balanced-l", "OPTILLM_OPT_CODE_BALANCED_L"),
        ("moa-org/qwen2.5:7b", "OPTILLM_MOA_ORG_QWEN2_5_7B"),
    ],
)
def test_a_handles_variables_are_its_name_in_upper_snake_case(handle: str, name: str) -> None:
    assert variable(handle) == name
    read = environment_file("\n".join(env_lines({handle: "x"}, URL, "k")).encode())
    # The proxy finds the same handle in the same name.
    assert list(aliases_of(read)) == [handle_key(handle)]


def test_two_handles_of_one_variable_are_refused_by_name() -> None:
    said = "'opt-a-b' and 'opt-a_b' would both be OPTILLM_OPT_A_B_MODEL"
    with pytest.raises(ConfigError, match=said):
        env_lines({"opt-a-b": "x", "opt-a_b": "y"}, URL, "k")
    with pytest.raises(ConfigError, match=said):
        entries([ensemble("opt-a-b"), ensemble("opt-a_b")], Surroundings(600))
    assert variables(["opt-a", "opt-a"]) == {"opt-a": "OPTILLM_OPT_A"}


def test_the_assignments_of_a_handle() -> None:
    assert env_lines({"opt-a-fast-s": "moa-a"}, URL, "k") == [
        "OPTILLM_OPT_A_FAST_S_MODEL=openai/moa-a",
        f"OPTILLM_OPT_A_FAST_S_API_BASE={URL}",
        "OPTILLM_OPT_A_FAST_S_API_KEY=k",
    ]


#: Where systemd and a shell have their corners.
CORNERS = st.text(st.sampled_from("\\\"'$`#;{} \t=-@:!ax0é&|(~*"), max_size=8)


@given(CORNERS)
def test_any_value_is_read_by_systemd_as_it_is(value: str) -> None:
    read = environment_file("\n".join(env_lines({"opt-a": value}, URL, value)).encode())
    assert read["OPTILLM_OPT_A_MODEL"] == f"openai/{value}"
    assert read["OPTILLM_OPT_A_API_KEY"] == value


def test_and_by_a_shell(tmp_path: Path) -> None:
    value = "re2&bon|moa-a $HOME `id` \\ \" ' # !"
    file = tmp_path / "env"
    file.write_text("\n".join(env_lines({"opt-a": value}, URL, value)))
    shown = subprocess.run(
        [
            "sh",
            "-ac",
            f'. "{file}"; printf "%s\\n%s" "$OPTILLM_OPT_A_MODEL" "$OPTILLM_OPT_A_API_KEY"',
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert shown.stdout == f"openai/{value}\n{value}"


def test_a_key_that_cannot_stand_there_is_not_shown() -> None:
    with pytest.raises(OptictlError, match="OPTILLM_OPT_A_API_KEY: the value holds") as error:
        env_lines({"opt-a": "x"}, URL, "sk-secret\nX=1")
    assert "sk-secret" not in str(error.value)
