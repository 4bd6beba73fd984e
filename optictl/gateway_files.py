"""LiteLLM's own files: where they are, and what they say about names and keys. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from optictl.errors import CannotRead
from optictl.running import Running, names_in, read, read_service
from optictl.system import System
from optictl.takeover import Setting
from optictl.unit_file import environment_file

_PROGRAM = (("litellm",),)
_IN_ENVIRONMENT = "os.environ/"
#: Where the operator keeps LiteLLM: this folder, so deep in a home.
_FOLDER, _DEPTH = "litellm-orch", 3
_PORT = 4000


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """A LiteLLM that is installed here."""

    router: Path | None
    #: The parsed file.
    config: Mapping[str, Any]
    service: Running | None
    port: int
    #: Files that set its variables, the last one that sets a variable counts.
    env_files: tuple[Path, ...]
    variables: Mapping[str, str] = field(repr=False)
    handles: Path | None
    notes: tuple[str, ...] = ()

    def settings(self, our_port: int) -> Iterator[Setting]:
        """What a site says of it; ``our_port`` tells which of its models are ours."""
        origin = str(self.router if self.service is None else self.service.path)
        url = f"http://127.0.0.1:{self.port}"
        yield Setting("gateway.base_url", f"{url}/v1", origin)
        if self.router is not None:
            yield Setting("gateway.router", str(self.router), origin)
            name = self._base_model(our_port)
            if name is not None:
                yield Setting("proxy.base_model", name, str(self.router))
        if self.env_files:
            yield Setting("gateway.env_file", str(self.env_files[-1]), origin)
        if self.handles is not None:
            yield Setting("gateway.handles", str(self.handles), str(self.router))
        if self.service is not None:
            user = [] if self.service.system else ["--user"]
            command = ["systemctl", *user, "restart", self.service.path.name]
            yield Setting("gateway.restart", command, str(self.service.path))
        yield Setting(
            "neighbours", [{"name": "litellm", "url": f"{url}/health/liveliness"}], origin
        )

    def _base_model(self, our_port: int) -> str | None:
        """The first name that clients know, and that does not lead to us."""
        listed = self.config.get("model_list")
        for entry in listed if isinstance(listed, list) else []:
            name = entry.get("model_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or name.startswith(("opt-", "router-")) or "*" in name:
                continue
            parameters = entry.get("litellm_params")
            base = parameters.get("api_base") if isinstance(parameters, dict) else None
            if not _is_ours(self._resolved(str(base or "")), our_port):
                return name
        return None

    def _resolved(self, text: str) -> str:
        if not text.startswith(_IN_ENVIRONMENT):
            return text
        return self.variables.get(text.removeprefix(_IN_ENVIRONMENT), "")


def find_litellm(
    system: System, router: Path | None, homes: Sequence[Path], user_scope: bool
) -> LiteLLM | None:
    """The LiteLLM of ``router``, of a unit that runs one, or of its usual folders."""
    notes: list[str] = []
    service = _service(system, homes[0], user_scope, notes)
    flags = [] if service is None else (service.program(_PROGRAM) or ([], {}, ""))[0]
    if router is None and service is not None:
        router = _config_of(service, flags)
    if router is None:
        router = next(_usual(system, homes), None)
    if router is None and service is None:
        return None
    content = None if router is None else read(system, router, notes)
    config = {} if content is None or router is None else read_yaml(content, router, notes)
    files = [] if router is None else [router.with_name(name) for name in (".env", "env.local")]
    files += () if service is None else service.environment_files
    there = {each: read(system, each, notes) for each in dict.fromkeys(files)}
    variables = {} if service is None else {n: v.value for n, v in service.variables.items()}
    for each in there.values():
        variables |= environment_file(each or b"")
    return LiteLLM(
        router=router if content is not None else None,
        config=config if isinstance(config, dict) else {},
        service=service,
        port=_port(_flag(flags, "--port", "-p") or variables.get("PORT", "")),
        env_files=tuple(each for each, found in there.items() if found is not None),
        variables=variables,
        handles=_handles(system, router),
        notes=tuple(notes),
    )


def master_key(system: System, gateway: LiteLLM) -> tuple[Path, str] | None:
    """The file and the variable that hold LiteLLM's master key."""
    general = gateway.config.get("general_settings")
    said = general.get("master_key") if isinstance(general, dict) else None
    if not isinstance(said, str) or not said.startswith(_IN_ENVIRONMENT):
        return None
    name = said.removeprefix(_IN_ENVIRONMENT)
    for file in reversed(gateway.env_files):
        if name in environment_file(read(system, file, []) or b""):
            return file, name
    return None


def read_yaml(content: bytes, path: Path, notes: list[str]) -> Any:
    """A file of someone else's; None, with a note, for one that is no YAML."""
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):  # their words show what stands there
        notes.append(f"{path} is not YAML; not looked at")
        return None


def _service(system: System, home: Path, user_scope: bool, notes: list[str]) -> Running | None:
    own = home / ".config/systemd/user"
    wide = [Path("/etc/systemd/system"), Path("/usr/lib/systemd/system")]
    for folder in [own, *wide] if user_scope else [*wide, own]:
        for name in names_in(system, folder):
            path = folder / name
            if not name.endswith(".service") or b"litellm" not in (read(system, path, []) or b""):
                continue
            running = read_service(system, path, home, notes)
            if running is not None and running.program(_PROGRAM) is not None:
                return running
    return None


def _config_of(service: Running, flags: Sequence[str]) -> Path | None:
    said = _flag(flags, "--config", "-c")
    if said is None:
        return None
    folder = service.unit.last("WorkingDirectory")
    path = Path(said) if folder is None else Path(folder.value.removeprefix("-")) / said
    return path if path.is_absolute() else None


def _usual(system: System, homes: Sequence[Path]) -> Iterator[Path]:
    folder = Path("/etc/litellm")
    yield from (folder / name for name in names_in(system, folder) if name.endswith(".yaml"))
    for home in dict.fromkeys(homes):
        for at in _below(system, home, _DEPTH):
            router = at / "config/router.yaml"
            if at.name == _FOLDER and read(system, router, []) is not None:
                yield router


def _below(system: System, folder: Path, depth: int) -> Iterator[Path]:
    """The folders below one that are not hidden."""
    names = [name for name in names_in(system, folder) if not name.startswith(".")]
    inside = [folder / name for name in names if _is_folder(system, folder / name)]
    yield from inside
    if depth > 1:
        for each in inside:
            yield from _below(system, each, depth - 1)


def _is_folder(system: System, path: Path) -> bool:
    try:
        return system.is_folder(path)
    except CannotRead:
        return False


def _handles(system: System, router: Path | None) -> Path | None:
    if router is None or len(router.parents) < 3:
        return None
    path = router.parents[2] / "registry/handles.jsonl"
    return path if read(system, path, []) is not None else None


def _flag(flags: Sequence[str], *names: str) -> str | None:
    found = None
    for at, word in enumerate(flags):
        flag, equals, value = word.partition("=")
        if flag in names:
            found = value if equals else next(iter(flags[at + 1 : at + 2]), None)
    return found


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 65536 else _PORT


def _is_ours(url: str, port: int) -> bool:
    try:
        parts = urlsplit(url)
        return parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port == port
    except ValueError:
        return False
