"""``proxy_config.yaml``: what a file comes to, and what is said about one with mistakes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from proxy.errors import ConfigError
from proxy.upstream.config import HealthCheck, PoolConfig, ProviderConfig, QueueConfig
from proxy.upstream.config_file import load
from proxy.upstream.config_search import find

ROOT = Path(__file__).parents[3]
STRATEGIES = ("failover", "round_robin", "weighted")
ONE = "providers:\n  - {name: a, base_url: 'http://h/v1', api_key: k}\n"
#: Every variable of the examples.
ENVIRON = {
    "OPENAI_API_KEY": "sk-openai",
    "OPENAI_API_KEY_BACKUP": "sk-backup",
    "VENDOR": "OPENAI",
    "ENDPOINT": "https://example.net/v1",
    "AZURE_ENDPOINT": "https://example.openai.azure.com/",
    "AZURE_KEY": "azure-key",
    "NONE": "",
    "TWO": "2",
    "SECRET": "s3cret",
}

Load = Callable[..., PoolConfig]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "proxy_config.yaml"


@pytest.fixture
def read(file: Path) -> Load:
    """Loads a text as the file."""

    def read(text: str, environ: Mapping[str, str] = ENVIRON, mode: int = 0o600) -> PoolConfig:
        file.write_text(dedent(text), encoding="utf-8")
        file.chmod(mode)
        return load(file, environ, STRATEGIES)

    return read


@pytest.fixture
def refusal(read: Load, file: Path) -> Callable[[str], list[str]]:
    """The lines of the error about a text, without the file's name."""

    def refusal(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        lines = str(caught.value).split("\n")
        assert all(line.startswith(f"{file}:") for line in lines)
        return [line.removeprefix(f"{file}:") for line in lines]

    return refusal


def key(provider: ProviderConfig) -> str | None:
    return None if provider.api_key is None else provider.api_key.reveal()


class TestDefaults:
    def test_three_keys_make_a_provider(self, read: Load) -> None:
        pool = read(ONE)
        (provider,) = pool.providers
        assert (provider.name, provider.base_url, key(provider)) == ("a", "http://h/v1", "k")
        assert (provider.weight, provider.fallback_only, provider.max_concurrent) == (
            1,
            False,
            None,
        )
        assert (provider.model_map, provider.hosts) == ({}, {})
        assert (provider.kind, provider.auth, provider.api_version) == ("openai", "key", None)
        assert (provider.n, provider.cancel) == ("single", "close")

    def test_the_rest_has_the_values_of_the_format(self, read: Load) -> None:
        pool = read(ONE)
        assert pool.strategy == "round_robin"
        assert pool.health_check == HealthCheck(enabled=True, interval=30, timeout=5)
        assert (pool.request_timeout, pool.connect_timeout) == (30, 5)
        assert pool.queue == QueueConfig(max_concurrent=100, timeout=60, size=1000)
        assert (pool.log_level, pool.track_latency, pool.track_errors) == (None, False, True)
        assert pool.hosts == {}
        assert pool.breaker

    def test_a_key_without_a_value_has_its_default(self, read: Load) -> None:
        blank = "weight: , fallback_only: '${NONE}', max_concurrent: '${UNSET:-}', host: , kind: "
        pool = read(ONE.replace("}", f", {blank}}}") + "routing:\nqueue: {timeout: }\nhosts:\n")
        (provider,) = pool.providers
        assert (provider.weight, provider.fallback_only, provider.max_concurrent) == (
            1,
            False,
            None,
        )
        assert (provider.hosts, provider.kind) == ({}, "openai")
        assert (pool.queue, pool.hosts) == (QueueConfig(), {})

    def test_a_refused_key_can_be_found_by_its_place(self, read: Load, file: Path) -> None:
        (provider,) = read(ONE).providers
        assert provider.key_source == f"providers[0].api_key in {file}"


#: What the format's own page shows, each in the fewest words; `load` must take them all.
EXAMPLES = {
    "two keys of one service": """
        providers:
          - name: first
            base_url: https://api.openai.com/v1
            api_key: ${OPENAI_API_KEY}
            weight: 2
            max_concurrent: 5   # a comment
            model_map:
              gpt-4: gpt-4-turbo-preview

          - name: second
            base_url: https://api.openai.com/v1
            api_key: ${OPENAI_API_KEY_BACKUP}
            max_concurrent: 2

        routing:
          strategy: weighted   # or another

        timeouts:
          request: 30
          connect: 5

        queue:
          max_concurrent: 100
          timeout: 60
        """,
    "all keys of a provider": """
        providers:
          - name: a
            base_url: https://api.url/v1
            api_key: ${OPENAI_API_KEY}
            weight: 2
            fallback_only: false
            model_map:
              gpt-4: gpt-4-deployment
              gpt-3.5-turbo: gpt-35-turbo
        """,
    "health checks": ONE
    + """
routing:
  strategy: weighted

  # checks
  health_check:
    enabled: true
    interval: 30
    timeout: 5
""",
    "limits by provider": """
        providers:
          - name: slow
            base_url: http://192.168.1.100:8080/v1
            api_key: dummy
            max_concurrent: 1
          - name: unlimited
            base_url: https://api.unlimited.com/v1
            api_key: ${OPENAI_API_KEY}
            # nothing about max_concurrent
        """,
    "a variable": ONE.replace("k}", "'${OPENAI_API_KEY}'}"),
    "a default": ONE.replace("'http://h/v1'", "'${CUSTOM:-https://api.openai.com/v1}'"),
    "a variable named by another": ONE.replace("k}", "'${VENDOR}_API_KEY'}"),
    "deployments of Azure": """
        providers:
          - name: azure
            base_url: ${AZURE_ENDPOINT}
            api_key: ${AZURE_KEY}
            model_map:
              # the client's name -> the deployment
              gpt-4: gpt-4-deployment-001
              gpt-3.5-turbo: gpt-35-turbo-deployment

          - name: openai
            base_url: https://api.openai.com/v1
            api_key: ${OPENAI_API_KEY}
        """,
    "a backup": """
        providers:
          - {name: one, base_url: "https://api1.com/v1", api_key: "${AZURE_KEY}", weight: 3}
          # only on failure
          - name: backup
            base_url: https://backup.api/v1
            api_key: ${OPENAI_API_KEY}
            fallback_only: true
        """,
    "monitoring": ONE + "monitoring:\n  log_level: DEBUG  # more\n  track_latency: true\n"
    "  track_errors: true\n",
    "throughput": ONE + "routing:\n  strategy: weighted\n  health_check:\n    interval: 60\n"
    "    timeout: 10\n",
    "latency": ONE + "routing:\n  strategy: failover\n  health_check:\n    interval: 10\n"
    "    timeout: 2\n",
    "cost": """
        providers:
          - name: cheap
            base_url: https://cheap.example/v1
            api_key: k
            weight: 10
          - name: expensive
            base_url: https://expensive.example/v1
            api_key: k
            weight: 1
            fallback_only: true
        """,
    "servers of one's own": """
        providers:
          - name: main
            base_url: http://localhost:8080/v1
            api_key: local
            weight: 1
          - name: spare
            base_url: http://localhost:8081/v1
            api_key: local
            weight: 1

        routing:
          strategy: round_robin
          health_check:
            enabled: false
        """,
    "production": """
        providers:
          - name: main
            base_url: https://api.openai.com/v1
            api_key: ${OPENAI_API_KEY}
            weight: 5
          - name: fallback
            base_url: ${ENDPOINT}
            api_key: ${OPENAI_API_KEY_BACKUP}
            weight: 1
            fallback_only: true

        routing:
          strategy: weighted
          health_check: {enabled: true, interval: 30, timeout: 5}

        monitoring:
          log_level: WARNING
          track_latency: true
          track_errors: true
        """,
}


class TestExamples:
    @pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
    def test_every_example_of_the_format_loads(self, read: Load, text: str) -> None:
        assert read(text).providers

    def test_the_first_comes_out_as_it_was_meant(self, read: Load) -> None:
        pool = read(EXAMPLES["two keys of one service"])
        first, second = pool.providers
        assert (first.name, key(first), first.weight, first.max_concurrent) == (
            "first",
            "sk-openai",
            2,
            5,
        )
        assert first.model("gpt-4") == "gpt-4-turbo-preview"
        assert (second.name, key(second), second.weight, second.max_concurrent) == (
            "second",
            "sk-backup",
            1,
            2,
        )
        assert pool.strategy == "weighted"

    def test_checks_can_be_off_and_monitoring_on(self, read: Load) -> None:
        assert not read(EXAMPLES["servers of one's own"]).health_check.enabled
        pool = read(EXAMPLES["monitoring"])
        assert (pool.log_level, pool.track_latency, pool.track_errors) == ("debug", True, True)
        assert read(EXAMPLES["latency"]).health_check == HealthCheck(True, 10, 2)

    def test_the_example_of_the_page_loads(self, read: Load) -> None:
        page = (ROOT / "docs/proxy-config.md").read_text()
        (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        pool = read(example, {"OPENAI_API_KEY": "sk"})
        openai, azure, chat, coder = pool.providers
        assert openai.model("team-4o") == "gpt-4o"
        assert (azure.kind, key(azure), azure.api_version) == ("azure", None, "2024-10-21")
        assert (chat.base_url, chat.host("any"), chat.n) == (
            "http://127.0.0.1:8080/v1",
            "box",
            "native",
        )
        assert (coder.host("any"), coder.host("coder-7b"), coder.cancel) == (None, "box", "stream")
        assert pool.hosts == {"box": 1}
        moved = read(example, {"OPENAI_API_KEY": "sk", "BOX": "https://box"})
        assert [p.base_url for p in moved.providers][2:] == [
            "https://box/v1",
            "https://box/coder/v1",
        ]

    def test_the_page_has_every_key(self, refusal: Callable[[str], list[str]]) -> None:
        page = (ROOT / "docs/proxy-config.md").read_text()
        for text, prefix in (
            (ONE.replace("}", ", qq: 1}"), "providers[]."),
            (ONE + "routing: {qq: 1}", "routing."),
            (ONE + "routing: {health_check: {qq: 1}}", "routing.health_check."),
            (ONE + "timeouts: {qq: 1}", "timeouts."),
            (ONE + "queue: {qq: 1}", "queue."),
            (ONE + "monitoring: {qq: 1}", "monitoring."),
        ):
            (line,) = refusal(text)
            for known in line.partition("known here: ")[2].split(", "):
                assert f"`{prefix}{known}" in page


class TestValues:
    @pytest.mark.parametrize(
        ("written", "sent"),
        [
            ('""', None),
            ("null", None),
            ("", None),
            ("${UNSET:-}", None),
            ("${NONE:-}", None),
            ("${UNSET:-${NONE:-}}", None),
            ("dummy", "dummy"),
            ("'12345'", "12345"),
            ("${VENDOR}_API_KEY", "sk-openai"),
            ("${UNSET:-${OPENAI_API_KEY}}", "sk-openai"),
            ("${TWO}", "2"),
        ],
    )
    def test_the_key_that_is_sent(self, read: Load, written: str, sent: str | None) -> None:
        text = f"providers:\n  - name: a\n    base_url: http://h/v1\n    api_key: {written}\n"
        assert key(read(text).providers[0]) == sent

    def test_a_token_needs_no_key(self, read: Load) -> None:
        (provider,) = read(ONE.replace("api_key: k", "auth: entra")).providers
        assert (provider.auth, provider.api_key) == ("entra", None)

    def test_numbers_and_flags_may_come_from_variables(self, read: Load) -> None:
        more = ", weight: '${W:-0.5}', max_concurrent: '${TWO}', fallback_only: '${F:-true}'}"
        pool = read(ONE.replace("}", more) + "queue:\n  timeout: ${TWO}\n  size: ${UNSET:-0}\n")
        (provider,) = pool.providers
        assert (provider.weight, provider.max_concurrent, provider.fallback_only) == (0.5, 2, True)
        assert (pool.queue.timeout, pool.queue.size) == (2, 0)

    def test_ten_calls_may_wait_for_each_under_way(self, read: Load) -> None:
        assert read(ONE + "queue: {max_concurrent: 7}\n").queue.size == 70
        assert read(ONE + "queue: {max_concurrent: 7, size: 3}\n").queue.size == 3

    def test_a_slash_at_the_end_of_a_url_means_nothing(self, read: Load) -> None:
        assert read(ONE.replace("/v1", "/v1/")).providers[0].base_url == "http://h/v1"

    @pytest.mark.parametrize("written", ["WARNING", "warning", "Warning"])
    def test_the_level_of_the_log_in_any_case(self, read: Load, written: str) -> None:
        assert read(f"{ONE}monitoring: {{log_level: {written}}}\n").log_level == "warning"

    def test_all_may_be_for_failures_only(self, read: Load) -> None:
        assert read(ONE.replace("}", ", fallback_only: true}")).providers[0].fallback_only

    def test_providers_may_share_what_they_have_in_common(self, read: Load) -> None:
        pool = read(
            """
            providers:
              - &a {name: a, base_url: "http://h/v1", api_key: k, weight: 3}
              - {<<: *a, name: b}
            """
        )
        assert [(p.name, p.weight) for p in pool.providers] == [("a", 3), ("b", 3)]


class TestKinds:
    @pytest.mark.parametrize(
        ("url", "kind"),
        [
            ("https://x.openai.azure.com", "azure"),
            ("https://x.openai.azure.com/openai/deployments/d", "azure"),
            ("https://X.OpenAI.Azure.com/", "azure"),
            ("https://x.cognitiveservices.azure.com:443/", "azure"),
            ("https://x.services.ai.azure.com", "azure"),
            ("https://x.openai.azure.com/openai/v1/", "openai"),
            ("https://openai.azure.com.example.net/v1", "openai"),
            ("https://azure.example.net/v1", "openai"),
            ("https://api.openai.com/v1", "openai"),
        ],
    )
    def test_azure_is_known_by_its_host(self, read: Load, url: str, kind: str) -> None:
        assert read(ONE.replace("http://h/v1", url)).providers[0].kind == kind

    @pytest.mark.parametrize("kind", ["openai", "azure"])
    def test_what_is_written_goes_before_it(self, read: Load, kind: str) -> None:
        text = ONE.replace("http://h/v1", "https://x.openai.azure.com")
        assert read(text.replace("}", f", kind: {kind}}}")).providers[0].kind == kind

    def test_the_version_is_the_files_then_the_environments(self, read: Load) -> None:
        azure = ONE.replace("}", ", kind: azure}")
        written = azure.replace("}", ", api_version: 2025-01-01-preview}")
        dated = azure.replace("}", ", api_version: 2025-03-01}")
        environ = {"AZURE_API_VERSION": "2024-06-01"}

        def version(text: str, environ: Mapping[str, str]) -> str | None:
            return read(text, environ).providers[0].api_version

        assert version(written, environ) == "2025-01-01-preview"
        assert version(dated, environ) == "2025-03-01"
        assert version(azure, environ) == "2024-06-01"
        assert version(azure, {}) == version(azure, {"AZURE_API_VERSION": ""}) == "2024-10-21"
        assert version(ONE, environ) is None


class TestHosts:
    def hosts(self, read: Load, providers: list[str], limits: str = "") -> Mapping[str, int]:
        lines = [
            f"  - {{name: p{i}, base_url: 'http://h{i}/v1', api_key: k, {more}}}"
            for i, more in enumerate(providers)
        ]
        return read("providers:\n" + "\n".join(lines) + f"\n{limits}").hosts

    def test_one_at_a_time_unless_told_otherwise(self, read: Load) -> None:
        assert self.hosts(read, ["host: box", "host: box"]) == {"box": 1}

    def test_the_least_limit_of_those_who_share_it(self, read: Load) -> None:
        providers = [
            "host: box, max_concurrent: 4",
            "host: {'a*': box, b: tin}, max_concurrent: 3",
            "host: box",
            "max_concurrent: 2",
        ]
        assert self.hosts(read, providers) == {"box": 3, "tin": 3}

    @pytest.mark.parametrize("limit", ["2", "{max_concurrent: 2}", '"${TWO}"'])
    def test_its_own_limit_before_theirs(self, read: Load, limit: str) -> None:
        found = self.hosts(read, ["host: box, max_concurrent: 4"], f"hosts: {{box: {limit}}}")
        assert found == {"box": 2}


ALL_KEYS = (
    "name, base_url, auth, api_key, weight, fallback_only, model_map, max_concurrent, host, kind, "
    "api_version, n, cancel"
)


class TestMistakes:
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ("wieght: 2", "5:5: unknown key 'wieght'; did you mean 'weight'?"),
            ('"q\\nq": 1', f"5:5: unknown key 'q\\nq'; known here: {ALL_KEYS}"),
            ("qq:", f"5:5: unknown key 'qq'; known here: {ALL_KEYS}"),
            ("weight: 0", "5:13: weight must be greater than 0"),
            ("weight: -1", "5:13: weight must be greater than 0"),
            ("weight: .inf", "5:13: weight must be finite"),
            ("weight: .nan", "5:13: weight must be finite"),
            (
                "weight: true",
                "5:13: weight must be a number, not true or false; "
                "write digits, without quotes or a unit",
            ),
            (
                'weight: "2"',
                "5:13: weight must be a number, not text; write digits, without quotes or a unit",
            ),
            ("max_concurrent: 0", "5:21: max_concurrent must be at least 1"),
            (
                "max_concurrent: 1.0",
                "5:21: max_concurrent must be a whole number, not a number with a point; "
                "write digits, without quotes",
            ),
            (
                "max_concurrent: yes",
                "5:21: max_concurrent must be a whole number, not true or false; "
                "write digits, without quotes",
            ),
            (
                "max_concurrent: ${SECRET}",
                "5:21: max_concurrent must be a whole number, not text; "
                "write digits, without quotes",
            ),
            (
                "fallback_only: 1",
                "5:20: fallback_only must be true or false, not a whole number; "
                "write one of them, without quotes",
            ),
            ("kind: azur", "5:11: kind must be one of: openai, azure; did you mean 'azure'?"),
            ("auth: 3", "5:11: auth must be one of: key, entra"),
            ("n: two", "5:8: n must be one of: single, native"),
            (
                "cancel: streams",
                "5:13: cancel must be one of: close, stream; did you mean 'stream'?",
            ),
            ("api_version: ' '", "5:18: api_version must not be empty"),
            (
                "model_map: gpt-4",
                "5:16: model_map must be a mapping, not text; write its keys below it, indented",
            ),
            (
                "model_map: {a: b, c: 4}",
                "5:26: c must be text, not a whole number; put it in quotes",
            ),
            ("model_map: {a: ''}", "5:20: a must not be empty"),
            ("model_map: {'a*b*': c}", "5:17: pattern 'a*b*' holds more than one '*'"),
            ("model_map: {'a*': '*-*'}", "5:23: a model's name may hold only one '*'"),
            ("model_map: {a: 'b-*'}", "5:20: '*' stands for nothing: there is none in 'a'"),
            ("host: {'**': box}", "5:12: pattern '**' holds more than one '*'"),
            (
                "host: [box]",
                "5:11: host must be a mapping, not a list; write its keys below it, indented",
            ),
            (
                "host: ${UNSET}",
                "5:11: variable UNSET is not set; set it, or give a default: ${UNSET:-default}",
            ),
        ],
    )
    def test_in_a_provider(self, refusal: Callable[[str], list[str]], more: str, said: str) -> None:
        text = "providers:\n  - name: a\n    base_url: http://h/v1\n    api_key: k\n"
        assert refusal(f"{text}    {more}\n") == [said]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{}\n", "1:1: providers is missing; add it"),
            ("providers:\n", "1:11: providers is missing; add it"),
            ("providers: []\n", "1:12: providers must not be empty; add an entry"),
            (
                "providers: {a: b}\n",
                "1:12: providers must be a list, not a mapping; begin each entry with '- '",
            ),
            (
                ONE + "  - b\n",
                "3:5: providers[1] must be a mapping, not text; write its keys below it, indented",
            ),
            (
                ONE + "provider: []\n",
                "3:1: unknown key 'provider'; did you mean 'providers'?",
            ),
            (
                ONE + "routing:\n  strategy: weigthed\n",
                "4:13: strategy must be one of: failover, round_robin, weighted; "
                "did you mean 'weighted'?",
            ),
            (
                ONE + "routing:\n  strategy: ${SECRET}\n",
                "4:13: strategy must be one of: failover, round_robin, weighted",
            ),
            (
                ONE + "routing: {strategy: 1}\n",
                "3:21: strategy must be text, not a whole number; put it in quotes",
            ),
            (
                ONE + "routing:\n  health_check:\n    intervall: 3\n",
                "5:5: unknown key 'intervall'; did you mean 'interval'?",
            ),
            (
                ONE + "routing: {health_check: false}\n",
                "3:25: health_check must be a mapping, not true or false; "
                "write its keys below it, indented",
            ),
            (
                ONE + "routing: {health_check: {interval: 0}}\n",
                "3:36: interval must be greater than 0",
            ),
            (
                ONE + "timeouts: {request: 30s}\n",
                "3:21: request must be a number, not text; write digits, without quotes or a unit",
            ),
            (ONE + "timeouts: {connect: 0.0}\n", "3:21: connect must be greater than 0"),
            (ONE + "timeouts: {request: .inf}\n", "3:21: request must be finite"),
            (
                ONE + "timeouts: {request: 0, max: 1}\n",
                "3:21: request must be greater than 0\n"
                "3:24: unknown key 'max'; known here: request, connect",
            ),
            (ONE + "queue: {max_concurrent: 0}\n", "3:25: max_concurrent must be at least 1"),
            (ONE + "queue: {size: -1}\n", "3:15: size must be at least 0"),
            (ONE + "queue: {timeout: -1}\n", "3:18: timeout must be greater than 0"),
            (
                ONE + "monitoring: {log_level: DEBG}\n",
                "3:25: log_level must be one of: DEBUG, INFO, WARNING, ERROR, CRITICAL; "
                "did you mean 'DEBUG'?",
            ),
            (
                ONE + "monitoring: {track_latency: 'on'}\n",
                "3:29: track_latency must be true or false, not text; "
                "write one of them, without quotes",
            ),
            (ONE + "hosts: {box: 1}\n", "3:9: no provider has 'host: box'; remove it"),
            (
                ONE.replace("}", ", host: box}") + "hosts: {boxx: 1}\n",
                "3:9: no provider has 'host: boxx'; did you mean 'box'?",
            ),
            (
                ONE.replace("}", ", host: box}") + "hosts: {box: 0}\n",
                "3:14: max_concurrent must be at least 1",
            ),
            (
                ONE.replace("}", ", host: box}") + "hosts:\n  box: {max: 1}\n",
                "4:8: max_concurrent is missing; add it\n"
                "4:9: unknown key 'max'; known here: max_concurrent",
            ),
            (
                ONE + ONE.partition("\n")[2],
                "3:12: the provider in line 2 has this name too; rename one",
            ),
            (
                "a: [\n",
                "2:1: not YAML: while parsing a flow node (from line 2), expected the node "
                "content, but found '<stream end>'; check indentation, quotes and colons",
            ),
            ("", "1:1: the file is empty; it must name at least one provider"),
        ],
    )
    def test_in_the_file(self, refusal: Callable[[str], list[str]], text: str, said: str) -> None:
        assert refusal(text) == said.split("\n")

    def test_what_a_provider_lacks(self, refusal: Callable[[str], list[str]]) -> None:
        assert refusal("providers:\n  - weight: 2\n  - name:\n") == [
            '2:5: api_key is missing; write api_key: "" if the provider wants none',
            "2:5: base_url is missing; add it",
            "2:5: name is missing; add it",
            '3:5: api_key is missing; write api_key: "" if the provider wants none',
            "3:5: base_url is missing; add it",
            "3:10: name is missing; add it",
        ]

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("''", "must be a URL such as https://api.openai.com/v1"),
            ("api.openai.com/v1", "must be a URL such as https://api.openai.com/v1"),
            ("ftp://h/v1", "must be a URL such as https://api.openai.com/v1"),
            ("http://", "must be a URL such as https://api.openai.com/v1"),
            ("http:///v1", "must be a URL such as https://api.openai.com/v1"),
            ("http://h:99999/v1", "must be a URL such as https://api.openai.com/v1"),
            ("http://h:port/v1", "must be a URL such as https://api.openai.com/v1"),
            ("'http://[::1/v1'", "must be a URL such as https://api.openai.com/v1"),
            (
                "http://user:pw@h/v1",
                "must not hold a user or a password; put the key into api_key",
            ),
            ("http://${SECRET}@h", "must not hold a user or a password; put the key into api_key"),
            ("http://h/v1?a=b", "must end with the path; remove what begins with '?' or '#'"),
            ("http://h/v1?", "must end with the path; remove what begins with '?' or '#'"),
            ("'http://h/v1#a'", "must end with the path; remove what begins with '?' or '#'"),
            (
                "http://h/v1 x",
                "must not hold white space or control characters; remove them",
            ),
            (
                r'"http://h\n/v1"',
                "must not hold white space or control characters; remove them",
            ),
            ("3", "must be text, not a whole number; put it in quotes"),
        ],
    )
    def test_in_a_base_url(self, refusal: Callable[[str], list[str]], url: str, said: str) -> None:
        text = f"providers:\n  - name: a\n    api_key: k\n    base_url: {url}\n"
        assert refusal(text) == [f"4:15: base_url {said}"]

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("123", "api_key must be text; put it in quotes"),
            ("[s3cret]", "api_key must be text; put it in quotes"),
            (
                "s3cret word",
                "api_key cannot be used: the key holds white space or control characters",
            ),
            (
                r'"s3cret\n"',
                "api_key cannot be used: the key holds white space or control characters",
            ),
            ("'  '", "api_key cannot be used: the key is empty"),
            (
                "a ${SECRET}",
                "api_key cannot be used: the key holds white space or control characters",
            ),
            ("${NONE}", 'api_key is empty; set its variable, or write "" to send none'),
            (
                "${SECRET} ${UNSET}",
                "variable UNSET is not set; set it, or give a default: ${UNSET:-default}",
            ),
            ("${SECRET", "${ has no closing brace; write ${NAME} or ${NAME:-default}"),
        ],
    )
    def test_in_a_key(self, refusal: Callable[[str], list[str]], written: str, said: str) -> None:
        text = f"providers:\n  - name: a\n    base_url: http://h/v1\n    api_key: {written}\n"
        (line,) = refusal(text)
        assert line == f"4:14: {said}"
        assert "s3cret" not in line

    def test_all_at_once_in_the_order_of_the_file(
        self, refusal: Callable[[str], list[str]]
    ) -> None:
        lines = refusal(
            """
            queue: {max_concurrent: none}
            providers:
              - name: a
                base_url: ${UNSET}
                api_key: k
                colour: red
                weight: ${SECRET}
              - name: a
                base_url: http://h/v1
            hosts: {box: 1}
            """
        )
        assert lines == [
            "2:25: max_concurrent must be a whole number, not text; write digits, without quotes",
            "5:15: variable UNSET is not set; set it, or give a default: ${UNSET:-default}",
            f"7:5: unknown key 'colour'; known here: {ALL_KEYS}",
            "8:13: weight must be a number, not text; write digits, without quotes or a unit",
            '9:5: api_key is missing; write api_key: "" if the provider wants none',
            "9:11: the provider in line 4 has this name too; rename one",
            "11:9: no provider has 'host: box'; remove it",
        ]

    def test_a_mistake_that_is_merged_twice_is_told_once(
        self, refusal: Callable[[str], list[str]]
    ) -> None:
        text = """
            providers:
              - &a {name: a, base_url: "http://h/v1", api_key: k, weight: 0}
              - {<<: *a, name: b}
            """
        assert refusal(text) == ["3:63: weight must be greater than 0"]

    @pytest.mark.parametrize("value", ["\udcff", "a\udcff"])
    def test_a_variable_that_is_not_utf_8_is_no_name(self, read: Load, value: str) -> None:
        with pytest.raises(ConfigError, match=":2:12: name "):
            read(ONE.replace("name: a", "name: '${N}'"), {"N": value})


