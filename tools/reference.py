"""`make docs`: the reference pages, from what the program itself says of its commands and settings.

`tests/test_reference.py` holds the committed pages to it.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from typer.main import get_command

from optictl.approaches import approach_rows
from optictl.checking import discover
from optictl.cli import build
from optictl.ensemble_cost import cost
from optictl.ensemble_listing import Listed
from optictl.ensemble_registry import OPEN, SHIPPED
from optictl.errors import OptictlError
from optictl.exit_status import Exit
from optictl.places import Places
from optictl.render import Facts, reached_at, render
from optictl.site import SECTIONS, KeyPlace, json_schema
from optictl.site_loading import load
from proxy.ensembles import ROLES, Role
from proxy.ensembles_file import load as load_ensembles
from proxy.registry import Registry
from proxy.registry import discover as discover_approaches
from proxy.settings import Secret

ROOT = Path(__file__).parent.parent
REFERENCE_SITE = ROOT / "tests/optictl/reference_site.yaml"
_WRITTEN = "<!-- Written by `make docs`: do not edit. -->\n\n"
_COMMANDS = """\
# Commands

Every command has `-h`. What it ends with is in [exit-codes.md](exit-codes.md), what it answers to
`--json` in [json.md](json.md).
"""
_SETTINGS = """\
# Settings

What may stand in `optictl.yaml`; `optictl config schema` prints it as a JSON schema.
`--set proxy.port=4021` goes before the variable `OPTICTL_PROXY_PORT`, that before the file;
`optictl config show --origin` says which one it is. An unknown key is an error.
"""
_EXIT_CODES = """\
# Exit codes

The same for every command. A status that is not here is a failure. The codes are those under
`errors` of `--json` ([json.md](json.md)); `optictl explain CODE` tells about one at length.
`optictl ask` also passes on the proxy's own ([api.md](api.md#errors)).

"""
_CHECKS = """\
# Checks

What `optictl check` looks at. `--fast` runs the fast ones and calls no model, `--deep` adds the
deep ones; `--no-network` leaves out those that open connections. `optictl explain NAME` says more.

