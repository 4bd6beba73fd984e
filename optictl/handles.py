"""The registry of handles, ``handles.jsonl``: the rows in it that are ours, and its rules.

One JSON object a line: ``handle``, ``kind``, ``invoke``, ``managed_by``, ``endpoint_ref``,
``selector`` and, if there is something to say, ``notes``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.errors import ConfigError
from proxy.strict import did_you_mean

#: What leads to the proxy, and the service manager that runs it.
ENDPOINT, MANAGER = "ep_optillm_proxy_4020", "systemd"

Row = Mapping[str, Any]

_OURS = "opt-"
_CHOICES: Mapping[str, Sequence[str]] = {
    "kind": ("model", "callable"),
    "invoke": ("openai-chat", "openai-embeddings", "mcp-tool", "http-get", "http-post"),
    "managed_by": ("systemd", "launchd", "docker", "manual", "external"),
}
_REQUIRED = ("handle", *_CHOICES, "endpoint_ref", "selector")
_FIELDS = (*_REQUIRED, "notes")
_NAME = re.compile(r"[a-z0-9-]+")
#: A pipeline, which the proxy alone understands.
_PIPELINE = re.compile(r"[a-z0-9&|_-]+")


def row(handle: str, notes: str = "") -> Row:
    """The row of an ensemble: its name is what clients call and what the proxy is asked for."""
    return {
        "handle": handle,
        "kind": "model",
        "invoke": "openai-chat",
        "managed_by": MANAGER,
        "endpoint_ref": ENDPOINT,
        "selector": {"model": handle},
        **({"notes": notes} if notes else {}),
    }


def our_rows(content: bytes, *, endpoint: str = ENDPOINT) -> list[Row]:
    """The rows that are ours: handles ``opt-*`` of ``endpoint``, managed by systemd."""
    found = (_row(line) for line in content.splitlines())
    return [each for each in found if each is not None and _is_ours(each, endpoint)]


def with_handles(
    content: bytes, rows: Sequence[Row], path: Path, *, endpoint: str = ENDPOINT
) -> bytes:
    """``content`` with ``rows`` as the only ones that are ours (`our_rows`).

    Lines of others stay byte for byte and in their order, and so does a last line without an end.
    A row of ours stays in its place, a new one is put at the end. Raises `ConfigError` with
    FILE:LINE where a handle is already somebody else's.
    """
    wanted = {each["handle"]: each for each in rows}
    ours = frozenset(wanted)
    kept: list[bytes] = []
    lines = content.splitlines(keepends=True)
    end = b"\r\n" if 2 * content.count(b"\r\n") > content.count(b"\n") else b"\n"
    for number, line in enumerate(lines, start=1):
        old = _row(line)
        name = None if old is None else old.get("handle")
        if old is None or not _is_ours(old, endpoint):
            if isinstance(name, str) and name in ours:
                raise ConfigError(
                    f"{path}:{number}: handle '{name}' is somebody else's; rename one of the two"
                )
            kept.append(line)
        elif (new := wanted.pop(name, None)) is not None:
            kept.append(line if new == old else _line(new, end))
    if wanted:
        if kept and not _end_of(kept[-1]):
            kept[-1] += end
        kept += [_line(each, end) for each in wanted.values()]
    # Whether the last line has an end is up to whoever wrote the file.
    if kept and lines and not _end_of(lines[-1]):
        kept[-1] = kept[-1].removesuffix(_end_of(kept[-1]))
    return b"".join(kept)


def validate(content: bytes) -> list[str]:
    """All that is wrong in a registry, as ``line N: field: message``, in its order."""
    found: list[str] = []
    handles: dict[str, int] = {}
    targets: dict[str, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        said: list[tuple[str, str]] = []
        try:
            parsed = _parse(line)
        except _Unusable as error:
            said.append(("row", str(error)))
        else:
            said += _problems(parsed)
            said += _repeated(parsed, number, handles, targets)
        # A field's name comes from the file, and may hold any character.
        found += [
            f"line {number}: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
            for text in (f"{field}: {message}" for field, message in said)
        ]
    return found


def count(content: bytes) -> int:
    """How many handles a valid registry has."""
    return sum(1 for line in content.splitlines() if line.strip())


class _Unusable(Exception):
    """A line that is no row."""


def _row(line: bytes) -> Row | None:
    """What stands in a line of a file that may hold anything."""
    try:
        return _parse(line)
    except _Unusable:
        return None


def _parse(line: bytes) -> Row:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _Unusable(f"is not JSON: {error.msg}, at column {error.colno}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets as many
        raise _Unusable("is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise _Unusable("must be a JSON object: begin it with {")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Unusable(f"'{name}' stands twice; remove one")
        found[name] = value
    return found


def _is_ours(row: Row, endpoint: str) -> bool:
    return (
        row.get("endpoint_ref") == endpoint
        and row.get("managed_by") == MANAGER
        and str(row.get("handle")).startswith(_OURS)
    )


def _line(row: Row, end: bytes) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + end


def _end_of(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _problems(row: Row) -> Iterator[tuple[str, str]]:
    """What is wrong with a row by itself: fields and messages. No value is shown."""
    for name in _REQUIRED:
        if name not in row:
            yield name, "is missing; add it"
    for name, value in row.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            near = did_you_mean(value, _CHOICES[name])
            yield name, f"must be one of: {', '.join(_CHOICES[name])}{near}"
        elif name == "handle":
            yield from _named(name, value)
        elif name == "endpoint_ref" and (not isinstance(value, str) or not value):
            yield name, "must be text, and not empty"
        elif name == "selector":
            yield from _selected(row, value)
        elif name == "notes" and not isinstance(value, str):
            yield name, "must be text"
        elif name not in _FIELDS:
            near = did_you_mean(name, _FIELDS) or "; remove it"
            yield name, f"unknown field{near}"


def _named(field: str, value: object) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        yield field, "must be text of a-z, 0-9 and -"


def _selected(row: Row, selector: object) -> Iterator[tuple[str, str]]:
    if selector is None:
        return
    if not isinstance(selector, dict):
        yield "selector", "must be null or an object"
        return
    ours = str(row.get("handle")).startswith(_OURS) or str(row.get("endpoint_ref")).startswith(
        "ep_optillm_proxy"
    )
    for field, text in _texts("selector", selector):
        if field == "selector.model" and ours:
            if not _PIPELINE.fullmatch(text):
                yield field, "must be text of a-z, 0-9, -, &, | and _"
        else:
            yield from _named(field, text)


def _texts(field: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text in a value, with the dotted name of its place."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(f"{field}.{name}", inner)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _texts(f"{field}[{at}]", inner)


def _repeated(
    row: Row, number: int, handles: dict[str, int], targets: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """Whether a row says what one before it said; ``handles`` and ``targets`` know their lines."""
    handle = row.get("handle")
    if isinstance(handle, str) and handles.setdefault(handle, number) != number:
        yield "handle", f"is already in line {handles[handle]}; rename or remove one"
    fields = ("kind", "endpoint_ref", "selector")
    if all(name in row for name in fields):
        target = json.dumps([row[name] for name in fields], sort_keys=True)
        if targets.setdefault(target, number) != number:
            first = targets[target]
            yield "selector", f"line {first} has the same kind, endpoint_ref and selector"
