"""What is on a machine already: a hand-written service, LiteLLM, their keys. Reads, writes nothing.

Only files are looked at; nothing is asked over the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from optictl.errors import CannotRead
from optictl.gateway_files import LiteLLM, find_litellm, master_key, read_yaml
from optictl.key_places import key_in
from optictl.places import Places
from optictl.running import Running, read, read_service
from optictl.site import KeyPlace
from optictl.system import System
from optictl.takeover import Setting, Taken, Variable, accepted, is_secret, take_over
from proxy.errors import ConfigError
from proxy.settings import Secret, key_from_flag

OPTILLM = (("optillm",), ("optillm.py",), ("optictl", "serve"))
#: What stands for "no key" in files that must have one.
_NO_KEYS = frozenset({"", "dummy", "none", "empty"})
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and where the site shall say that it lives."""

    setting: str
    secret: Secret
    place: KeyPlace
    origin: str
    #: Whether it must be written there, because where it is it cannot stay.
    moves: bool


@dataclass(slots=True)
class Detected:
    """Everything found, by the names of the site's settings."""

    settings: dict[str, Setting] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    #: Flags and variables that `optictl serve` does not have.
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drop_ins: list[Path] = field(default_factory=list)
    #: All that must not be shown.
    secrets: list[Secret] = field(default_factory=list, repr=False)
    #: The service's unit, where there is one.
    unit: Path | None = None

    def add(self, setting: Setting) -> None:
        """Take a setting, unless one is there or no site can hold this one."""
        if setting.name in self.settings:
            return
        try:
            self.settings[setting.name] = accepted(setting)
        except ValueError as refused:
            self.notes.append(f"{setting.origin}: not taken over: {refused}")


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, and where."""

    name: str = "optillm-proxy"
    user_scope: bool = False
    #: The home of whoever asks.
    home: Path = Path("/root")
    #: That of anybody.
    home_of: Callable[[str], Path] = lambda name: Path("/home") / name
    router: Path | None = None
    #: What was said on the command line, which comes first.
    given: Sequence[Setting] = ()


def detect(system: System, question: Question, places: Places) -> Detected:
    """Look at everything. What cannot be read is told in ``notes``."""
    found = Detected()
    for setting in question.given:
        found.add(setting)
    if question.user_scope:
        found.add(Setting("service.scope", "user", "--user"))
    service = _service(system, question, found)
    home = question.home
    taken = Taken()
    variables: Mapping[str, Variable] = {}
    if service is not None:
        if service.system:
            user = service.unit.last("User")
            home = question.home_of("root" if user is None else user.value)
        arguments, inline, origin = service.program(OPTILLM) or ([], {}, "")
        inside = {name: Variable(text, origin) for name, text in inline.items()}
        variables = {**service.variables, **inside}
        taken = take_over(arguments, origin, variables)
        _of_unit(service, origin, taken, found)
        _unit_keys(system, service, taken, variables, places, found)
        found.secrets += [
            Secret(variable.value)
            for name, variable in variables.items()
            if variable.value and is_secret(name, variable.value)
        ]
    gateway = find_litellm(system, question.router, [question.home, home], question.user_scope)
    _of_gateway(system, gateway, places, found)
    _of_providers(system, taken, home, service, places, found)
    if "upstream.key" not in found.keys and "gateway.master_key" in found.keys:
        key = found.keys["gateway.master_key"]
        found.keys["upstream.key"] = Key("upstream.key", key.secret, key.place, key.origin, False)
    kept = {key.secret.reveal() for key in found.keys.values()}
    lost = taken.lost.items()
    found.notes += [note for name, note in lost if variables[name].value not in kept]
    for key in found.keys.values():
        found.secrets.append(key.secret)
        found.add(Setting(key.setting, key.place.model_dump(exclude_none=True), key.origin))
    return found


def _service(system: System, question: Question, found: Detected) -> Running | None:
    own = question.home / ".config/systemd/user"
    wide = [Path("/etc/systemd/system"), Path("/usr/lib/systemd/system")]
    folders = [own, *wide] if question.user_scope else [*wide, own]
    for folder in folders:
        path = folder / f"{question.name}.service"
        running = read_service(system, path, question.home, found.notes)
        if running is None:
            continue
        if (folder == own) != question.user_scope:
            other = "with --user" if folder == own else "without --user"
            found.notes.append(f"{path} is of the other scope; did you mean it {other}?")
        found.unit = path
        found.drop_ins = list(running.drop_ins)
        for drop_in in running.drop_ins:
            if any(each.file == drop_in for each in running.unit.all("ExecStart")):
                found.notes.append(f"{drop_in} sets ExecStart, also for the new unit; remove it")
        if running.program(OPTILLM) is None:
            found.notes.append(f"{path} runs neither optillm nor optictl serve; not taken over")
            return None
        return running
    return None


def _of_unit(service: Running, origin: str, taken: Taken, found: Detected) -> None:
    if service.system:
        user = service.unit.last("User")
        if user is not None:
            found.add(Setting("service.user", user.value, user.origin))
        else:
            found.add(Setting("service.user", "root", f"{service.path} has no User="))
            found.notes.append(f"{service.path} runs as root; better a user of its own")
    for setting in taken.settings:
        found.add(setting)
    # What OptiLLM does without the flag is not what a site has by default.
    found.add(Setting("proxy.approach", "auto", f"{origin} gives no --approach"))
    host = found.settings.get("proxy.host")
    if host is not None and host.value in ("0.0.0.0", "::"):
        found.add(Setting("proxy.allow_external", True, f"{host.origin}: {host.value}"))
        found.notes.append(f"{host.origin}: it listens beyond this machine")
    if "proxy.port" not in found.settings:
        found.notes.append(
            f"{origin} gives no --port: OptiLLM listens on 8000 then, optictl on 4020; "
            "if clients use 8000, set proxy.port"
        )
    found.unknown += taken.unknown
    found.notes += taken.notes


def _unit_keys(
    system: System,
    service: Running,
    taken: Taken,
    variables: Mapping[str, Variable],
    places: Places,
    found: Detected,
) -> None:
    clients, upstream = places.config / "clients.key", places.config / "upstream.key"
    for setting, flag in (
        ("proxy.key", "--optillm-api-key-file"),
        ("upstream.key", "--upstream-api-key-file"),
    ):
        text, origin = taken.keys.get(flag, ("", ""))
        file = service.credential(text) if text else None
        if file is not None:
            found.add(Setting(setting, {"file": str(file)}, f"{origin} ({flag})"))
    said = taken.keys.get("--optillm-api-key")
    wrong = variables.get("OPTILLM_API_KEY")
    if "proxy.key" not in found.settings and said is not None and said[0]:
        text, origin = said
        variable = _variable_of(text, variables)
        origin = f"{origin} (--optillm-api-key)"
        _keep(
            system, "proxy.key", variable or (None, Variable(text, origin)), clients, places, found
        )
    elif "proxy.key" not in found.settings and wrong is not None and wrong.value:
        found.notes.append(
            f"{wrong.origin}: OPTILLM_API_KEY makes OptiLLM run models itself; "
            "taken for the key that clients must send"
        )
        _keep(system, "proxy.key", ("OPTILLM_API_KEY", wrong), clients, places, found)
    key = variables.get("OPENAI_API_KEY")
    if "upstream.key" not in found.settings and key is not None and key.value:
        _keep(system, "upstream.key", ("OPENAI_API_KEY", key), upstream, places, found)


def _variable_of(text: str, variables: Mapping[str, Variable]) -> tuple[str, Variable] | None:
    """The variable of a file that a word of the command line came from."""
    alike = ((name, each) for name, each in variables.items() if each.value == text and each.file)
    return next(alike, None)


def _keep(
    system: System,
    setting: str,
    given: tuple[str | None, Variable],
    target: Path,
    places: Places,
    found: Detected,
) -> None:
    """Point at a key where it is, or have it moved to ``target`` where it cannot stay."""
    name, variable = given
    try:
        secret = key_from_flag(variable.value, f"{variable.origin}: the key for {setting}")
    except ConfigError as refused:
        found.notes.append(f"{refused}; not taken over")
        return
    place = KeyPlace(file=str(target))
    stays = False
    # Ours is replaced by the one that is rendered.
    if name is not None and variable.file not in (None, places.env):
        there = _key_at(system, variable.file, name)
        if there is not None and there.reveal() == variable.value:
            place, stays = KeyPlace(env_file=str(variable.file), name=name), True
    found.keys[setting] = Key(setting, secret, place, variable.origin, not stays)


def _key_at(system: System, file: Path | None, name: str) -> Secret | None:
    """What `optictl.key_places` would read there later."""
    try:
        content = None if file is None else system.read(file)
        return None if content is None else key_in(content.content, name, str(file))
    except (CannotRead, ConfigError):
        return None


def _of_gateway(system: System, gateway: LiteLLM | None, places: Places, found: Detected) -> None:
    if gateway is None:
        return
    found.notes += gateway.notes
    for setting in gateway.settings(_ours(found)):
        found.add(setting)
    url = found.settings.get("gateway.base_url")
    if url is not None:
        found.add(Setting("upstream.base_url", url.value, url.origin))
    place = master_key(system, gateway)
    if place is not None:
        file, name = place
        secret = _key_at(system, file, name)
        if secret is not None:
            if file == places.env:
                _keep(
                    system,
                    "gateway.master_key",
                    (name, Variable(secret.reveal(), f"{file}: {name}", file)),
                    places.config / "upstream.key",
                    places,
                    found,
                )
            else:
                found.keys["gateway.master_key"] = Key(
                    "gateway.master_key",
                    secret,
                    KeyPlace(env_file=str(file), name=name),
                    str(gateway.router),
                    False,
                )


def _ours(found: Detected) -> int:
    port = found.settings.get("proxy.port")
    return 4020 if port is None else int(port.value)


def _of_providers(
    system: System,
    taken: Taken,
    home: Path,
    service: Running | None,
    places: Places,
    found: Detected,
) -> None:
    """What a proxy_config.yaml of OptiLLM's says of LiteLLM; others are named."""
    explicit = taken.keys.get("--proxy-config")
    files = [home / ".optillm/proxy_config.yaml", home / ".optillm/proxy_config.yml"]
    if explicit is not None:
        files = [Path(explicit[0].replace("~", str(home), 1))]
    variables = {} if service is None else service.variables
    for path in files:
        for provider in _providers(system, path, found):
            key = provider.get("api_key")
            if isinstance(key, str) and key.strip().lower() not in _NO_KEYS:
                found.secrets.append(Secret(key))
            url = _interpolated(str(provider.get("base_url", "")), variables).rstrip("/")
            name = str(provider.get("name", "without a name"))
            if not _is_litellm(name, url, found):
                shown = name if name.isprintable() else "another"
                found.notes.append(f"{path}: provider {shown} is not taken over: only LiteLLM is")
                continue
            found.add(Setting("upstream.base_url", url, f"{path} ({name})"))
            if not {"upstream.key"} & {*found.keys, *found.settings}:
                _provider_key(
                    system, str(provider.get("api_key") or ""), path, variables, places, found
                )
        if read(system, path, found.notes) is not None:
            return


