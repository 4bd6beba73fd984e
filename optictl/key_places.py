"""Reads a secret from where the site says that it lives."""

from __future__ import annotations

import re
from pathlib import Path

from optictl.site import KeyPlace
from proxy.errors import ConfigError
from proxy.settings import Secret, key_from_flag, read_key_file

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s+#.*)?')
_SINGLE = re.compile(r"'([^']*)'(?:\s+#.*)?")
_COMMENT = re.compile(r"\s+#.*")


def read_key(place: KeyPlace) -> Secret:
    """The key at ``place``. Raises `ConfigError` naming file and variable, never a value."""
    if place.file is not None:
        return read_key_file(place.file, "key")
    if place.env_file is None or place.name is None:
        raise ConfigError("a key needs 'file', or 'env_file' with the variable's 'name'")
    try:
        text = Path(place.env_file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:  # its words show the bytes
        raise ConfigError(f"{place.env_file} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {place.env_file}: {error.strerror}") from None
    found: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is not None and assignment[1] == place.name:
            found = _value(assignment[2], f"{place.env_file}:{number}: {place.name}")
    if found is None:
        raise ConfigError(f"{place.env_file} does not set {place.name}")
    return key_from_flag(found, f"{place.env_file}: {place.name}")


def _value(text: str, where: str) -> str:
    if text.startswith('"'):
        double = _DOUBLE.fullmatch(text)
        if double is not None:
            return re.sub(r"\\(.)", r"\1", double[1])
    elif text.startswith("'"):
        single = _SINGLE.fullmatch(text)
        if single is not None:
            return single[1]
    else:
        return _COMMENT.sub("", text)
    raise ConfigError(f"{where}: the quotes do not close")