"""


def main() -> None:
    for path, text in pages().items():
        (ROOT / path).write_text(text)


def pages() -> dict[str, str]:
    """Every generated page, by its path in the repository."""
    known, ensembles, templates = _facts(), _ensembles(), _templates()
    written = {
        "docs/commands.md": "".join(_commands()),
        "docs/settings.md": "".join(_settings()),
        "docs/exit-codes.md": "".join(_exit_codes()),
        "docs/checks.md": "".join(_checks()),
        "docs/approaches.md": approaches_page(discover_approaches()),
        "docs/SERVICE_SPEC.md": templates.get_template("SERVICE_SPEC.md.j2").render(known),
        "docs/ENSEMBLES.md": templates.get_template("ENSEMBLES.md.j2").render(ensembles),
        "docs/opt-techniques.md": templates.get_template("opt-techniques.md.j2").render(ensembles),
        "docs/RUNBOOK.md": templates.get_template("RUNBOOK.md.j2").render(known),
    }
    return {path: _WRITTEN + text.rstrip() + "\n" for path, text in written.items()}


def approaches_page(registry: Registry) -> str:
    """All that ``registry`` has, as its decorators and signatures tell it."""
    return (
        _templates()
        .get_template("approaches.md.j2")
        .render(approaches=approach_rows(registry), roles_of=_roles_of(registry))
    )


def every_command() -> dict[str, Any]:
    """Every command by its name, ``config show`` for one of a group."""
    return dict(_walk(get_command(build()), ""))


def every_error() -> list[type[OptictlError]]:
    """Every kind of error that commands end with, by exit status and code."""

    def below(kind: type[OptictlError]) -> set[type[OptictlError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    named = [each for each in below(OptictlError) if each.__module__ == OptictlError.__module__]
    return sorted(named, key=lambda each: (each.exit_code, each.code))


def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _walk(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _walk(command, f"{before}{name} ")
        else:
            yield before + name, command


def _commands() -> Iterator[str]:
    yield _COMMANDS
    for name, command in every_command().items():
        context = typer.Context(command, info_name=f"optictl {name}")
        usage = " ".join([f"optictl {name}", *command.collect_usage_pieces(context)])
        about, *blocks = command.help.split("\b\n")
        yield f"\n## optictl {name}\n\n{about.strip()}\n\n```text\n{usage}\n```\n\n"
        rows = [_parameter(each, context) for each in command.params]
        yield from _table(("option", "default", "variable", "what it is"), *rows)
        for block in blocks:
            title, _, lines = block.partition("\n")
            yield f"\n{title}\n\n```sh\n{textwrap.dedent(lines).rstrip()}\n```\n"


def _parameter(param: Any, context: typer.Context) -> tuple[str, ...]:
    """Its row: how it is written, its default, its variable, what it is."""
    if param.param_type_name == "argument":
        return (f"`{param.metavar or param.name}`", "", "", param.help)
    # OptiLLM's spelling of the same flag is no other option.
    names = [name for name in (*param.opts, *param.secondary_opts) if "_" not in name]
    value = "" if param.is_flag else f" {param.metavar or param.display_type(context)}"
    default = "" if param.default in (None, False, "", True) else f"`{_plain(param.default)}`"
    variable = f"`{param.envvar}`" if param.envvar else ""
    return (f"`{', '.join(names)}{value}`", default, variable, param.help)


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _table(*rows: tuple[str, ...]) -> Iterator[str]:
    """The first row is the heading."""
    heading, *others = rows
    yield f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}\n"
    for row in others:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n"


def _settings() -> Iterator[str]:

    yield _SETTINGS
    for section, model in SECTIONS.items():
        if section and section[-1] in ("key", "master_key"):
            continue
        name = ".".join(section).replace(".*", "[]") or "optictl.yaml"
        # What has no text of its own is a section below.
        rows = [row for row in _setting_rows(model) if row[3]]
        yield f"\n## {name}\n\n{model.__doc__}\n\n"
        yield from _table(("setting", "is", "default", "what it is"), *rows)
    yield f"\n## Where a secret lives\n\n{KeyPlace.__doc__} No secret stands in `optictl.yaml`.\n\n"
    yield from _table(("setting", "is", "default", "what it is"), *_setting_rows(KeyPlace))


def _setting_rows(model: Any) -> Iterator[tuple[str, str, str, str]]:
    schema = json_schema(model)
    for name, field in schema["properties"].items():
        default = field.get("default")
        shown = "" if default is None or default in ([], {}) else f"`{_yaml(default)}`"
        if name in schema.get("required", ()):
            shown = "**required**"
        yield f"`{name}`", _kind(field), shown, field.get("description", "")


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(field: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    for one in field.get("anyOf", ()):
        if one.get("type") != "null":
            return _kind(one)
    if "$ref" in field:
        kind = field["$ref"].rpartition("/")[2]
        return "[where a secret lives](#where-a-secret-lives)" if kind == "KeyPlace" else kind
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    kind = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true` or `false`",
        "array": "list",
        "object": "mapping",
        "string": {"uri": "URL", "path": "absolute path"}.get(field.get("format", ""), "text"),
    }[field["type"]]
    if "minimum" in field:
        most = f"to {field['maximum']}" if "maximum" in field else "or more"
        return f"{kind}, {field['minimum']} {most}"
    return kind


def _exit_codes() -> Iterator[str]:
    yield _EXIT_CODES
    codes: dict[int, list[str]] = {status: [] for status in Exit}
    for error in every_error():
        codes[error.exit_code].append(error.code)
    codes[Exit.USAGE].append("config")
    codes[Exit.FAILED] += ["crashed", "check_failed"]
    codes[Exit.INTERRUPTED].append("interrupted")
    yield from _table(
        ("status", "meaning", "codes"),
        *((str(int(each)), each.meaning, _codes(codes[each])) for each in Exit),
    )


def _codes(codes: Iterable[str]) -> str:
    return ", ".join(f"`{code}`" for code in sorted(codes))


def _checks() -> Iterator[str]:
    yield _CHECKS
    yield from _table(
        ("check", "about", "pace", "network", "ok means"),
        *(
            (f"`{each.name}`", each.group, each.pace, "yes" if each.network else "", each.about)
            for each in discover()
        ),
    )


def _ensembles() -> dict[str, Any]:
    """What the pages on ensembles and techniques say: the shipped set, and what is built."""
    registry = discover_approaches()
    shipped = load_ensembles(SHIPPED).values()
    costs = {each.name: cost(each, registry) for each in shipped}
    stages = {name: {stage.slug for stage in costs[name].stages} for name in costs}
    return {
        "ensembles": [Listed(each, costs[each.name], "declared", "") for each in shipped],
        "slots": dict.fromkeys(
            member.model.removeprefix(OPEN) for each in shipped for member in each.team.members
        ),
        "example": SHIPPED.read_text().splitlines()[-1],
        "roles": ROLES,
        "approaches": approach_rows(registry),
        "roles_of": _roles_of(registry),
        "used_in": {
            each.slug: [name for name in stages if each.slug in stages[name]] for each in registry
        },
    }


def _roles_of(registry: Registry) -> dict[str, Sequence[Role]]:
    return {each.slug: each.roles({}) for each in registry}


def _facts() -> dict[str, Any]:
    """What the operator's pages say of the reference site, as it is rendered."""
    site = load(REFERENCE_SITE, {}).site
    home = Path("/home") / site.service.user
    places = Places.of(site, home=home)
    # Debian 12's systemd, where pip puts a console script.
    machine = Facts(optictl=Path("/usr/local/bin/optictl"), systemd=252, home=home)
    files = render(site, machine, {"upstream.key": Secret("")}, places)
    lines = files[0].content.decode().splitlines()
    return {
        "site": site,
        "places": places,
        "url": reached_at(site.proxy),
        "files": files,
        "unit": dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#"),
        "exit": Exit,
    }


if __name__ == "__main__":
    os.umask(0o022)
    main()
