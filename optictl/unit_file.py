"""Reads what others wrote for systemd: units, their command lines, their files of variables.

The counterpart of `optictl.quoting`. Grammar: systemd.syntax(7), systemd.service(5) ("Command
lines"), systemd.exec(5) (EnvironmentFile=), and where these are silent, what systemd 252 does. What
systemd ignores is ignored here too: nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SECTION = re.compile(r"\[([^\]]*)\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = " \t\n\r"
_SIMPLE_ESCAPES = dict(zip("abfnrtvs\\\"'", "\a\b\f\n\r\t\v \\\"'", strict=True))
_LONG_ESCAPE = re.compile(
    r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})", re.ASCII
)
_BRACED = re.compile(r"\$\$|\$\{([^}]*)\}")
_WHOLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PREFIXES = "@-:+!|"


@dataclass(frozen=True, slots=True)
class Assignment:
    """``KEY=VALUE``, with its lines joined, and the place of its first."""

    section: str
    key: str
    value: str
    file: Path
    line: int

    @property
    def origin(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class UnitFile:
    """The assignments of a unit, and of its drop-ins behind it, in their order."""

    assignments: tuple[Assignment, ...] = ()

    def all(self, key: str, section: str = "Service") -> list[Assignment]:
        """Every assignment of a setting that is a list; an empty one begins the list anew."""
        found: list[Assignment] = []
        for each in self.assignments:
            if (each.section, each.key) == (section, key):
                found = [*found, each] if each.value else []
        return found

    def last(self, key: str, section: str = "Service") -> Assignment | None:
        """The assignment of a setting that has one value; None where it is empty."""
        found = [each for each in self.assignments if (each.section, each.key) == (section, key)]
        return found[-1] if found and found[-1].value else None


@dataclass(frozen=True, slots=True)
class Command:
    """One command of ExecStart=: words without quotes, specifiers and variables as yet."""

    words: tuple[str, ...]
    #: Whether ``$VAR`` is replaced.
    expands: bool = True


def parse_unit(content: bytes, file: Path) -> UnitFile:
    """The assignments of one file."""
    return UnitFile(tuple(_assignments(content, file)))


def _assignments(content: bytes, file: Path) -> Iterator[Assignment]:
    section, logical, first = "", "", 0
    # What is no UTF-8 is refused by systemd a line at a time.
    for number, raw in enumerate(
        re.split(rb"\r\n|\n|\r", content.removeprefix(b"\xef\xbb\xbf")), 1
    ):
        line = raw.decode(errors="replace").lstrip(_BLANK)
        if line.startswith(("#", ";")):
            continue
        if not logical:
            first = number
        # As systemd counts: an even number of backslashes ends the line.
        if (len(line) - len(line.rstrip("\\"))) % 2:
            logical += line[:-1] + " "
            continue
        text, logical = (logical + line).strip(_BLANK), ""
        heading = _SECTION.fullmatch(text)
        if heading:
            section = heading[1]
            continue
        key, equals, value = text.partition("=")
        if section and equals and "\ufffd" not in text and "\0" not in text:
            yield Assignment(section, key.rstrip(_BLANK), value.lstrip(_BLANK), file, first)


def commands(value: str) -> list[Command]:
    """The commands of an ExecStart=, which ``;`` separates. None where its quotes do not close."""
    raw = _raw_words(value)
    if raw is None:
        return []
    parted: list[list[str]] = [[]]
    for word in raw:
        if word == ";":
            parted.append([])
        else:
            parted[-1].append(";" if word == "\\;" else unquoted(word))
    return [_command(words) for words in parted if words]


def words(value: str) -> list[str]:
    """The words of a setting that takes several, such as Environment=."""
    return [unquoted(word) for word in _raw_words(value) or ()]


def _command(given: list[str]) -> Command:
    program = given[0].lstrip(_PREFIXES)
    prefix = given[0][: len(given[0]) - len(program)]
    # After @ comes what the program shall think that it is called.
    rest = given[2:] if "@" in prefix else given[1:]
    return Command((program, *rest), ":" not in prefix)


def _raw_words(value: str) -> list[str] | None:
    """Split at blanks outside of quotes; quotes and escapes stay. None: a quote does not close."""
    found: list[str] = []
    word, quote, escaped = "", "", False
    for character in value:
        if not quote and not escaped and character in _BLANK:
            if word:
                found.append(word)
            word = ""
            continue
        word += character
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
    if quote:
        return None
    return [*found, word] if word else found


def unquoted(word: str) -> str:
    """A word without its quotes, escapes read. An escape that is none stays as it is."""
    text, quote, at = "", "", 0
    while at < len(word):
        character = word[at]
        at += 1
        if character == "\\" and at < len(word):
            read, length = _escape(word[at:])
            text += read
            at += length
        elif character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        else:
            text += character
    return text


def _escape(rest: str) -> tuple[str, int]:
    """What stands behind a backslash, and how many characters that takes."""
    if rest[0] in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[rest[0]], 1
    long = _LONG_ESCAPE.match(rest)
    if long is None:
        return f"\\{rest[0]}", 1
    *hexadecimal, octal = long.groups()
    code = int(octal, 8) if octal else int(next(filter(None, hexadecimal)), 16)
    if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        return f"\\{long[0]}", len(long[0])
    return chr(code), len(long[0])


def specified(word: str, specifiers: Mapping[str, str]) -> str:
    """``%h`` and its like replaced; those that are not in ``specifiers`` stay."""
    known = {"%": "%", **specifiers}
    return re.sub("%(.)", lambda found: known.get(found[1], found[0]), word)


def expanded(command: Command, variables: Mapping[str, str]) -> list[str]:
    """The arguments with their variables: ``${VAR}`` in its place, a lone ``$VAR`` as words."""
    if not command.expands:
        return list(command.words)
    found: list[str] = []
    for word in command.words:
        whole = _WHOLE.fullmatch(word)
        if whole:
            found += words(variables.get(whole[1], ""))
        else:
            found.append(
                _BRACED.sub(lambda at: variables.get(at[1], "") if at[1] is not None else "$", word)
            )
    return found


def environment_file(content: bytes) -> dict[str, str]:
    """The variables of an EnvironmentFile=, which is no shell: ``export X=1`` sets nothing."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    return {
        name: value
        for name, value in _variables(text)
        if _NAME.fullmatch(name) and "\ufffd" not in value
    }


