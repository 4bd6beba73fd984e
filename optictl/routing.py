"""Base handles of LiteLLM sent through the proxy, and the proxy past them to their backends.

    client ──> LiteLLM (b) ──> proxy (router-b: approach, base b) ──> LiteLLM (router-b) ──> backend

No entry of others is written to: the variables that an entry reads are assigned a second time,
behind the first, in our part of LiteLLM's variables. Whether that is so stands there alone. Pure;
the files come from `optictl.gateway_site`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from optictl.blocks import block_lines
from optictl.gateway_config import REFERENCE, Config, Mapped
from optictl.quoting import env_line
from optictl.site import Routing
from optictl.unit_file import environment_file
from proxy.ensembles import handle_key
from proxy.errors import ConfigError
from proxy.settings import Secret
from proxy.strict import did_you_mean

#: In front of a base handle: the entry of LiteLLM's that leads straight to its backend.
INTERNAL = "router-"
#: The operator's switch in LiteLLM's variables, which another tool goes by.
THEIRS = "MLX_ROUTE_VIA_OPTILLM"

_SWITCH = "OPTICTL_ROUTE"
_OURS = "OPTICTL_ROUTER_"
#: What LiteLLM sends where the proxy asks for no key.
_NO_KEY = "none"
_OFF = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Route:
    """What routing asks of LiteLLM's files, and of ours."""

    #: The base handles, each with the name under which the proxy calls it.
    model_map: Mapping[str, str] = field(default_factory=dict)
    #: Lines of YAML for `model_list`: the internal entries that LiteLLM does not have yet.
    entries: tuple[str, ...] = ()
    #: Lines for LiteLLM's variables.
    assigned: tuple[str, ...] = field(default=(), repr=False)


#: Base handles lead straight to their backends.
STRAIGHT = Route()


@dataclass(frozen=True, slots=True)
class _Handle:
    """A base handle, as one entry of LiteLLM's has it."""

    name: str
    entry: Mapped
    params: Mapped
    #: The member of `params` that holds the address: LiteLLM knows two.
    base: str

    @property
    def keys(self) -> tuple[str, str, str]:
        return "model", self.base, "api_key"

    def variable(self, key: str) -> str | None:
        """The variable that ``key`` reads, if it reads one."""
        value = str(self.params.get(key))
        return value.removeprefix(REFERENCE) if value.startswith(REFERENCE) else None


def is_on(content: bytes | None, path: Path) -> bool:
    """Whether LiteLLM's variables say so. Raises `ConfigError` for broken markers."""
    lines = block_lines(content or b"", path) or ()
    return _SWITCH in environment_file("\n".join(lines).encode())


def said_by_others(variables: Mapping[str, str]) -> bool | None:
    """What the operator's own switch says; None where there is none."""
    said = variables.get(THEIRS)
    return None if said is None else said.strip().lower() not in _OFF


def base_handles(
    config: Config, routing: Routing, is_ours: Callable[[str], bool], others: Iterable[str] = ()
) -> tuple[str, ...]:
    """The names that are to go through us, in LiteLLM's order.

    Those of `routing.handles`, else every chat model of LiteLLM's that is no pattern, leads not to
    us (`is_ours` of its address), and is no internal entry; ``others`` are no base handles either.
    Raises `ConfigError` for a name that LiteLLM does not have.
    """
    found = {
        entry.name: None
        for entry, (listed, _) in zip(config.entries, config.listed(), strict=True)
        if _is_chat(listed) and "*" not in entry.name and not is_ours(entry.api_base)
    }
    for name in routing.handles:
        if name not in found:
            hint = did_you_mean(name, found) or "; LiteLLM has: " + (", ".join(found) or "none")
            raise ConfigError(f"routing.handles: {name} is no base handle of LiteLLM's{hint}")
    internal = {f"{INTERNAL}{name}" for name in found}
    wanted = routing.handles or found.keys() - internal - set(others)
    return tuple(name for name in found if name in wanted)


