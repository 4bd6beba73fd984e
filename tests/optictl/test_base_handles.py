"""Base handles through the proxy: which they are, what is assigned, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from litellm_files import ROUTER, US, read

from optictl.routing import Route, base_handles, is_on, route, said_by_others
from optictl.site import Routing
from optictl.unit_file import environment_file
from proxy.errors import ConfigError
from proxy.settings import Secret

ENV = Path("/srv/litellm/env.local")
KEY = Secret("sk-of-the-proxy")
BACKEND = "http://192.168.1.72:8100/v1"
VARIABLES = {
    "B_MODEL": "openai/mlx-b",
    "B_API_BASE": BACKEND,
    "B_API_KEY": "sk-of-the-backend",
    "C_MODEL": "hosted_vllm/c",
    "C_API_BASE": "http://192.168.1.73:8000/v1",
    "C_API_KEY": "none",
}


def reading(name: str, more: str = "", info: str = "", stem: str = "") -> str:
    """An entry that reads three variables."""
    stem = stem or name.upper()
    return (
        f"- model_name: {name}\n  litellm_params:\n    model: os.environ/{stem}_MODEL\n"
        f"    api_base: os.environ/{stem}_API_BASE\n    api_key: os.environ/{stem}_API_KEY\n"
        f"{more}{info}"
    )


def routed(
    router: str,
    *names: str,
    variables: Mapping[str, str] = VARIABLES,
    key: Secret | None = KEY,
    **routing: Any,
) -> Route:
    return route(
        read(f"model_list:\n{router}", variables),
        names,
        routing=Routing(**routing),
        url=US,
        key=key,
        env_file=ENV,
    )


def assigned(made: Route) -> dict[str, str]:
    return environment_file("\n".join(made.assigned).encode())


def refusal(router: str, *names: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        routed(router, *names, **more)
    return str(refused.value).split("\n")


class TestBaseHandles:
    def named(self, router: str, *handles: str, others: tuple[str, ...] = ()) -> tuple[str, ...]:
        config = read(f"model_list:\n{router}", VARIABLES)
        routing = Routing(handles=handles)
        return base_handles(config, routing, lambda base: base == US, others)

    def test_every_chat_model_that_is_not_ours(self) -> None:
        router = (
            reading("c")
            + reading("b", info="  model_info: {mode: chat}\n")
            + reading("embed", stem="B", info="  model_info: {mode: embedding}\n")
            + "- {model_name: 'any-*', litellm_params: {model: 'openai/*'}}\n"
            + f"- {{model_name: opt-x, litellm_params: {{model: openai/x, api_base: '{US}'}}}}\n"
            + reading("router-b", stem="C")
            + reading("router-lone", stem="C")
            + reading("tool", stem="C")
        )
        assert self.named(router, others=("tool",)) == ("c", "b", "router-lone")

    def test_those_that_the_site_names_and_no_others(self) -> None:
        router = reading("b") + reading("c")
        assert self.named(router, "c") == ("c",)
        with pytest.raises(ConfigError, match=r"^routing.handles: bb is no base handle .* 'b'"):
            self.named(router, "bb")


class TestAssignments:
    def test_a_handle_asks_us_and_its_internal_entry_what_it_asked_before(self) -> None:
        made = routed(reading("b", more="    timeout: 60\n", info="  model_info: {id: x}\n"), "b")
        assert assigned(made) == {
            "OPTICTL_ROUTE": "on",
            "B_MODEL": "openai/router-b",
            "B_API_BASE": US,
            "B_API_KEY": "sk-of-the-proxy",
            "OPTICTL_ROUTER_B_MODEL": "openai/mlx-b",
            "OPTICTL_ROUTER_B_API_BASE": BACKEND,
            "OPTICTL_ROUTER_B_API_KEY": "sk-of-the-backend",
        }
        assert yaml.safe_load("\n".join(made.entries)) == [
            {
                "model_name": "router-b",
                "litellm_params": {
                    "model": "os.environ/OPTICTL_ROUTER_B_MODEL",
                    "api_base": "os.environ/OPTICTL_ROUTER_B_API_BASE",
                    "api_key": "os.environ/OPTICTL_ROUTER_B_API_KEY",
                    "timeout": 60,
                },
                "model_info": {"id": "router-x"},
            }
        ]
        assert made.model_map == {"b": "router-b"}
        assert is_on(
            "\n".join(("# BEGIN OPTICTL AUTO", *made.assigned, "# END OPTICTL AUTO", "")).encode(),
            ENV,
        )

    def test_an_internal_entry_that_is_there_is_used(self) -> None:
        made = routed(reading("b") + reading("router-b", stem="C"), "b", prefix="bon&moa-")
        assert made.entries == ()
        assert assigned(made)["B_MODEL"] == "openai/bon&moa-b"
        assert not any("ROUTER_B" in line for line in made.assigned)
        assert made.model_map == {"b": "router-b"}

    def test_several_entries_of_one_name_stay_several(self) -> None:
        made = routed(reading("b") + reading("b", stem="C"), "b")
        listed = yaml.safe_load("\n".join(made.entries))
        models = [each["litellm_params"]["model"].removeprefix("os.environ/") for each in listed]
        assert [each["model_name"] for each in listed] == ["router-b", "router-b"]
        assert [assigned(made)[name] for name in models] == ["openai/mlx-b", "hosted_vllm/c"]
        assert assigned(made)["C_MODEL"] == "openai/router-b"

    def test_the_other_name_of_the_address(self) -> None:
        router = reading("b").replace("api_base:", "base_url:")
        [entry] = yaml.safe_load("\n".join(routed(router, "b").entries))
        assert entry["litellm_params"]["base_url"] == "os.environ/OPTICTL_ROUTER_B_BASE_URL"

    def test_without_a_key_of_ours_no_key_of_theirs_reaches_us(self) -> None:
        assert assigned(routed(reading("b"), "b", key=None))["B_API_KEY"] == "none"
        # One that others need too stays what it is; so does one that is written out.
        shared = reading("b") + reading("c").replace("C_API_KEY", "B_API_KEY")
        assert "B_API_KEY" not in assigned(routed(shared, "b", key=None))
        literal = reading("b").replace("os.environ/B_API_KEY", "sk-x")
        assert set(assigned(routed(literal, "b", key=None))) >= {"B_MODEL", "B_API_BASE"}

    def test_handles_may_share_their_address_and_their_key(self) -> None:
        router = reading("b") + reading("c").replace("C_API", "B_API")
        values = assigned(routed(router, "b", "c"))
        assert (values["B_API_BASE"], values["C_MODEL"]) == (US, "openai/router-c")
        assert values["OPTICTL_ROUTER_C_API_BASE"] == BACKEND

    def test_nothing_shows_a_key(self) -> None:
        made = routed(reading("b"), "b")
        assert "sk-of" not in repr(made)


class TestRefusals:
    def test_values_that_are_written_out_each_with_its_line(self) -> None:
        router = (
            "- model_name: b\n  litellm_params:\n    model: openai/b\n    api_key: sk-secret\n"
            + reading("c")
        )
        said = refusal(router, "b", "c")
        assert [line.split(";")[0] for line in said] == [
            f"{ROUTER}:4: model of b is written out",
            f"{ROUTER}:4: api_base of b is missing",
            f"{ROUTER}:5: api_key of b is written out",
        ]
        assert f"'model: os.environ/B_MODEL' and set B_MODEL in {ENV}" in said[0]
        assert not any("sk-secret" in line for line in said)

    def test_a_provider_beside_the_model(self) -> None:
        said = refusal(reading("b", more="    custom_llm_provider: vllm\n"), "b")
        assert said == [
            f"{ROUTER}:7: b names its provider; write it in front of the model instead, "
            "as in openai/model"
        ]

    def test_a_variable_that_is_not_set(self) -> None:
        variables = {name: value for name, value in VARIABLES.items() if name != "B_API_BASE"}
        said = refusal(reading("b"), "b", variables=variables)
        assert said == [f"{ROUTER}:5: B_API_BASE is not set; set it in {ENV}"]

    @pytest.mark.parametrize("other", ["embed", "router-b"])
    @pytest.mark.parametrize("name", ["B_MODEL", "B_API_BASE", "B_API_KEY"])
    def test_a_variable_that_somebody_else_reads_too(self, other: str, name: str) -> None:
        router = reading("b") + reading(other, stem="C").replace(f"C{name[1:]}", name)
        [said] = refusal(router, "b")
        line = {"B_MODEL": 4, "B_API_BASE": 5, "B_API_KEY": 6}[name]
        assert said.startswith(f"{ROUTER}:{line}: {name} is read at {ROUTER}:{line + 5}")
        assert said.endswith("give b a variable of its own")

    def test_a_model_that_two_handles_read(self) -> None:
        said = refusal(reading("b") + reading("c", stem="B"), "b", "c")
        assert [line.partition(" is read at ")[0] for line in said] == [
            f"{ROUTER}:4: B_MODEL",
            f"{ROUTER}:9: B_MODEL",
        ]

    def test_an_anchor_that_an_entry_of_others_refers_to(self) -> None:
        router = reading("b").replace("litellm_params:", "litellm_params: &b")
        said = refusal(f"{router}- {{model_name: c, litellm_params: *b}}\n", "b")
        assert len(said) == 3
        assert all(f"is read at {ROUTER}:7 too" in line for line in said)


@pytest.mark.parametrize(
    ("value", "said"), [("1", True), ("on", True), ("0", False), ("", False), (None, None)]
)
def test_the_switch_of_the_other_tool(value: str | None, said: bool | None) -> None:
    variables = {} if value is None else {"MLX_ROUTE_VIA_OPTILLM": value}
    assert said_by_others(variables) is said