def _variables(text: str) -> Iterator[tuple[str, str]]:
    """Names and values, by the states of systemd's own reader (env-file.c)."""
    state, name, value = "before", "", ""
    # Of a value that is not in quotes, what stands behind this is trailing blanks.
    kept = 0
    for character in text:
        end = character in "\r\n"
        match state:
            case "before" if character in "#;":
                state = "comment"
            case "before" if character not in _BLANK:
                state, name = "name", character
            case "comment" if end:
                state = "before"
            case "name" if end:
                state = "before"
            case "name" if character == "=":
                state, value, kept = "begin", "", 0
            case "name":
                name += character
            case "begin" | "value" if end:
                yield name.rstrip(_BLANK), value[:kept]
                state = "before"
            case "begin" | "value" if character == "\\":
                state, kept = "escape", len(value)
            case "begin" if character in "\"'":
                state = character
            case "begin" if character in _BLANK:
                pass
            case "begin" | "value":
                state, value = "value", value + character
                kept = kept if character in _BLANK else len(value)
            case "escape":
                state, value = "value", value if end else value + character
                kept = len(value)
            case "'" | '"' if character == state:
                state, kept = "begin", len(value)
            case '"' if character == "\\":
                state = '\\"'
            case "'" | '"':
                value += character
                kept = len(value)
            case '\\"':
                state = '"'
                if character in '"\\`$':
                    value += character
                elif not end:
                    value += f"\\{character}"
                kept = len(value)
    if state not in ("before", "comment", "name"):
        yield name.rstrip(_BLANK), value[:kept]