class TestUnreadable:
    def refused(self, file: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(file, {}, STRATEGIES)
        return str(caught.value)

    def test_a_file_that_is_gone(self, file: Path) -> None:
        assert self.refused(file) == f"{file} does not exist"

    def test_a_folder(self, file: Path) -> None:
        file.mkdir()
        assert self.refused(file) == f"{file} is not a regular file"

    def test_a_pipe_is_not_waited_for(self, file: Path) -> None:
        os.mkfifo(file)
        assert self.refused(file) == f"{file} is not a regular file"

    @pytest.mark.parametrize("mode", [0o000, 0o200, 0o333])
    def test_a_file_that_nobody_may_read(self, file: Path, mode: int) -> None:
        file.write_text(ONE)
        file.chmod(mode)
        assert self.refused(file) == (
            f"{file}: nobody may read it (mode {mode:04o}); run: chmod 600 {file}"
        )

    @pytest.mark.parametrize(
        ("content", "place"), [(b"\xff", "1:1"), (b"a: \xc3\xa9\nb: \xc3\xa9\xff", "2:5")]
    )
    def test_a_file_that_is_not_utf_8(self, file: Path, content: bytes, place: str) -> None:
        file.write_bytes(content)
        assert self.refused(file) == f"{file}:{place}: not UTF-8; save the file as UTF-8"

    def test_a_path_through_a_file(self, file: Path) -> None:
        file.write_text(ONE)
        assert self.refused(file / "x") == f"cannot read {file / 'x'}: Not a directory"


class TestKeysInTheFile:
    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        assert all(r.name == "optillm.config" for r in caplog.records)
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    @pytest.mark.parametrize("written", ["s3cret-literal", "${UNSET:-s3cret-literal}"])
    def test_one_warning_where_everybody_can_read_them(
        self, read: Load, file: Path, caplog: pytest.LogCaptureFixture, written: str
    ) -> None:
        text = ONE.replace("k}", f"'{written}'}}")
        read(text + text.partition("\n")[2].replace("name: a", "name: b"), mode=0o644)
        assert self.warnings(caplog) == [
            f"{file} holds a key and everybody can read it (mode 0644); run: chmod 600 {file}"
        ]

    @pytest.mark.parametrize(
        ("written", "mode"),
        [("s3cret", 0o600), ("s3cret", 0o640), ("${SECRET}", 0o644), ("", 0o644)],
    )
    def test_none_where_there_is_nothing_to_see(
        self, read: Load, caplog: pytest.LogCaptureFixture, written: str, mode: int
    ) -> None:
        read(ONE.replace("k}", f"'{written}'}}"), mode=mode)
        assert self.warnings(caplog) == []


class TestFind:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / ".optillm").mkdir()
        return tmp_path / ".optillm"

    def test_nothing(self, tmp_path: Path) -> None:
        assert find(None, tmp_path) is None

    def test_what_is_asked_for_then_yaml_then_yml(self, tmp_path: Path, folder: Path) -> None:
        asked, yaml, yml = tmp_path / "x", folder / "proxy_config.yaml", folder / "proxy_config.yml"
        yml.touch()
        assert find(None, tmp_path) == yml
        yaml.touch()
        assert find(None, tmp_path) == yaml
        asked.touch()
        assert find(str(asked), tmp_path) == asked

    def test_what_is_asked_for_must_exist(self, tmp_path: Path, folder: Path) -> None:
        (folder / "proxy_config.yaml").touch()
        missing = tmp_path / "missing.yaml"
        with pytest.raises(ConfigError) as caught:
            find(str(missing), tmp_path)
        assert str(caught.value) == f"--proxy-config: {missing} does not exist"

    def test_the_home_of_the_user_may_be_written_short(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "pool.yaml").touch()
        assert find("~/pool.yaml", tmp_path) == tmp_path / "pool.yaml"

    def test_a_link_that_leads_nowhere_is_not_passed_over(
        self, tmp_path: Path, folder: Path
    ) -> None:
        link = folder / "proxy_config.yaml"
        link.symlink_to(tmp_path / "gone")
        (folder / "proxy_config.yml").write_text(ONE)
        assert find(None, tmp_path) == link
        with pytest.raises(ConfigError, match="does not exist"):
            load(link, {}, STRATEGIES)

    def test_a_home_that_cannot_be_looked_into(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^cannot read .*: File name too long$"):
            find(None, tmp_path / ("x" * 300))
