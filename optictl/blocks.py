"""Our block in a file that somebody else owns: what stands between its two marker lines is ours.

All else stays as it is, byte for byte: line ends, tabs, comments, duplicate keys, anchors, other
tools' blocks, and a last line without an end.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from optictl.unit_file import environment_file
from proxy.errors import ConfigError

BEGIN, END = "# BEGIN OPTICTL AUTO", "# END OPTICTL AUTO"
#: The file: LiteLLM's router.yaml, or a file of variables.
Where = Literal["router", "env"]

#: Whose entries our lines are in a router.yaml: models, or files that it includes.
_MODELS, _FILES = "model_list", "include"
#: The first line of a block that has lent the line before it an end.
_LENT = "# The line above had no end; it loses it with this block."
#: Lines that are meant as our markers, well written or not.
_MARKER = re.compile(rb"[ \t]*#+[ \t]*(BEGIN|END)[ \t]+OPTICTL[ \t]+AUTO\b", re.IGNORECASE)
#: Where another tool's block ends.
_OTHERS_END = re.compile(r"^[ \t]*#[ \t]*END\b.*\n?", re.MULTILINE)


def block_lines(content: bytes, path: Path) -> tuple[str, ...] | None:
    """The lines of our block, as `with_block` was given them; None where there is no block.

    Raises `ConfigError` with FILE:LINE for markers that are broken, doubled, nested or swapped.
    """
    text = _split(content, path).block
    if text is None:
        return None
    plain = text.decode(errors="replace").replace("\r\n", "\n").removesuffix("\n")
    lines = textwrap.dedent(plain).split("\n")[1:-1]
    for ours in (_LENT, f"{_MODELS}:", f"{_FILES}:"):
        if lines[:1] == [ours]:
            del lines[0]
    return tuple(textwrap.dedent("\n".join(lines)).split("\n")) if lines else ()


def without_block(content: bytes, path: Path) -> bytes:
    """``content`` as it would be if we had never written to it. Raises as `block_lines` does."""
    return _split(content, path).outside


def with_block(content: bytes, lines: Sequence[str], path: Path, *, where: Where) -> bytes:
    """``content`` with ``lines`` as our block, in place of the one that it may have.

    In a router the lines are entries in YAML, ``- `` at column 0: of ``include`` where they are
    texts, else of ``model_list``. A new block is put behind the last entry, and one that is there
    stays in its place. In ``env`` they are assignments, and the block is put at the end, since the
    last assignment counts. No lines, no block.

    Raises `ConfigError` with FILE:LINE for markers as `block_lines` does, and for a file in which
    the lines would not add what they say, or change anything else.
    """
    split = _split(content, path)
    if not lines:
        return split.outside
    if where == "env":
        return _assigned(split.outside, lines, path)
    old = read_yaml(split.outside, path)
    added = yaml.safe_load("\n".join(lines))
    key = _FILES if all(isinstance(each, str) for each in added) else _MODELS
    slot = _slot(split.outside, path, key)
    for at in [slot.at] if split.block is None else [split.at, slot.at]:
        result = _put(split.outside, at, slot.lines(lines), slot.indent)
        if _adds(key, old, added, result):
            return result
    line = _line(split.outside, slot.at)
    raise ConfigError(
        f"{path}:{line}: our entries cannot be added below this line without changing something "
        f"else; let '{key}' be a list of its own, with lines that begin with '- ' and end"
    )


@dataclass(frozen=True, slots=True)
class _Split:
    """A file, and the block that was taken out of it at ``at``."""

    outside: bytes
    at: int
    block: bytes | None


def _split(content: bytes, path: Path) -> _Split:
    found = list(_markers(content, path))
    if not found:
        return _Split(content, len(content), None)
    (first, number, start, begun), *rest = found
    if first != BEGIN:
        _refuse(path, number, f"'{END}' has no '{BEGIN}' before it; remove the line")
    if not rest:
        _refuse(path, number, f"'{BEGIN}' has no '{END}' after it; add it where our lines end")
    (second, number, _, end), *more = rest
    if second != END:
        _refuse(path, number, f"a second '{BEGIN}' before '{END}'; remove one of them")
    if more:
        _refuse(path, more[0][1], "a second block of ours; remove it, with both of its lines")
    before, after = content[:start], content[end:]
    if content[begun:end].lstrip(b" \t").startswith(_LENT.encode()) and not after:
        before = before.removesuffix(b"\r\n" if content[:begun].endswith(b"\r\n") else b"\n")
    return _Split(before + after, len(before), content[start:end])


def _markers(content: bytes, path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Each marker with its line's number, and where the line begins and ends."""
    at = 0
    # Only here: what \r alone ends is a line in YAML, but not in a shell.
    for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", content), start=1):
        if _MARKER.match(line):
            text = line.strip().decode(errors="replace")
            if text not in (BEGIN, END):
                _refuse(path, number, f"a broken marker; write '{BEGIN}' or '{END}' alone")
            yield text, number, at, at + len(line)
        at += len(line)


