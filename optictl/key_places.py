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


def read_key(place: KeyPlace, root: Path = Path("/")) -> Secret:
    """The key at ``place``. Raises `ConfigError` naming file and variable, never a value.

    In the staging tree ``root`` a file that is there comes before this machine's.
    """
    if place.file is not None:
        return read_key_file(str(staged(place.file, root)), "key")
    if place.env_file is None or place.name is None:
        raise ConfigError("a key needs 'file', or 'env_file' with the variable's 'name'")
    try:
        content = staged(place.env_file, root).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {place.env_file}: {error.strerror}") from None
    return key_in(content, place.name, place.env_file)


def key_in(content: bytes, name: str, where: str) -> Secret:
    """The key that the file of variables ``where`` sets as ``name``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # its words show the bytes
        raise ConfigError(f"{where} is not UTF-8") from None
    found: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is not None and assignment[1] == name:
            found = _value(assignment[2], f"{where}:{number}: {name}")
    if found is None:
        raise ConfigError(f"{where} does not set {name}")
    return key_from_flag(found, f"{where}: {name}")


def staged(file: str, root: Path) -> Path:
    """``file``, or what stands for it in the staging tree ``root``."""
    if root == Path("/"):
        return Path(file)
    inside = root / file.lstrip("/")
    return inside if inside.exists() else Path(file)


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
