"""LiteLLM's configuration, read as LiteLLM reads it, and what it passes over in silence."""

from __future__ import annotations

import pytest
from litellm_files import ROUTER, US, entry, read

from optictl.gateway_config import Config, variables_in
from optictl.gateway_mistakes import duplicates, unknown_keys, unset
from proxy.errors import ConfigError


class TestReading:
    def test_an_entry_and_its_places(self) -> None:
        [found] = read("model_list:\n" + entry("opt-x", "moa-b")).entries
        assert (found.name, found.model, found.api_base) == ("opt-x", "moa-b", US)
        assert (found.origin, found.leads_at) == (f"{ROUTER}:2", f"{ROUTER}:4")

    def test_variables(self) -> None:
        values = "{model: os.environ/X_MODEL, api_base: os.environ/X_API_BASE}"
        config = read(
            f"model_list: [{{model_name: x, litellm_params: {values}}}]",
            {"X_MODEL": "openai/moa-b", "X_API_BASE": US},
        )
        assert (config.entries[0].model, config.entries[0].api_base) == ("moa-b", US)

    def test_variables_that_the_file_sets_itself_come_too_late(self) -> None:
        config = read(
            """
            environment_variables: {X: openai/late}
            model_list: [{model_name: x, litellm_params: {model: os.environ/X}}]
            """
        )
        assert config.entries[0].model == ""
        assert [name for name, _ in config.references()] == ["X"]

    def test_variables_are_named_anywhere_but_in_lists(self) -> None:
        config = read(
            "general_settings:\n  master_key: os.environ/A\n"
            "  tags: [os.environ/B, {c: os.environ/C}]\n"
        )
        assert list(config.references()) == [("A", f"{ROUTER}:2"), ("C", f"{ROUTER}:3")]

    def test_the_last_assignment_counts_for_systemd_and_for_a_shell(self) -> None:
        content = b"A=1\nexport A='2'\nB=\"x y\" \n# A=3\n"
        assert variables_in(content) == {"A": "2", "B": "x y"}

    @pytest.mark.parametrize(
        ("params", "model"),
        [
            ("model: openai/a/b", "a/b"),
            ("model: a/b, custom_llm_provider: openai", "a/b"),
            ("model: openai/a, custom_llm_provider: openai", "a"),
            ("model: plain", "plain"),
        ],
    )
    def test_the_providers_name_is_cut_off(self, params: str, model: str) -> None:
        config = read(f"model_list: [{{model_name: x, litellm_params: {{{params}}}}}]")
        assert config.entries[0].model == model

    @pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
    def test_the_base_url_of_a_variable_of_openais(self, name: str) -> None:
        text = "model_list: [{model_name: x, litellm_params: {model: openai/a}}]"
        assert read(text, {name: US}).entries[0].api_base == US
        assert read(text.replace("openai/", "ollama/"), {name: US}).entries[0].api_base == ""

    def test_the_other_name_of_a_base_url(self) -> None:
        config = read(
            f"model_list: [{{model_name: x, litellm_params: {{model: openai/a, base_url: {US}}}}}]"
        )
        assert config.entries[0].api_base == US

    def test_included_files_are_joined_and_theirs_too(self) -> None:
        config = read(
            f"include: [one.yaml]\nmodel_list:\n{entry('a', 'a')}general_settings: {{x: 1}}\n",
            one=f"include: [two.yaml, router.yaml]\nmodel_list:\n{entry('b', 'b')}",
            two=f"model_list:\n{entry('c', 'c')}general_settings: {{y: 2}}\n",
        )
        assert [each.name for each in config.entries] == ["a", "b", "c"]
        assert config.entries[2].origin == f"{ROUTER.with_name('two.yaml')}:2"
        # Lists are joined, and of a section the last is the only one.
        assert config.section("general_settings") == {"y": 2}

    def test_an_included_file_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match=r"router.yaml:2: .*gone.yaml does not exist"):
            read("model_list: []\ninclude: [gone.yaml]\n")

    def test_what_others_may_write_and_we_may_not(self) -> None:
        config = read(
            """
            defaults: &ours {api_base: "http://127.0.0.1:4020/v1"}
            model_list:
            - model_name: x
              model_name: y
              litellm_params: {<<: *ours, model: openai/moa-b}\r
            - not an entry
            - {model_name: z}
            """
        )
        [found] = config.entries
        assert (found.name, found.api_base) == ("y", US)
        assert found.origin == f"{ROUTER}:5"

    @pytest.mark.parametrize("text", ["a: [", "- list\n", "", "a: !!python/name:os.system x\n"])
    def test_what_litellm_cannot_read_is_refused_with_its_place(self, text: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{ROUTER}:\d"):
            read(text)

    def test_a_file_that_holds_itself(self) -> None:
        config = read("model_list: &a\n- {model_name: x, litellm_params: {model: m, tags: *a}}\n")
        assert [each.name for each in config.entries] == ["x"]
        assert list(unset(config, None)) == []


class TestResolving:
    def names(self, config: Config, name: str) -> list[tuple[str, str]]:
        return [(entry.name, model) for entry, model in config.resolve(name)]

    def test_an_exact_entry_comes_before_a_pattern(self) -> None:
        config = read("model_list:\n" + entry("opt-*", "*") + entry("opt-x", "moa-b"))
        assert self.names(config, "opt-x") == [("opt-x", "moa-b")]
        assert self.names(config, "opt-moa|bon-q:8b") == [("opt-*", "moa|bon-q:8b")]
        assert self.names(config, "other") == []

    def test_the_longest_pattern(self) -> None:
        config = read("model_list:\n" + entry("*", "any/*") + entry("opt-*", "*"))
        assert self.names(config, "opt-b") == [("opt-*", "b")]
        assert self.names(config, "b") == [("*", "any/b")]

    def test_a_pattern_need_not_fit_to_the_end(self) -> None:
        config = read("model_list:\n" + entry("a-*-z", "*"))
        assert self.names(config, "a-b-z-more") == [("a-*-z", "b")]

    def test_all_of_one_name(self) -> None:
        config = read("model_list:\n" + entry("b", "x") + entry("b", "y"))
        assert self.names(config, "b") == [("b", "x"), ("b", "y")]

    def test_an_alias(self) -> None:
        config = read(
            "router_settings: {model_group_alias: {gpt-4: b, hidden: {model: b, hidden: true}}}\n"
            "model_list:\n" + entry("b", "x")
        )
        assert self.names(config, "gpt-4") == self.names(config, "hidden") == [("b", "x")]


class TestMistakes:
    def test_a_variable_that_is_not_set(self) -> None:
        config = read(
            "model_list:\n- model_name: x\n  litellm_params:\n    model: openai/x\n"
            "    api_key: os.environ/X_KEY\ngeneral_settings:\n  master_key: os.environ/SET\n",
            {"SET": "1"},
        )
        [found] = unset(config, "/srv/env")
        assert str(found) == f"{ROUTER}:5: os.environ/X_KEY is not set"
        assert found.fix == "set X_KEY in /srv/env"

    def test_a_variable_that_a_vault_may_have(self) -> None:
        text = "general_settings: {master_key: os.environ/X, key_management_system: hashicorp}"
        assert list(unset(read(text), None)) == []

    def test_a_name_that_stands_twice(self) -> None:
        config = read("model_list:\n" + entry("b", "x") + entry("c", "c") + entry("b", "y"))
        [found] = duplicates(config)
        assert found.at == f"{ROUTER}:2"
        assert f"b stands 2 times, also at {ROUTER}:8" in found.said

    @pytest.mark.parametrize(
        ("text", "at", "said"),
        [
            ("general_settings:\n  cancel_on_disconect: true", 2, "did you mean 'cancel_on_dis"),
            ("router_settings:\n  num_retry: 1", 2, "router_settings.num_retry: "),
            (
                "model_list:\n- model_name: x\n  litellm_params:\n    model: m\n    time_out: 1",
                5,
                "sends it to the backend; did you mean 'timeout'?",
            ),
            (
                "model_list:\n- model_name: x\n  litellm_params: {model: m}\n  model_info:\n"
                "    health_check_modell: m",
                5,
                "did you mean 'health_check_model'?",
            ),
        ],
    )
    def test_a_key_that_litellm_does_not_know(self, text: str, at: int, said: str) -> None:
        [found] = unknown_keys(read(text))
        assert found.at == f"{ROUTER}:{at}"
        assert said in found.said

    def test_keys_that_are_right(self) -> None:
        config = read(
            """
            model_list:
            - model_name: opt-moa-base
              litellm_params:
                model: openai/moa-base
                api_base: http://127.0.0.1:4020/v1
                api_key: os.environ/K
                num_retries: 0
                cooldown_time: 0
                timeout: 900
                stream_timeout: 120
                keepalive_seconds: 15
                max_parallel_requests: 8
                input_cost_per_token: 0
                output_cost_per_token: 0
                optillm_options: {samples: 3}
                chat_template_kwargs: {enable_thinking: false}
                top_k: 20
              model_info:
                id: optictl-opt-moa-base
                mode: chat
                health_check_model: openai/optictl-health
                health_check_max_tokens: 1
                max_input_tokens: 1000
                max_output_tokens: 1000
                my_own_note: anything
            general_settings: {master_key: x, cancel_on_disconnect: true}
            router_settings: {num_retries: 0, fallbacks: [], model_group_alias: {}}
            litellm_settings: {json_logs: true, anything: 1}
            """
        )
        assert list(unknown_keys(config)) == []
