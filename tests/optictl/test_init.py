"""``optictl init``: a site that loads, whatever was found, and holds no secret."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from optictl.cli import build
from optictl.detect import Detected
from optictl.places import Places
from optictl.site import SECTIONS, Site, settings_of
from optictl.site_file import look, site_text
from optictl.site_loading import load
from optictl.system import RealSystem
from optictl.takeover import Setting, accepted

UNIT = "etc/systemd/system/optillm-proxy.service"
SITE = "etc/optillm-proxy/optictl.yaml"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")


def init(root: Path, *arguments: str) -> Any:
    return CliRunner().invoke(build(), ["init", "--root", str(root), *arguments])


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def names() -> set[str]:
    """Every setting of a site but those inside of lists."""
    sections = {".".join(section) for section in SECTIONS}
    keys = {
        ".".join((*section, key))
        for section, model in SECTIONS.items()
        if "*" not in section and section[-1:] not in (("key",), ("master_key",))
        for key in model.model_fields
    }
    places = {"proxy.key", "upstream.key", "gateway.master_key"}
    return (keys - sections) | places


class TestFile:
    def test_it_loads_and_its_folder_is_made(self, tmp_path: Path) -> None:
        ran = init(tmp_path, "--base-model", "qwen3")
        assert ran.exit_code == 0
        assert ran.stdout == f"wrote {tmp_path / SITE}\n"
        assert load(tmp_path / SITE, {}).site.proxy.base_model == "qwen3"
        assert (tmp_path / SITE).stat().st_mode & 0o777 == 0o644

    def test_every_setting_is_there_with_a_line_above_it(self, tmp_path: Path) -> None:
        init(tmp_path, "--base-model", "qwen3")
        lines = (tmp_path / SITE).read_text().splitlines()
        found, section = set(), ""
        for above, line in pairwise(lines):
            at = re.fullmatch(r"( *)(?:# )?([a-z_]+):(?: .*)?", line)
            if at is None:
                continue
            if not at[1] and not line.startswith("#") and line.endswith(":"):
                section = f"{at[2]}."
            elif not at[1]:
                found.add(at[2])
            else:
                found.add(section + at[2])
                assert above.strip().startswith("# "), line
        assert found == names()

    def test_what_is_commented_out_is_the_default(self, tmp_path: Path) -> None:
        init(tmp_path, "--base-model", "qwen3")
        text = (tmp_path / SITE).read_text()
        site = load(tmp_path / SITE, {}).site
        assert site == Site.model_validate({"proxy": {"base_model": "qwen3"}})
        # Each of them may be uncommented.
        put(tmp_path, "all.yaml", re.sub(r"(?m)^( *)# ([a-z_]+: )", r"\1\2", text))
        said = dict(settings_of(load(tmp_path / "all.yaml", {}).site))
        assert said["proxy.port"] == 4020
        assert said["gateway.mode"] == "block"

    def test_one_that_is_there_stays_unless_forced(self, tmp_path: Path) -> None:
        put(tmp_path, SITE, "mine\n")
        refused = init(tmp_path, "--base-model", "q")
        assert refused.exit_code == 13
        assert str(tmp_path / SITE) in refused.stderr
        assert (tmp_path / SITE).read_text() == "mine\n"
        assert init(tmp_path, "--base-model", "q", "--force").exit_code == 0
        assert load(tmp_path / SITE, {}).site.proxy.base_model == "q"

    def test_without_a_base_model_the_flag_is_named(self, tmp_path: Path) -> None:
        refused = init(tmp_path, "--json")
        assert refused.exit_code == 2
        assert "--base-model NAME" in json.loads(refused.stdout)["errors"][0]["message"]
        assert not (tmp_path / SITE).exists()

    def test_settings_of_the_command_line(self, tmp_path: Path) -> None:
        sets = ["--set", "service.name=opti", "--set", "proxy.port=4021", "--base-model", "7"]
        put(tmp_path, "etc/systemd/system/opti.service", "[Service]\nExecStart=/x/optillm --n 2\n")
        assert init(tmp_path, *sets).exit_code == 0
        site = load(tmp_path / SITE, {}).site
        assert (site.service.name, site.proxy.port, site.proxy.base_model) == ("opti", 4021, "7")
        assert site.proxy.flags == ("--n", "2")

    @pytest.mark.parametrize("given", ["proxy.prot=1", "proxy.port=x", "proxy.port", "a.b.c=1"])
    def test_a_setting_that_is_none(self, tmp_path: Path, given: str) -> None:
        refused = init(tmp_path, "--base-model", "q", "--set", given)
        assert refused.exit_code == 2
        assert given.partition("=")[0] in refused.stderr

    def test_the_user_s_own(self, tmp_path: Path) -> None:
        assert init(tmp_path, "--user", "--base-model", "q").exit_code == 0
        path = tmp_path / "home/me/.config/optillm-proxy/optictl.yaml"
        assert load(path, {}).site.service.scope == "user"


class TestSecrets:
    def test_none_is_written_into_the_site_or_shown(self, tmp_path: Path) -> None:
        put(
            tmp_path,
            UNIT,
            "[Service]\nEnvironment=OPENAI_API_KEY=sk-up HF_TOKEN=hf_x\n"
            "ExecStart=/x/optillm --model q --optillm-api-key sk-clients\n",
        )
        for arguments in ((), ("--json", "--force")):
            ran = init(tmp_path, *arguments)
            assert ran.exit_code == 0
            text = ran.output + (tmp_path / SITE).read_text()
            assert not any(secret in text for secret in ("sk-up", "hf_x", "sk-clients"))
        for name, secret in (("clients", "sk-clients"), ("upstream", "sk-up")):
            file = tmp_path / f"etc/optillm-proxy/{name}.key"
            assert file.read_text() == f"{secret}\n"
            assert file.stat().st_mode & 0o777 == 0o600

    def test_another_key_is_not_overwritten(self, tmp_path: Path) -> None:
        put(tmp_path, "etc/optillm-proxy/clients.key", "other\n")
        put(tmp_path, UNIT, "[Service]\nExecStart=/x/optillm --model q --optillm-api-key sk-c\n")
        refused = init(tmp_path)
        assert refused.exit_code == 13
        assert "clients.key holds another key" in refused.stderr
        assert (tmp_path / "etc/optillm-proxy/clients.key").read_text() == "other\n"
        assert not (tmp_path / SITE).exists()


text = st.text(min_size=1, max_size=12)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "service.name": text,
    "service.user": text,
    "service.environment": st.dictionaries(st.sampled_from(["A", "B_1"]), text, max_size=2),
    "proxy.host": text,
    "proxy.port": st.integers(-1, 70_000),
    "proxy.approach": text,
    "proxy.flags": st.lists(text, max_size=3),
    "proxy.key": st.builds(lambda name: {"file": f"/{name}"}, text),
    "proxy.request_timeout": st.floats(),
    "upstream.base_url": st.builds(lambda name: f"http://{name}", text),
    "upstream.key": st.builds(lambda name: {"env_file": "/e", "name": name}, text),
    "gateway.router": st.builds(lambda name: f"/{name}", text),
    "gateway.restart": st.lists(text, max_size=3),
    "neighbours": st.builds(lambda name: [{"name": name, "url": "http://x"}], text),
}


@given(st.fixed_dictionaries({}, optional=SETTINGS), text, text, st.lists(text, max_size=2))
def test_whatever_was_found_loads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    values: dict[str, Any],
    model: str,
    origin: str,
    unknown: list[str],
) -> None:
    found = Detected(unknown=[line for line in unknown if line.isprintable()])
    for name, value in {**values, "proxy.base_model": model}.items():
        found.add(Setting(name, value, origin))
    found.settings.setdefault("proxy.base_model", Setting("proxy.base_model", "q", origin))
    path = tmp_path_factory.getbasetemp() / "found.yaml"
    places = Places.of(Site.model_validate({"proxy": {"base_model": "q"}}), home=Path("/root"))
    path.write_text(site_text(found, places), encoding="utf-8")
    site = load(path, {}).site
    for name, setting in found.settings.items():
        dumped: Any = site.model_dump(mode="json", exclude_none=True)
        for step in name.split("."):
            dumped = dumped[step]
        assert dumped == setting.value == accepted(setting).value


WORDS = st.sampled_from(
    [
        *("--host", "--port", "--port=", "--model", "--model=é ü", "--approach", "--base_url"),
        *("--optillm-api-key", "--optillm_api_key=sk-SECRET", "--best-of-n", "--launch-gui"),
        *("--log", "--no-ssl-verify", "--task-pattern", "--mcts-depth", "--proxy-config", "/no"),
        *("127.0.0.1", "4021", "q", "'a b'", "''", "sk-SECRET", "$OPTS", "${OPTS}", "%h", "%", ";"),
        *(
            "http://127.0.0.1:4000/v1",
            "http://u:sk-SECRET@h/",
            "\\",
            "\\\n",
            "\r",
            '"',
            "-1",
            "\x7f",
        ),
    ]
)
LINES = st.sampled_from(
    [
        *("User=me", "User=", "User=Ä", "Environment=OPTILLM_PORT=x OPTILLM_HOST=h", "ExecStart="),
        *("Environment=OPENAI_API_KEY=sk-SECRET", "Environment='OPTS=--port 5 --n 2'", "\x00=\xff"),
        *("EnvironmentFile=/etc/optillm-proxy/env", "EnvironmentFile=rel", "[Service", "[Unit]"),
        *("Environment=A=sk-SECRET B=1 'C=a b' D=\\n", "LoadCredential=x:/y", "WorkingDirectory=~"),
    ]
)


@given(st.lists(WORDS, max_size=8), st.lists(LINES, max_size=5), st.booleans())
def test_whatever_a_unit_says_the_site_loads_and_holds_no_secret(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], lines: list[str], crlf: bool
) -> None:
    root = tmp_path_factory.mktemp("root")
    start = f"ExecStart=/x/optillm {' '.join(words)}"
    unit = "\n".join(["[Service]", *lines, "[Service]", start, ""])
    put(root, UNIT, "")
    (root / UNIT).write_bytes((unit.replace("\n", "\r\n") if crlf else unit).encode())
    put(root, "etc/optillm-proxy/env", "OPTILLM_API_KEY=sk-SECRET\nE='sk-SECRET\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/home/me")
        found, places = look(RealSystem(root), user=False)
    found.settings.setdefault("proxy.base_model", Setting("proxy.base_model", "q", "here"))
    text = site_text(found, places)
    put(root, "site.yaml", text)
    load(root / "site.yaml", {})
    assert "sk-SECRET" not in text + "".join(found.notes)