def _put(outside: bytes, at: int, lines: Sequence[str], indent: str) -> bytes:
    """A block at ``at``, where a line begins or the file ends."""
    before, after = outside[:at], outside[at:]
    end = b"\r\n" if 2 * outside.count(b"\r\n") > outside.count(b"\n") else b"\n"
    lent = bool(before) and not before.endswith(b"\n")
    if lent:
        before += end
        lines = [f"{indent}{_LENT}", *lines]
    block = [f"{indent}{BEGIN}", *lines, f"{indent}{END}"]
    return before + b"".join(line.encode() + end for line in block) + after


def _assigned(outside: bytes, lines: Sequence[str], path: Path) -> bytes:
    result = _put(outside, len(outside), lines, "")
    wanted = environment_file(outside) | environment_file("\n".join(lines).encode())
    if environment_file(result) != wanted:
        number = _line(outside, len(outside))
        _refuse(path, number, "the last line goes on: close its quotes, or remove its backslash")
    return result


def _adds(key: str, old: Any, added: list[Any], result: bytes) -> bool:
    """Whether ``result`` is what ``old`` is with ``added`` somewhere in its list, and no more."""
    try:
        new = yaml.safe_load(result)
        had, listed = (old or {}).get(key) or [], new[key]
        if {**new, key: had} != {**(old or {}), key: had}:
            return False
        return any([*had[:at], *added, *had[at:]] == listed for at in range(len(had) + 1))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def read_yaml(content: bytes, path: Path) -> dict[Any, Any] | None:
    """A file in plain values: a mapping, or nothing.

    Raises `ConfigError` with FILE:LINE for what is neither; no message shows what stands there.
    """
    try:
        content.decode()
        value = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        said = f"{path}{place}: not YAML; check indentation, quotes and colons"
        raise ConfigError(said) from None
    except UnicodeDecodeError as error:
        _refuse(path, _line(content, error.start), "not UTF-8; save the file as UTF-8")
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{path}: not YAML that can be read; look for odd characters") from None
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{path}:1: the file must be a mapping; begin it with '{_MODELS}:'")
    return value


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where new entries can stand, how far indented, and the key where there is none yet."""

    at: int
    indent: str
    key: str | None = None

    def lines(self, entries: Sequence[str]) -> list[str]:
        if self.key is not None:
            entries = [f"{self.key}:", *(f"  {line}" for line in entries)]
        return [f"{self.indent}{line}" for line in entries]


def _slot(content: bytes, path: Path, name: str) -> _Slot:
    """The end of the list ``name``, behind other tools' blocks; of the file where it has none."""
    text = content.decode()
    top = yaml.compose(text, Loader=yaml.SafeLoader)
    if top is None:
        return _Slot(len(content), "", name)
    assert isinstance(top, yaml.MappingNode)
    if top.flow_style:
        line = top.start_mark.line + 1
        _refuse(path, line, "a file in braces has no place for our lines; write it without them")
    column = top.value[0][0].start_mark.column
    # Where the key stands twice it is the last that counts, as in LiteLLM.
    found = [at for at, (key, _) in enumerate(top.value) if key.value == name]
    if not found:
        return _Slot(len(content), " " * column, name)
    key, value = top.value[found[-1]]
    following = top.value[found[-1] + 1 :]
    ends = following[0][0].start_mark.index if following else len(text)
    begins = value.start_mark.index
    if begins < key.start_mark.index:
        _refuse(path, key.start_mark.line + 1, f"'{name}' is an alias; write the list out here")
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        column = _dash(text, begins)
    elif isinstance(value, yaml.ScalarNode) and begins == value.end_mark.index:
        column += 2
    else:
        line = value.start_mark.line + 1
        _refuse(path, line, f"'{name}' must have a line of its own for each entry: '- …'")
    spans = [_span(event) for event in yaml.parse(text, Loader=yaml.SafeLoader)]
    ended = [end for start, end in spans if begins <= start < ends]
    end = _next_line(text, max([begins, *ended]))
    others = [match.end() for match in _OTHERS_END.finditer(text, end, max(end, ends))]
    return _Slot(len(text[: max([end, *others])].encode()), " " * column)


def _span(event: yaml.Event) -> tuple[int, int]:
    """Where something begins and ends; for what is not written out, nowhere."""
    start, end = _index(event.start_mark), _index(event.end_mark)
    # A block ends, without a character of its own, where the next begins: behind comments.
    is_end = isinstance(event, yaml.CollectionEndEvent) and start < end
    return (start, end) if is_end or isinstance(event, yaml.NodeEvent) else (-1, -1)


def _dash(text: str, begins: int) -> int:
    """The column of the dash before the first entry of the list that begins there."""
    dashes = (
        token.start_mark
        for token in yaml.scan(text, Loader=yaml.SafeLoader)
        if isinstance(token, yaml.BlockEntryToken)
    )
    column: int = next(mark.column for mark in dashes if _index(mark) >= begins)
    return column


def _index(mark: Any) -> int:
    index: int = mark.index
    return index


def _next_line(text: str, at: int) -> int:
    """Where the line after the one around ``at`` begins, or ``at`` where one begins there."""
    if at == 0 or text[at - 1] == "\n":
        return at
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _line(content: bytes, at: int) -> int:
    """The number of the line that ends before ``at``."""
    return content.count(b"\n", 0, max(at - 1, 0)) + 1


def _refuse(path: Path, line: int, said: str) -> NoReturn:
    raise ConfigError(f"{path}:{line}: {said}")
