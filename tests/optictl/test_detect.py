"""What is found on a machine, from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optictl.detect import Detected
from optictl.site_file import look
from optictl.system import RealSystem

UNIT = "etc/systemd/system/optillm-proxy.service"
ENV = "etc/optillm-proxy/env"
ORCH = "home/me/lab/gateway/litellm-orch/config"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def detected(root: Path, **question: Any) -> Detected:
    return look(RealSystem(root), user=False, **question)[0]


def values(found: Detected) -> dict[str, Any]:
    return {name: setting.value for name, setting in found.settings.items()}


def unit(root: Path, exec_start: str, *more: str) -> Detected:
    put(root, UNIT, "\n".join(["[Service]", f"ExecStart={exec_start}", *more, ""]))
    return detected(root)


FLAGS = "--host 127.0.0.1 --port 4021 --base-url http://127.0.0.1:4000/v1 --approach moa --model q"


class TestCommandLine:
    @pytest.mark.parametrize(
        "program",
        [
            "/opt/venv/bin/optillm",
            "/usr/bin/uv run optillm",
            "/usr/bin/python3 -m optillm",
            "/usr/bin/env A=B optillm",
            "/opt/venv/bin/optictl serve",
            "-/opt/venv/bin/optillm",
        ],
    )
    def test_however_it_is_started(self, tmp_path: Path, program: str) -> None:
        found = values(unit(tmp_path, f"{program} {FLAGS}"))
        assert found["proxy.port"] == 4021
        assert found["proxy.approach"] == "moa"
        assert found["proxy.base_model"] == "q"
        assert found["upstream.base_url"] == "http://127.0.0.1:4000/v1"

    def test_in_a_shell(self, tmp_path: Path) -> None:
        assert values(unit(tmp_path, f"/bin/bash -lc 'exec optillm {FLAGS}'"))["proxy.port"] == 4021

    def test_both_spellings_and_both_forms(self, tmp_path: Path) -> None:
        line = "/x/optillm --base_url=http://127.0.0.1:4001/v1 --port=4022 --no_ssl_verify"
        found = values(unit(tmp_path, line))
        assert found["upstream.base_url"] == "http://127.0.0.1:4001/v1"
        assert found["proxy.port"] == 4022
        assert found["proxy.flags"] == ["--no-ssl-verify"]

    def test_flags_without_a_setting_are_kept(self, tmp_path: Path) -> None:
        line = f"/x/optillm {FLAGS} --best_of_n 4 --log debug --task-pattern a --task-pattern 'b c'"
        assert values(unit(tmp_path, line))["proxy.flags"] == [
            *("--best-of-n", "4", "--log", "debug"),
            *("--task-pattern", "a", "--task-pattern", "b c"),
        ]

    @pytest.mark.parametrize("flag", ["--degraded", "--degraded-file=/etc/optillm-proxy/degraded"])
    def test_a_switch_is_told_of_and_left_out(self, tmp_path: Path, flag: str) -> None:
        found = unit(tmp_path, f"/x/optictl serve {FLAGS} {flag}")
        assert "proxy.flags" not in values(found)
        assert any("switched by: optictl degrade" in note for note in found.notes)

    def test_flags_that_we_do_not_have_are_named(self, tmp_path: Path) -> None:
        found = unit(tmp_path, f"/x/optillm --plugins-dir /p --launch-gui --cepo_x=1 {FLAGS}")
        assert found.unknown == ["--plugins-dir /p", "--launch-gui", "--cepo_x 1"]
        assert values(found)["proxy.port"] == 4021
        assert all(
            f"{flag} yet" in "\n".join(found.notes) for flag in ("--plugins-dir", "--cepo_x")
        )

    def test_one_of_two_commands(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/bin/true --port 1", f"ExecStart=/x/optillm {FLAGS}")
        assert values(found)["proxy.port"] == 4021
        assert found.settings["proxy.port"].origin == f"/{UNIT}:3 (--port)"

    def test_variables_and_specifiers(self, tmp_path: Path) -> None:
        found = unit(
            tmp_path,
            "%h/bin/optillm $OPTS --model ${MODEL}",
            'Environment="OPTS=--port 4023 --approach bon" "MODEL=a b"',
        )
        assert values(found)["proxy.port"] == 4023
        assert values(found)["proxy.base_model"] == "a b"

    def test_a_drop_in_counts_and_is_told(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            f"{UNIT}.d/x.conf",
            "[Service]\nExecStart=\nExecStart=/x/optillm --port 4024\n",
        )
        found = unit(tmp_path, "/x/optillm --port 1")
        assert values(found)["proxy.port"] == 4024
        assert found.drop_ins == [Path(f"/{UNIT}.d/x.conf")]
        assert any("x.conf sets ExecStart" in note for note in found.notes)

    def test_what_no_site_can_hold_is_told_and_left_out(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/x/optillm --port 99999 --model q", "User=Some.One")
        assert "proxy.port" not in found.settings
        assert "service.user" not in found.settings
        assert any("port must be at most 65535" in note for note in found.notes)
        assert any("user must look like" in note for note in found.notes)

    def test_an_address_beyond_this_machine_stays_allowed(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/x/optillm --host 0.0.0.0")
        assert values(found)["proxy.allow_external"] is True
        assert any("beyond this machine" in note for note in found.notes)

    def test_what_optillm_does_without_flags(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/x/optillm")
        assert values(found)["proxy.approach"] == "auto"
        assert any("8000" in note for note in found.notes)
        assert values(found)["service.user"] == "root"

    @pytest.mark.parametrize("content", [b"", b"\x00\xff\x7fELF\n\\", b"[Service]\nExecStart='x\n"])
    def test_a_unit_that_is_none(self, tmp_path: Path, content: bytes) -> None:
        put(tmp_path, UNIT, "")
        (tmp_path / UNIT).write_bytes(content)
        found = detected(tmp_path)
        assert found.settings == {}
        assert any("not taken over" in note for note in found.notes)

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert detected(tmp_path) == Detected()


class TestVariables:
    def test_those_that_are_flags_and_those_that_are_not(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            ENV,
            "OPTILLM_PORT=4025\nOPTILLM_MODEL=env\nOPTILLM_LOG=debug\nOPTILLM_SSL_VERIFY=false\n"
            "OPTILLM_OPT_X_MODEL=moa-x\nOPTILLM_PLUGINS_DIR=/p\n",
        )
        found = unit(tmp_path, "/x/optillm --model flag", f"EnvironmentFile=-/{ENV}")
        got = values(found)
        assert (got["proxy.port"], got["proxy.base_model"]) == (4025, "flag")
        assert got["proxy.flags"] == ["--log", "debug", "--no-ssl-verify"]
        assert got["service.environment"] == {"OPTILLM_OPT_X_MODEL": "moa-x"}
        assert found.unknown == ["OPTILLM_PLUGINS_DIR"]

    def test_secrets_that_no_setting_takes_are_told_by_name(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/x/optillm", "Environment=HF_TOKEN=hf_1 URL=http://u:pw@h/ X=sk-9")
        said = "\n".join(found.notes)
        assert all(f" {name} is a secret" in said for name in ("HF_TOKEN", "URL", "X"))
        assert not any(secret in said for secret in ("hf_1", "pw", "sk-9"))
        assert "service.environment" not in found.settings


class TestKeys:
    def test_on_the_command_line_they_move(self, tmp_path: Path) -> None:
        found = unit(
            tmp_path, "/x/optillm --optillm-api-key sk-c", "Environment=OPENAI_API_KEY=sk-u"
        )
        assert values(found)["proxy.key"] == {"file": "/etc/optillm-proxy/clients.key"}
        assert values(found)["upstream.key"] == {"file": "/etc/optillm-proxy/upstream.key"}
        assert all(key.moves for key in found.keys.values())

    def test_in_a_file_of_variables_they_stay(self, tmp_path: Path) -> None:
        put(tmp_path, "etc/secrets", "OPENAI_API_KEY='sk-u'\nMINE=sk-c\n")
        line = "/x/optillm --optillm-api-key ${MINE}"
        found = unit(tmp_path, line, "EnvironmentFile=/etc/secrets")
        assert values(found)["upstream.key"] == {
            "env_file": "/etc/secrets",
            "name": "OPENAI_API_KEY",
        }
        assert values(found)["proxy.key"] == {"env_file": "/etc/secrets", "name": "MINE"}
        assert not any(key.moves for key in found.keys.values())
        assert not any("MINE" in note for note in found.notes)

    def test_unless_that_file_will_be_replaced(self, tmp_path: Path) -> None:
        put(tmp_path, ENV, "OPENAI_API_KEY=sk-u\n")
        found = unit(tmp_path, "/x/optillm", f"EnvironmentFile=/{ENV}")
        assert found.keys["upstream.key"].moves

    def test_a_file_that_two_readers_read_otherwise_is_not_pointed_at(self, tmp_path: Path) -> None:
        put(tmp_path, "etc/secrets", "OPENAI_API_KEY=sk-\\u\n")
        found = unit(tmp_path, "/x/optillm", "EnvironmentFile=/etc/secrets")
        assert found.keys["upstream.key"].moves
        assert found.keys["upstream.key"].secret.reveal() == "sk-u"

    def test_what_was_meant_by_optillm_api_key(self, tmp_path: Path) -> None:
        found = unit(tmp_path, "/x/optillm", "Environment=OPTILLM_API_KEY=sk-c")
        assert found.keys["proxy.key"].secret.reveal() == "sk-c"
        assert any("OPTILLM_API_KEY makes OptiLLM run models" in note for note in found.notes)

    def test_files_and_credentials(self, tmp_path: Path) -> None:
        found = unit(
            tmp_path,
            "/x/optictl serve --optillm-api-key-file %d/proxy.key --upstream-api-key-file /k/up",
            "LoadCredential=proxy.key:/etc/mine.key",
        )
        assert values(found)["proxy.key"] == {"file": "/etc/mine.key"}
        assert values(found)["upstream.key"] == {"file": "/k/up"}


ROUTER = """
model_list:
  - {model_name: opt-x, litellm_params: {model: openai/moa-x}}
  - {model_name: router-y, litellm_params: {model: openai/y}}
  - {model_name: "*", litellm_params: {model: "openai/*"}}
  - {model_name: ours, litellm_params: {model: openai/o, api_base: os.environ/OURS}}
  - {model_name: base, litellm_params: {model: openai/b, api_base: "http://localhost:9000/v1"}}
