"""From the command line and variables of a hand-written unit to settings of a site. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import typer
from pydantic import ValidationError

from optictl.commands.serve import serve
from optictl.errors import OptictlError
from optictl.peer_flags import refuse_environment
from optictl.quoting import env_line
from optictl.site import FLAGS, SECRET_NAME, SECTIONS, SWITCHED, Site
from proxy.errors import ConfigError
from proxy.strict import Interpolated, problems

#: A value that is a secret whatever its name: a key, or a URL with a password.
_SECRET_VALUE = re.compile(r"\bsk-|://[^/\s]*:[^/\s]*@")
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
#: Variables that have places of their own in a site, or ask OptiLLM for what we do not do.
_KEYS = frozenset({"OPENAI_API_KEY", "OPTILLM_API_KEY"})


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for the site, in JSON types, and where it was found."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a service; ``file`` is the EnvironmentFile that sets it."""

    value: str = field(repr=False)
    origin: str
    file: Path | None = None


@dataclass(slots=True)
class Taken:
    """What a unit comes to."""

    settings: list[Setting] = field(default_factory=list)
    #: Of flags that have no plain setting: text and origin by the flag.
    keys: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    #: What `optictl serve` does not have; none of it a secret.
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: What to say of each secret that has no setting of its own, by its name.
    lost: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Option:
    flag: str
    variable: str | None
    is_flag: bool
    multiple: bool
    negative: str | None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable or a flag must not be shown, nor stand in the site."""
    return bool(SECRET_NAME.search(name) or _SECRET_VALUE.search(value))


def program(
    arguments: Sequence[str], names: Sequence[tuple[str, ...]]
) -> tuple[list[str], dict[str, str]] | None:
    """The flags behind one of ``names`` and the variables before it; None where none is run.

    Sees through ``uv run NAME``, ``python -m NAME``, ``env A=B NAME`` and ``sh -c 'NAME …'``.
    """
    before: dict[str, str] = {}
    for at, argument in enumerate(arguments):
        for name in names:
            here = (PurePosixPath(argument).name, *arguments[at + 1 : at + len(name)])
            if here == name:
                return list(arguments[at + len(name) :]), before
        if at and re.fullmatch(r"-[a-z]*c", arguments[at - 1]):
            try:
                return program(shlex.split(argument), names)
            except ValueError:
                return None
        variable, equals, value = argument.partition("=")
        if equals and variable.isidentifier():
            before[variable] = value
    return None


def take_over(arguments: Sequence[str], origin: str, variables: Mapping[str, Variable]) -> Taken:
    """The settings that a command line of OptiLLM's or ours and its variables stand for."""
    taken = Taken()
    options = _options()
    given = dict(_from_variables(options, variables))
    given |= _from_flags(arguments, origin, options, taken)
    flags: list[str] = []
    flag_origins: list[str] = []
    for option, (texts, source) in given.items():
        setting = FLAGS.get(option.flag)
        if setting in ("proxy.key", "upstream.key", "upstream"):
            taken.keys[option.flag] = (texts[-1], source)
        elif setting is not None:
            value = True if option.is_flag else Interpolated(texts[-1])
            taken.settings.append(Setting(setting, value, f"{source} ({option.flag})"))
        elif option.flag in SWITCHED:
            taken.notes.append(
                f"{source}: {option.flag} is not taken over; it is switched by: optictl degrade"
            )
        elif any(_SECRET_VALUE.search(text) for text in texts):
            taken.notes.append(f"{source}: {option.flag} holds a secret and is not taken over")
        else:
            flags += texts if option.is_flag else [w for t in texts for w in (option.flag, t)]
            flag_origins.append(source)
    if flags:
        taken.settings.append(Setting("proxy.flags", flags, ", ".join(dict.fromkeys(flag_origins))))
    _rest(variables, {option.variable for option in options.values()}, taken)
    return taken


