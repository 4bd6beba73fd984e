"""Writes ``optictl.yaml``: every setting with a line on what it is, those found filled in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from optictl.desired import home_of_user
from optictl.detect import Detected, Key, Question, detect
from optictl.errors import HandEdited, UsageError
from optictl.places import Places
from optictl.site import Site
from optictl.system import RealSystem, System
from optictl.takeover import Setting, accepted
from proxy.errors import ConfigError
from proxy.strict import Interpolated

#: Wide enough for any value to stay in its line.
_WIDE = 1_000_000


def look(
    system: System,
    *,
    user: bool,
    sets: Sequence[str] = (),
    base_model: str | None = None,
    router: Path | None = None,
) -> tuple[Detected, Places]:
    """What is on the machine, and where the files of its site belong.

    Raises `UsageError` for a setting of the command line that no site can hold.
    """
    pairs = [("--set", *text.partition("=")) for text in sets]
    if base_model is not None:
        pairs.append(("--base-model", "proxy.base_model", "=", base_model))
    given = [_given(*pair) for pair in pairs]
    name = next((each.value for each in given if each.name == "service.name"), "optillm-proxy")
    service = {"name": name, "scope": "user" if user else "system"}
    site = Site.model_validate({"service": service, "proxy": {"base_model": "x"}})
    places = Places.of(site, home=Path.home())
    question = Question(
        name=name,
        user_scope=user,
        home=Path.home(),
        home_of=home_of_user,
        router=None if router is None else router.absolute(),
        given=given,
    )
    return detect(system, question, places), places


def _given(flag: str, name: str, equals: str, text: str) -> Setting:
    if not equals:
        raise UsageError(f"--set {name}: write it as KEY=VALUE, such as proxy.port=4021")
    try:
        return accepted(Setting(name, Interpolated(text), flag))
    except ValueError as refused:
        raise UsageError(f"{flag} {name}: {refused}") from None


def write_site(
    system: System, path: Path, found: Detected, places: Places, *, force: bool
) -> list[Path]:
    """The keys that move, then the site at ``path`` of this machine, also for a staging tree.

    Returns the files of the keys that are new.
    Raises `HandEdited` for a site that is there, and `UsageError` where no base model is known.
    """
    if not path.is_absolute():
        raise ConfigError(f"{path}: give an absolute path, so that it means the same everywhere")
    if "proxy.base_model" not in found.settings:
        raise UsageError(
            "no base model was found: say which model of LiteLLM's is called: "
            "optictl init --base-model NAME"
        )
    disk = RealSystem()
    if not force and disk.read(path) is not None:
        raise HandEdited(
            f"{path} is there already; look at it with optictl config show, "
            "or write it anew with --force"
        )
    text = site_text(found, places)
    moved = move(system, found.keys.values(), places)
    disk.make_folder(path.parent)
    disk.write(path, text.encode(), 0o644)
    return moved


def move(system: System, keys: Iterable[Key], places: Places) -> list[Path]:
    """Write the secrets that cannot stay where they are. Returns the files that are new.

    Raises `HandEdited` where a file holds another key.
    """
    files = {Path(key.place.file): key for key in keys if key.moves and key.place.file}
    owner = "root" if places.units.is_relative_to("/etc") else None
    new = []
    for path, key in files.items():
        content = f"{key.secret.reveal()}\n".encode()
        there = system.read(path)
        if there is None:
            new.append(path)
        elif there.content.strip() != content.strip():
            raise HandEdited(f"{path} holds another key than {key.origin}; move it away")
    for path in new:
        system.make_folder(path.parent)
        content = f"{files[path].secret.reveal()}\n".encode()
        system.write(path, content, 0o600, owner, owner)
    return new


def site_text(found: Detected, places: Places) -> str:
    """The file's text; ``proxy.base_model`` is among what was found."""
    least = {"proxy": {"base_model": "x"}, "gateway": {}}
    defaults = Site.model_validate(least).model_dump(mode="json")

    def put(name: str, example: Any = None) -> str:
        *sections, key = name.split(".")
        setting = found.settings.get(name)
        if setting is not None:
            return f"{key}: {_flow(setting.value)}  # from {_printable(setting.origin)}"
        default = defaults
        for section in sections:
            default = default[section]
        return f"# {key}: {_flow(example or default[key])}"

    environment = Environment(
        loader=PackageLoader("optictl"),
        undefined=StrictUndefined,
        autoescape=False,  # YAML, no HTML
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("optictl.yaml.j2").render(
        put=put,
        unknown=found.unknown,
        places={"config": str(places.config), "service": places.service.name},
    )


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=_WIDE, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
