"""The checks of settings, files and keys."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from boxes import PID, SERVICE, SOCKET, MakeBox, disk, found, install, make_box

from optictl.errors import CannotRead
from optictl.fake_system import FakeSystem
from optictl.system import Found

__all__ = ["make_box"]  # a fixture, used by name

ENV = Path("/etc/optillm-proxy/env")
UNIT = Path("/etc/systemd/system/optillm-proxy.service")
DROP_IN = Path("/etc/systemd/system/optillm-proxy.service.d/mine.conf")
KEY = "sk-never-shown"


class Locked(FakeSystem):
    """A disk of which an ordinary user may not read the env file."""

    def read(self, path: Path) -> Found | None:
        if path == ENV:
            try:
                raise PermissionError
            except PermissionError as error:
                raise CannotRead(f"cannot read {path}: Permission denied") from error
        return FakeSystem.read(self, path)


class TestSettings:
    def test_a_site_of_which_all_can_be_rendered(self, make_box: MakeBox) -> None:
        finding = found("settings", make_box())
        assert finding.status == "ok"
        assert "5 files" in finding.saw

    def test_a_key_that_is_not_there(self, make_box: MakeBox, tmp_path: Path) -> None:
        missing = tmp_path / "missing.key"
        box = make_box(f"proxy: {{base_model: sim}}\nupstream: {{key: {{file: {missing}}}}}")
        finding = found("settings", box)
        assert finding.status == "fail"
        assert str(missing) in finding.saw

    def test_a_providers_file_that_the_service_would_refuse(self, make_box: MakeBox) -> None:
        """Two slashes and no host: the site takes it, the service does not."""
        box = make_box('proxy: {base_model: sim}\nupstream: {base_url: "http:///v1"}')
        finding = found("settings", box)
        assert finding.status == "fail"
        assert "proxy_config.yaml:" in finding.saw


class TestDrift:
    def test_as_declared(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box)
        assert found("drift", box).status == "ok"

    def test_not_installed(self, make_box: MakeBox) -> None:
        finding = found("drift", make_box())
        assert finding.status == "fail"
        assert finding.saw == "none of the site's 5 files is there"
        assert finding.fix.startswith("optictl install --config /")

    def test_a_missing_file_is_named(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box)
        disk(box).remove(ENV)
        finding = found("drift", box)
        assert finding.saw == f"not as declared: {ENV}"
        assert finding.fix.startswith("optictl install")

    def test_and_can_be_written_again(self, make_box: MakeBox) -> None:
        box = make_box("service: {user: root}\nproxy: {base_model: sim}\n")
        install(box)
        disk(box).remove(ENV)
        repair = found("drift", box).repair
        assert repair is not None
        assert str(ENV) in repair()
        assert found("drift", box.anew()).status == "ok"

    def test_what_others_have_written_is_to_be_looked_at(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box).put(UNIT, b"[Service]\nExecStart=/usr/bin/other\n")
        finding = found("drift", box)
        assert finding.saw == f"written by someone else: {UNIT}"
        assert finding.fix.startswith("optictl plan")

    def test_it_says_nothing_where_nothing_can_be_rendered(self, make_box: MakeBox) -> None:
        box = make_box("proxy: {base_model: sim}\nupstream: {key: {file: /no/such.key}}")
        assert found("drift", box).status == "skipped"

    def test_what_only_root_may_read_is_no_failure(self, make_box: MakeBox) -> None:
        box = make_box()
        box.machine.system = Locked(files=install(box).files)
        finding = found("drift", box)
        assert finding.status == "skipped"
        assert "Permission denied" in finding.saw


class TestSecrets:
    @pytest.fixture
    def key_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "clients.key"
        path.write_text(KEY)
        path.chmod(0o600)
        return path

    @pytest.fixture
    def site(self, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        # In user scope our own files lie here, and belong to who runs this.
        monkeypatch.setenv("HOME", str(key_file.parent))
        return (
            f"service: {{scope: user}}\nproxy: {{base_model: sim, key: {{file: {key_file}}}}}\n"
            f"upstream: {{key: {{env_file: {key_file.parent}/litellm.env, name: KEY}}}}"
        )

    def test_a_key_that_only_its_owner_reads(self, make_box: MakeBox, site: str) -> None:
        finding = found("secrets", make_box(site))
        assert (finding.status, finding.saw) == ("ok", "1 file with keys, closed to others")

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_one_that_others_read_and_the_repair(
        self, make_box: MakeBox, site: str, key_file: Path, mode: int
    ) -> None:
        key_file.chmod(mode)
        box = make_box(site)
        finding = found("secrets", box)
        assert finding.status == "fail"
        assert finding.fix == f"chmod 0600 {key_file}"
        assert KEY not in finding.saw
        finding.repair()
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert found("secrets", box.anew()).status == "ok"

    def test_a_file_shared_with_a_group_only_others_may_not_read(
        self, make_box: MakeBox, site: str, tmp_path: Path
    ) -> None:
        shared = tmp_path / "litellm.env"
        shared.write_text(f"KEY={KEY}\n")
        shared.chmod(0o640)
        assert found("secrets", make_box(site)).status == "ok"
        shared.chmod(0o644)
        finding = found("secrets", make_box(site))
        assert (finding.status, finding.fix) == ("fail", f"chmod 0640 {shared}")

    def test_our_own_files_too(self, make_box: MakeBox, site: str, tmp_path: Path) -> None:
        env = tmp_path / ".config/optillm-proxy/env"
        env.parent.mkdir(parents=True)
        env.write_text("")
        env.chmod(0o640)
        assert str(env) in found("secrets", make_box(site)).saw

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_a_stranger_owns_it(self, make_box: MakeBox, site: str, key_file: Path) -> None:
        os.chown(key_file, 12345, 12345)
        finding = found("secrets", make_box(site))
        assert (finding.status, finding.fix) == ("fail", f"chown root {key_file}")

    def test_a_staging_tree_has_no_owners(self, make_box: MakeBox, site: str) -> None:
        assert found("secrets", make_box(site, manager=None)).status == "skipped"


class TestEnvironment:
    def test_nowhere(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box)
        assert found("environment", box).status == "ok"

    @pytest.mark.parametrize(
        "line",
        [
            f"Environment=OPTILLM_API_KEY={KEY}",
            f'Environment="OPTILLM_API_KEY={KEY}"',
            f"Environment=A=1 OPTILLM_API_KEY={KEY}",
            "PassEnvironment=OPTILLM_API_KEY",
        ],
    )
    def test_a_drop_in_sets_it(self, make_box: MakeBox, line: str) -> None:
        box = make_box(units=(replace(SERVICE, drop_ins=(DROP_IN,)), SOCKET))
        install(box).put(DROP_IN, f"[Service]\n{line}\n".encode())
        finding = found("environment", box)
        assert finding.status == "fail"
        assert f"{DROP_IN}:2" in finding.saw
        assert KEY not in finding.saw + finding.fix

    def test_a_comment_does_not(self, make_box: MakeBox) -> None:
        box = make_box(units=(replace(SERVICE, drop_ins=(DROP_IN,)), SOCKET))
        install(box).put(DROP_IN, b"[Service]\n# Environment=OPTILLM_API_KEY=1\n")
        assert found("environment", box).status == "ok"

    def test_a_file_of_variables_that_a_drop_in_names(self, make_box: MakeBox) -> None:
        other = Path("/etc/other env")
        box = make_box(units=(replace(SERVICE, drop_ins=(DROP_IN,)), SOCKET))
        system = install(box)
        system.put(DROP_IN, f"[Service]\nEnvironmentFile=-{other}\n".encode())
        assert found("environment", box).status == "ok"
        system.put(other, f"OPTILLM_API_KEY={KEY}\n".encode())
        assert f"{other}:1" in found("environment", box).saw

    def test_another_variable_of_a_longer_name_is_none(self, make_box: MakeBox) -> None:
        box = make_box()
        install(box).put(ENV, b"MY_OPTILLM_API_KEY=1\nOPTILLM_API_KEY_FILE=/x\n")
        assert found("environment", box).status == "ok"

    def test_the_process_has_it(self, make_box: MakeBox, tmp_path: Path) -> None:
        process = tmp_path / "proc" / str(PID)
        process.mkdir(parents=True)
        (process / "environ").write_bytes(f"A=1\0OPTILLM_API_KEY={KEY}\0".encode())
        finding = found("environment", make_box())
        assert finding.saw == f"OPTILLM_API_KEY is set in process {PID}"

    def test_this_shell_has_it(self, make_box: MakeBox) -> None:
        finding = found("environment", make_box(environ={"OPTILLM_API_KEY": KEY}))
        assert (finding.status, finding.fix) == ("warn", "unset OPTILLM_API_KEY")