def _options() -> dict[str, _Option]:
    """The options of ``optictl serve`` by each of their spellings."""
    app = typer.Typer(add_completion=False)
    app.command()(serve)
    found: dict[str, _Option] = {}
    for parameter in typer.main.get_command(app).params:
        negative = next(iter(parameter.secondary_opts), None)
        variable = parameter.envvar if isinstance(parameter.envvar, str) else None
        option = _Option(
            flag=parameter.opts[0],
            variable=variable,
            is_flag=bool(getattr(parameter, "is_flag", False)),
            multiple=bool(getattr(parameter, "multiple", False)),
            negative=negative,
        )
        found |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), option)
    return found


def _from_variables(
    options: Mapping[str, _Option], variables: Mapping[str, Variable]
) -> Iterator[tuple[_Option, tuple[list[str], str]]]:
    for option in dict.fromkeys(options.values()):
        variable = variables.get(option.variable or "")
        if variable is None or not variable.value.strip():
            continue
        text = variable.value
        if option.is_flag:
            on = text.strip().lower() in _TRUE
            if not on and option.negative is None:
                continue
            text = option.flag if on else option.negative or ""
        yield option, ([text], f"{variable.origin}: {option.variable}")


def _from_flags(
    arguments: Sequence[str], origin: str, options: Mapping[str, _Option], taken: Taken
) -> dict[_Option, tuple[list[str], str]]:
    found: dict[_Option, tuple[list[str], str]] = {}
    rest = list(arguments)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        option = options.get(flag)
        if option is not None and option.is_flag:
            negative = flag not in (option.flag, option.flag.replace("-", "_"))
            negative = negative and flag.startswith(("--no-", "--no_"))
            found[option] = ([option.negative or "" if negative else option.flag], origin)
            continue
        takes = not equals and bool(rest) and (option is not None or not rest[0].startswith("--"))
        if takes:
            text = rest.pop(0)
        if option is not None:
            before = found[option][0] if option.multiple and option in found else []
            found[option] = ([*before, text], origin)
        elif not flag.startswith("--"):
            taken.notes.append(f"{origin}: an argument that is no flag is not taken over")
        else:
            shown = flag if is_secret(flag, text) else f"{flag} {text}".rstrip()
            taken.unknown.append(shown if shown.isprintable() else flag)
            taken.notes.append(f"{origin}: optictl serve does not have {flag} yet; left out")
    return found


def _rest(variables: Mapping[str, Variable], known: set[str | None], taken: Taken) -> None:
    """Variables that are no flag: kept for the service where they are no secret."""
    kept = {}
    origins = []
    for name, variable in variables.items():
        if name in known or name in _KEYS:
            continue
        if is_secret(name, variable.value):
            taken.lost[name] = (
                f"{variable.origin}: {name} is a secret that no setting takes; if the service "
                "needs it, put it into a file of its own (chmod 600) and name that with "
                "EnvironmentFile= in a drop-in"
            )
            continue
        try:
            refuse_environment({name: variable.value})
            env_line(name, variable.value)
        except ConfigError:
            taken.unknown.append(name)
            taken.notes.append(f"{variable.origin}: optictl does not have {name} yet; left out")
        except OptictlError:
            taken.notes.append(f"{variable.origin}: {name} holds what systemd refuses; left out")
        else:
            kept[name] = variable.value
            origins.append(variable.origin.rpartition(":")[0] or variable.origin)
    if kept:
        value = ", ".join(dict.fromkeys(origins))
        taken.settings.append(Setting("service.environment", kept, value))


def accepted(setting: Setting) -> Setting:
    """The setting as a site holds it. Raises ValueError saying why none can, without its value."""
    *path, last = setting.name.split(".")
    tree: dict[str, Any] = {"proxy": {"base_model": "x"}}
    inner: Any = tree
    for step in path:
        inner = inner.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ValueError(f"there is no {setting.name}")
    inner[last] = setting.value
    if isinstance(setting.value, str) and _SECRET_VALUE.search(setting.value):
        raise ValueError(f"{last} holds a secret")
    try:
        dumped = Site.model_validate(tree).model_dump_json(exclude_none=True)
    except ValidationError as error:
        said = "; ".join(problem.said for problem in problems(error, SECTIONS))
        raise ValueError(said) from None
    value: Any = orjson.loads(dumped)
    for step in setting.name.split("."):
        if step not in value:
            raise ValueError(f"{last} is empty")
        value = value[step]
    return Setting(setting.name, value, setting.origin)