def route(
    config: Config,
    names: Sequence[str],
    *,
    routing: Routing,
    url: str,
    key: Secret | None,
    env_file: Path,
) -> Route:
    """How the handles ``names`` go through the proxy at ``url``, with /v1, that asks for ``key``.

    ``config`` is LiteLLM's without our part. Raises `ConfigError` with every line of LiteLLM's that
    has to be changed first, and with what to write there.
    """
    if not names:
        return STRAIGHT
    handles = list(_handles(config, names))
    wrong = [line for each in handles for line in _literal(each, key, env_file)]
    wrong += [line for each in handles for line in _unset(config, each, env_file)]
    wrong += [line for each in handles for line in _shared(config, each, handles, key)]
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))
    there = {entry.name for entry in config.entries}
    entries: list[str] = []
    assigned, kept = {_SWITCH: "on"}, dict[str, str]()
    for number, each in enumerate(handles):
        values = {"model": f"openai/{routing.prefix}{each.name}", each.base: url}
        if each.variable("api_key") and not (
            key is None and _readers(config, each, "api_key", handles)
        ):
            values["api_key"] = _NO_KEY if key is None else key.reveal()
        assigned |= {each.variable(name) or "": value for name, value in values.items()}
        if f"{INTERNAL}{each.name}" not in there:
            # LiteLLM shares the calls of a name out among the entries that have it.
            nth = sum(1 for other in handles[:number] if other.name == each.name)
            moved = {name: _variable(each, name, nth) for name in values}
            kept |= {new: config.resolved(each.params[name]) for name, new in moved.items()}
            entries += _internal(each, moved)
    return Route(
        model_map={name: f"{INTERNAL}{name}" for name in names},
        entries=tuple(entries),
        assigned=tuple(_assignment(*each) for each in (assigned | kept).items()),
    )


def _handles(config: Config, names: Sequence[str]) -> Iterator[_Handle]:
    for entry, params in config.listed():
        if entry["model_name"] in names:
            base = "base_url" if "api_base" not in params and "base_url" in params else "api_base"
            yield _Handle(entry["model_name"], entry, params, base)


def _literal(handle: _Handle, key: Secret | None, env_file: Path) -> Iterator[str]:
    """The lines that would have to read a variable."""
    for name in handle.keys:
        if handle.variable(name) is None and (name != "api_key" or key is not None):
            variable = f"{handle_key(handle.name)}_{name.upper()}"
            has = "is written out" if name in handle.params else "is missing"
            yield (
                f"{handle.params.at(name)}: {name} of {handle.name} {has}; write "
                f"'{name}: {REFERENCE}{variable}' and set {variable} in {env_file}, "
                "or name only other handles under routing.handles"
            )
    if "custom_llm_provider" in handle.params:
        yield (
            f"{handle.params.at('custom_llm_provider')}: {handle.name} names its provider; "
            "write it in front of the model instead, as in openai/model"
        )


def _unset(config: Config, handle: _Handle, env_file: Path) -> Iterator[str]:
    for key in handle.keys:
        name = handle.variable(key)
        if name is not None and name not in config.variables:
            yield f"{handle.params.at(key)}: {name} is not set; set it in {env_file}"


def _shared(
    config: Config, handle: _Handle, handles: Sequence[_Handle], key: Secret | None
) -> Iterator[str]:
    """Variables that others read too, for whom they are to stay what they are."""
    for name in handle.keys:
        # A key that nobody asks for can stay.
        others = (
            [] if name == "api_key" and key is None else _readers(config, handle, name, handles)
        )
        if others:
            yield (
                f"{handle.params.at(name)}: {handle.variable(name)} is read at "
                f"{', '.join(others)} too; give {handle.name} a variable of its own"
            )


def _readers(
    config: Config, handle: _Handle, key: str, handles: Sequence[_Handle]
) -> Sequence[str]:
    """Where else the variable of ``key`` is read, by what will not lead to us by the same words."""
    variable = handle.variable(key)
    if variable is None:
        return ()
    # The address and the key are the same for all of them, the model is not.
    alike = [each for each in handles if key != "model" or each.name == handle.name]
    lines = {each.params.at(name) for each in alike for name in each.keys}
    names = {each.name for each in alike}
    elsewhere = [at for name, at in config.references() if name == variable and at not in lines]
    # An anchor's line is everybody's who refers to it.
    by_anchor = [
        entry.at("model_name")
        for entry, params in config.listed()
        if entry["model_name"] not in names
        and f"{REFERENCE}{variable}" in map(str, params.values())
    ]
    return list(dict.fromkeys([*elsewhere, *by_anchor]))


def _variable(handle: _Handle, key: str, nth: int) -> str:
    """A variable of ours, for what the handle's own held so far."""
    return f"{_OURS}{handle_key(handle.name)}{f'_{nth + 1}' if nth else ''}_{key.upper()}"


def _internal(handle: _Handle, variables: Mapping[str, str]) -> list[str]:
    """The handle's entry under its internal name, reading other variables."""
    entry: dict[str, Any] = _plain(handle.entry)
    entry["model_name"] = f"{INTERNAL}{handle.name}"
    entry["litellm_params"] |= {key: f"{REFERENCE}{name}" for key, name in variables.items()}
    info = entry.get("model_info")
    if isinstance(info, dict) and "id" in info:
        info["id"] = f"{INTERNAL}{info['id']}"
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=10_000)
    return text.rstrip("\n").split("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _is_chat(entry: Mapped) -> bool:
    info = entry.get("model_info")
    return not isinstance(info, dict) or info.get("mode") in (None, "chat")


def _assignment(name: str, value: str) -> str:
    env_line(name, value)  # for what it refuses
    return f"{name}={shlex.quote(value)}"
