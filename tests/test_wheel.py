"""What a non-editable install gets."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
#: Bytes on disk of an install without extras, beyond pip and setuptools.
LIMIT = 85_000_000
#: Bytecode that pip writes beside a module, at most, for each byte of it.
BYTECODE = 1.2


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    files = [path for name in ("optictl", "proxy") for path in (ROOT / name).rglob("*.*")]
    ours = [path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts]
    assert len(ours) > 50
    assert [path for path in ours if not (installed / path).exists()] == []


def test_the_commands_run_from_it(installed: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "import optictl.cli, proxy; assert proxy.__file__.startswith(sys.path[0]);"
        "optictl.cli.main()"
    )
    command = [sys.executable, "-P", "-c", code, str(installed), "approaches", "moa"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=installed)
    assert "arXiv:2406.04692" in shown.stdout


def test_an_install_without_extras_is_small_and_has_no_torch(installed: Path) -> None:
    packages: set[str] = set()
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        collect(Requirement(line), packages)
    assert {"aiohttp", "multidict", "pydantic-core"} <= packages
    assert not packages & {"torch", "transformers", "numpy", "sympy"}
    files = [file for file in installed.rglob("*") if file.is_file()]
    for name in packages:
        files += [Path(str(file.locate())) for file in distribution(name).files or ()]
    assert sum(map(on_disk, files)) < LIMIT


def collect(requirement: Requirement, into: set[str]) -> None:
    """What an install of ``requirement`` brings along, itself among it."""
    name = canonicalize_name(requirement.name)
    if name in into:
        return
    into.add(name)
    extras = ["", *requirement.extras]
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            collect(needed, into)


def on_disk(file: Path) -> float:
    """Bytes, with those of its bytecode, which pip writes and others leave to the first import."""
    if file.suffix == ".pyc" or not file.exists():
        return 0
    size = -(-file.stat().st_size // 4096) * 4096
    return size * (1 + BYTECODE) if file.suffix == ".py" else size
