"""Text in systemd's grammars: systemd.syntax(7), systemd.exec(5), systemd.service(5).

Each takes text in UTF-8 without Unicode's noncharacters, and drops what it does not understand, at
best with a line in the journal. So what cannot be said is refused here.
"""

from __future__ import annotations

import re

from optictl.errors import OptictlError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"[A-Za-z0-9_./:=@+,-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def env_line(name: str, value: str) -> str:
    """``NAME="value"`` of an EnvironmentFile, without the end of the line.

    Raises `OptictlError` for what cannot be a variable, without showing the value.
    """
    if not _NAME.fullmatch(name):
        raise OptictlError(f"{name!r} is no name of a variable: use letters, digits and '_'")
    if "\n" in value:
        raise OptictlError(f"{name}: the value holds a line break; remove it")
    if not _sound(value):
        raise OptictlError(f"{name}: the value holds a character that systemd refuses; remove it")
    return f'{name}="{_escaped(value)}"'


def exec_word(text: str) -> str:
    """One argument of ExecStart= and its like, for a program that gets ``text`` as it is."""
    if not _sound(text):
        raise OptictlError(f"{text!r} holds a character that systemd refuses; remove it")
    if _BARE.fullmatch(text):
        return text
    doubled = _escaped(text).replace("%", "%%").replace("$", "$$")
    printable = _CONTROL.sub(lambda found: rf"\x{ord(found[0]):02x}", doubled)
    return f'"{printable}"'


def word(text: str) -> str:
    """One entry of a setting that takes several, such as BindReadOnlyPaths=."""
    if not _sound(text) or _CONTROL.search(text):
        raise OptictlError(f"{text!r} holds a character that systemd refuses; remove it")
    return text if _BARE.fullmatch(text) else f'"{_escaped(text).replace("%", "%%")}"'


def rest_of_line(text: str) -> str:
    """The whole value of a setting that takes one and knows no quotes, such as User=."""
    if not _sound(text) or _CONTROL.search(text) or text != text.strip() or text.endswith("\\"):
        raise OptictlError(f"{text!r} cannot stand in a unit; choose another path")
    return text.replace("%", "%%")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _sound(text: str) -> bool:
    """Whether systemd takes every character for one of text."""
    return not any(
        code == 0 or 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
        for code in map(ord, text)
    )
