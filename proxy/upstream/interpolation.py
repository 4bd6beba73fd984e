"""``${VAR}`` in the values of a configuration file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
#: What opens a reference (to its end, if it has no default), and what closes one.
_TOKEN = re.compile(rf"\$\{{(?P<name>{_NAME})(?P<end>\}}|:-)|\$\{{|\}}")


class InterpolationError(Exception):
    """A reference that is malformed or leads nowhere. Holds no variable's value."""


@dataclass(slots=True)
class _Part:
    """A default, or the whole text, as far as it is read."""

    name: str = ""
    text: list[str] = field(default_factory=list)
    #: The first variable in it that is not set; no matter where the default is not needed.
    unset: str | None = None


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with its references replaced; raises `InterpolationError`.

    ``${A}`` is the value of A, which must be set. ``${A:-b}`` is ``b`` where A is not set or empty,
    as in sh; the default may hold references. Where literal text stands beside a reference and
    the result is the name of a variable, as in ``${PREFIX}_API_KEY``, it is the variable's value.
    All other text, ``$$`` and ``$A`` included, means itself.
    """
    parts = [_Part()]
    literal = reference = False
    at = 0
    for token in _TOKEN.finditer(text):
        between, at = text[at : token.start()], token.end()
        parts[-1].text.append(between)
        closing = token[0] == "}"
        if len(parts) == 1:
            literal |= closing or bool(between)
            reference |= not closing
        if token["end"] == ":-":
            parts.append(_Part(token["name"]))
        elif token["name"]:
            name = token["name"]
            parts[-1].text.append(environ.get(name, ""))
            if name not in environ:
                parts[-1].unset = parts[-1].unset or name
        elif not closing:
            raise InterpolationError(_malformed(text[at:]))
        elif len(parts) == 1:
            parts[-1].text.append("}")
        else:
            _close(parts, environ)
    if len(parts) > 1:
        raise InterpolationError(f"${{{parts[-1].name}:-… has no closing brace; add }}")
    whole = parts[0]
    if whole.unset is not None:
        raise InterpolationError(
            f"variable {whole.unset} is not set; set it, or give a default: "
            f"${{{whole.unset}:-default}}"
        )
    whole.text.append(text[at:])
    result = "".join(whole.text)
    if reference and (literal or text[at:]) and re.fullmatch(_NAME, result):
        return environ.get(result, result)
    return result


def _close(parts: list[_Part], environ: Mapping[str, str]) -> None:
    """Put a reference with a default into the text around it."""
    default = parts.pop()
    value = environ.get(default.name)
    if value:
        parts[-1].text.append(value)
    else:
        parts[-1].text += default.text
        parts[-1].unset = parts[-1].unset or default.unset


def _malformed(rest: str) -> str:
    if "}" not in rest:
        return "${ has no closing brace; write ${NAME} or ${NAME:-default}"
    return "${…} holds no name of a variable; write ${NAME} or ${NAME:-default}"
