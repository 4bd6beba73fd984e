"""``optictl upgrade``, with real virtual environments, wheels and pip, on a real systemd."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from lab import Lab, lab

__all__ = ["lab"]  # a fixture, used by name

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
HOME = "/srv/optictl"
SERVICE = "optillm-proxy.service"
PYTHON = Path(sys.executable).resolve()
#: Dependencies come from outside the environments, so that no index is needed.
OFFLINE = ("env", "PIP_NO_INDEX=1", "PIP_NO_DEPS=1", "PIP_ROOT_USER_ACTION=ignore")
BROKEN = 'raise SystemExit("this version cannot serve")\n'


def wheel(folder: Path, version: str, *, broken: bool = False) -> Path:
    """A wheel of this tree under another version; a broken one does not serve."""
    tree = folder / version
    tree.mkdir(parents=True)
    for name in ("optictl", "proxy"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    project = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(
        project.replace('version = "0.1.0"', f'version = "{version}"')
    )
    (tree / "optictl/__init__.py").write_text(f'"""optictl."""\n\n__version__ = "{version}"\n')
    if broken:
        server = tree / "proxy/server.py"
        server.write_text(
            server.read_text().replace("    _raise_descriptor_limit()\n", f"    {BROKEN}", 1)
        )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (built,) = folder.glob(f"optictl-{version}-*.whl")
    return built


@pytest.fixture(scope="module")
def machine(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """optictl 1.0 in an environment of its own, installed as a service; newer wheels at hand."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels = [wheel(folder, "1.0"), wheel(folder, "2.0"), wheel(folder, "3.0", broken=True)]
    lab.run("useradd", "--create-home", "optillm")
    lab.run("mkdir", "-p", "/srv/wheels", HOME, "/etc/optillm-proxy", "/opt/dependencies")
    for each in wheels:
        lab.push(each, "/srv/wheels/")
    share = "for each in /opt/optictl/*; do case $each in */optictl|*/proxy) ;; *) ln -s $each /opt/dependencies/;; esac; done"  # noqa: E501
    lab.run("sh", "-c", share)
    script = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = lab.run(str(PYTHON), "-c", script)
    lab.run("rm", "-f", f"{library}/sitecustomize.py")
    share = "import sys; sys.path.append('/opt/dependencies')\n"
    lab.write(f"{library}/sitecustomize.py", share)
    made = lab.script(
        "run", str(PYTHON), "-m", "venv", f"{HOME}/first"
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    pip = (f"{HOME}/first/bin/python", "-m", "pip", "install", "--quiet")
    lab.run(*OFFLINE, *pip, f"/srv/wheels/{wheels[0].name}")
    lab.run(
        "systemd-run", "--quiet", "--unit=litellm", "/usr/local/bin/optictl", "simulate",
        "--port", "4000", "--latency", "0",
    )  # fmt: skip
    site = "service: {user: optillm}\nproxy: {base_model: sim, warmup_timeout: 20}\n"
    lab.write("/etc/optillm-proxy/optictl.yaml", site)
    done = lab.script("run", f"{HOME}/first/bin/optictl", "install", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


def upgrade(lab: Lab, program: str, version: str) -> subprocess.CompletedProcess[str]:
    (name,) = lab.run("sh", "-c", f"ls /srv/wheels/optictl-{version}-*").splitlines()
    command = (f"{HOME}/{program}/bin/optictl", "upgrade", "--yes", "--json", name)
    return lab.script("run", *OFFLINE, *command)


def served_by(lab: Lab) -> str:
    """The version that answers."""
    ready = lab.run("curl", "--silent", "http://127.0.0.1:4020/health/ready")
    return str(json.loads(ready)["version"])


def test_the_dependencies_are_where_this_test_expects_them() -> None:
    assert Path(sysconfig.get_path("purelib"), "flask").is_dir()


def test_a_new_version_a_broken_one_and_the_same_again(machine: Lab) -> None:
    """In one test, since each begins where the one before has ended."""
    assert served_by(machine) == "1.0"

    done = upgrade(machine, "first", "2.0")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["data"]
    assert (found["old"], found["new"]) == ("1.0", "2.0")
    assert served_by(machine) == "2.0"
    assert f"{HOME}/optictl-current/bin/optictl serve" in machine.show(SERVICE, "ExecStart")
    assert machine.run("readlink", f"{HOME}/optictl-current") == "optictl-1"

    # Its settings load, it is switched to, and it does not come up.
    broken = upgrade(machine, "optictl-current", "3.0")
    assert broken.returncode == 14, broken.stdout + broken.stderr
    [error] = json.loads(broken.stdout)["errors"]
    assert error["code"] == "rolled_back"
    assert "this version cannot serve" in error["message"]
    assert "optictl 2.0 serves again" in error["message"]
    assert served_by(machine) == "2.0"
    assert machine.run("readlink", f"{HOME}/optictl-current") == "optictl-1"
    assert machine.run("ls", HOME).split() == ["first", "optictl-1", "optictl-current"]
    assert machine.show(SERVICE, "ActiveState") == "active"

    same = upgrade(machine, "optictl-current", "2.0")
    assert same.returncode == 0
    assert json.loads(same.stdout)["data"]["already"]
    assert machine.run("ls", HOME).split() == ["first", "optictl-1", "optictl-current"]


def test_a_version_that_is_none_changes_nothing(machine: Lab) -> None:
    before = machine.run("ls", HOME)
    failed = machine.script(
        "run", *OFFLINE, f"{HOME}/optictl-current/bin/optictl", "upgrade", "--yes", "nothing==9"
    )
    assert failed.returncode == 1
    assert "nothing was changed" in failed.stderr
    assert machine.run("ls", HOME) == before
    assert machine.show(SERVICE, "ActiveState") == "active"


def test_outside_an_environment_of_its_own_it_is_refused(machine: Lab) -> None:
    refused = machine.script("run", "/usr/local/bin/optictl", "upgrade", "--yes")
    assert refused.returncode == 1
    assert "no virtual environment of its own" in refused.stderr
