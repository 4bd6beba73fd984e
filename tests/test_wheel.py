"""What a non-editable install gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