def _providers(system: System, path: Path, found: Detected) -> list[Mapping[str, Any]]:
    content = read(system, path, found.notes)
    tree = None if content is None else read_yaml(content, path, found.notes)
    listed = tree.get("providers") if isinstance(tree, dict) else None
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _is_litellm(name: str, url: str, found: Detected) -> bool:
    known = found.settings.get("upstream.base_url")
    there = "http://127.0.0.1:4000/v1" if known is None else str(known.value)
    if url.startswith(("http://", "https://")) and name == "litellm" and known is None:
        return True
    return _host(url) == _host(there)


def _host(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return ("127.0.0.1" if host in ("localhost", "::1") else host, parts.port)
    except ValueError:
        return ("", None)


def _interpolated(text: str, variables: Mapping[str, Variable]) -> str:
    """``${VAR}`` and ``${VAR:-else}`` replaced, as far as they are known."""

    def value(at: re.Match[str]) -> str:
        variable = variables.get(at[1])
        return variable.value if variable is not None and variable.value else at[2] or ""

    return _REFERENCE.sub(value, text)


def _provider_key(
    system: System,
    text: str,
    path: Path,
    variables: Mapping[str, Variable],
    places: Places,
    found: Detected,
) -> None:
    target = places.config / "upstream.key"
    reference = _REFERENCE.fullmatch(text)
    if reference is not None and reference[1] in variables:
        given = (reference[1], variables[reference[1]])
        _keep(system, "upstream.key", given, target, places, found)
        return
    text = _interpolated(text, variables)
    if text.strip().lower() not in _NO_KEYS:
        given_here = (None, Variable(text, f"{path}: api_key"))
        _keep(system, "upstream.key", given_here, target, places, found)