general_settings: {master_key: os.environ/MASTER}
"""


class TestLiteLLM:
    def test_the_operator_s_own_layout(self, tmp_path: Path) -> None:
        put(tmp_path, f"{ORCH}/router.yaml", ROUTER)
        put(tmp_path, f"{ORCH}/env.local", "OURS=http://127.0.0.1:4020/v1\nMASTER=sk-m\n")
        put(tmp_path, "home/me/lab/gateway/registry/handles.jsonl", "{}\n")
        found = values(detected(tmp_path))
        place = {"env_file": f"/{ORCH}/env.local", "name": "MASTER"}
        assert found["proxy.base_model"] == "base"
        assert found["gateway.router"] == f"/{ORCH}/router.yaml"
        assert found["gateway.handles"] == "/home/me/lab/gateway/registry/handles.jsonl"
        assert found["gateway.master_key"] == found["upstream.key"] == place
        assert "gateway.restart" not in found

    def test_a_unit_says_more(self, tmp_path: Path) -> None:
        put(tmp_path, "srv/llm/c.yaml", ROUTER)
        put(tmp_path, "srv/env", "MASTER=sk-m\n")
        put(
            tmp_path,
            "etc/systemd/system/gate.service",
            "[Service]\nWorkingDirectory=/srv\nEnvironmentFile=/srv/env\n"
            "ExecStart=/usr/bin/uv run litellm --config llm/c.yaml --port=4100\n",
        )
        found = values(detected(tmp_path))
        assert found["gateway.router"] == "/srv/llm/c.yaml"
        assert found["gateway.base_url"] == found["upstream.base_url"] == "http://127.0.0.1:4100/v1"
        assert found["gateway.restart"] == ["systemctl", "restart", "gate.service"]
        assert found["gateway.master_key"] == {"env_file": "/srv/env", "name": "MASTER"}
        assert found["neighbours"][0]["url"] == "http://127.0.0.1:4100/health/liveliness"

    def test_the_one_that_is_named_comes_first(self, tmp_path: Path) -> None:
        put(tmp_path, "etc/litellm/a.yaml", "model_list: [{model_name: usual}]\n")
        put(tmp_path, "srv/b.yaml", "model_list: [{model_name: named}]\n")
        assert values(detected(tmp_path))["proxy.base_model"] == "usual"
        found = detected(tmp_path, router=Path("/srv/b.yaml"))
        assert values(found)["proxy.base_model"] == "named"

    @pytest.mark.parametrize(
        "text", ["[", "- 1\n", "model_list: 3\n", "a: !!python/x {}\n", "\x00"]
    )
    def test_a_file_that_is_none(self, tmp_path: Path, text: str) -> None:
        put(tmp_path, "etc/litellm/a.yaml", text)
        assert "proxy.base_model" not in detected(tmp_path).settings


class TestProviders:
    def test_litellm_s_is_taken_and_others_are_named(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            "home/svc/.optillm/proxy_config.yaml",
            "providers:\n"
            '  - {name: litellm, base_url: "http://127.0.0.1:4000/v1/", api_key: sk-p}\n'
            '  - {name: cloud, base_url: "https://api.openai.com/v1", api_key: sk-q}\n',
        )
        found = unit(tmp_path, "/x/optillm", "User=svc")
        assert values(found)["upstream.base_url"] == "http://127.0.0.1:4000/v1"
        assert found.keys["upstream.key"].secret.reveal() == "sk-p"
        assert [note for note in found.notes if "provider cloud is not taken over" in note]
        assert "sk-q" not in "".join(found.notes)

    def test_a_key_by_its_variable_is_where_that_is(self, tmp_path: Path) -> None:
        put(tmp_path, "etc/secrets", "UP=sk-p\n")
        put(
            tmp_path,
            "srv/p.yaml",
            'providers: [{name: l, base_url: "http://localhost:4000/v1", api_key: "${UP}"}]\n',
        )
        line = "/x/optillm --proxy-config /srv/p.yaml"
        found = unit(tmp_path, line, "EnvironmentFile=/etc/secrets")
        assert values(found)["upstream.key"] == {"env_file": "/etc/secrets", "name": "UP"}
        assert not any("UP" in note for note in found.notes)

    def test_a_key_that_stands_for_none_is_none(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            "root/.optillm/proxy_config.yaml",
            'providers: [{name: litellm, base_url: "http://127.0.0.1:4000/v1", api_key: dummy}]\n',
        )
        assert "upstream.key" not in unit(tmp_path, "/x/optillm").settings
