"""The rules of the house that a machine can hold (docs/decisions, DESIGN §2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("proxy/**/*.py"), *ROOT.glob("optictl/**/*.py")])
HEAVY = {"sympy", "z3", "trafilatura", "torch", "transformers"}


@cache
def imports(path: Path) -> set[str]:
    """All modules that ``path`` imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


def top_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


def below(*folders: str) -> list[Path]:
    return [p for p in MODULES if any(p.is_relative_to(ROOT / folder) for folder in folders)]


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("path", below("proxy"), ids=str)
def test_the_data_plane_never_imports_the_control_plane(path: Path) -> None:
    assert "optictl" not in roots(imports(path))


@pytest.mark.parametrize("path", below("proxy/approaches", "proxy/transforms"), ids=str)
def test_approaches_hold_nothing_but_chat_llm_and_what_is_made_of_them(path: Path) -> None:
    ours = {"proxy.chat", "proxy.llm", "proxy.answers", "proxy.voting"}
    ours |= {"proxy.classes", "proxy.drawing", "proxy.refining", "proxy.selection"}
    ours |= {"proxy.best_of", "proxy.confidence", "proxy.examples", "proxy.spares"}
    used = {m for m in imports(path) if not m.startswith(("proxy.router.", "proxy.search."))}
    foreign = {
        m for m in used if m.partition(".")[0] not in sys.stdlib_module_names and m not in ours
    }
    assert not foreign
    assert "asyncio" not in roots(used)


@pytest.mark.parametrize("path", below("proxy/run"), ids=str)
def test_the_engine_never_sees_flask(path: Path) -> None:
    assert not roots(imports(path)) & {"flask", "werkzeug", "gunicorn"}


@pytest.mark.parametrize("path", below("proxy"), ids=str)
def test_only_the_edge_and_what_writes_files_beside_it_know_threads(path: Path) -> None:
    if "threading" in imports(path):
        assert path.parent in (ROOT / "proxy/edge", ROOT / "proxy/telemetry")


@pytest.mark.parametrize("path", below("proxy"), ids=str)
def test_only_the_upstream_client_knows_aiohttp(path: Path) -> None:
    if "aiohttp" in roots(imports(path)):
        assert path == ROOT / "proxy/upstream/client.py"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert not roots(top_level_imports(path)) & HEAVY


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_fits_into_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform/__init__.py").exists()


def test_serving_imports_neither_torch_nor_transformers_nor_sympy() -> None:
    code = (
        "import sys, proxy.server, proxy.registry, optictl.commands.serve\n"
        "proxy.registry.discover()\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_building_the_app_starts_no_thread() -> None:
    code = (
        "import threading\n"
        "from proxy.app import create_app\n"
        "from proxy.settings import Settings\n"
        "create_app(Settings(base_url='http://127.0.0.1:1/v1'))\n"
        "print(threading.active_count())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "1"
