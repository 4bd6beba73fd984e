"""Files that others own, in which a part is ours: our part taken out, or put as it once was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from optictl.artifact import Shared
from optictl.blocks import block_lines, with_block, without_block
from optictl.handles import our_rows, with_handles

_HEADER = "# Models for LiteLLM, written by optictl: each change here is overwritten.\n"


def models_file(entries: Sequence[str]) -> bytes:
    """A file for LiteLLM to include, of the lines of entries of ``model_list``; all of it ours."""
    listed = "".join(f"\n  {line}" for line in entries) or " []"
    return f"{_HEADER}model_list:{listed}\n".encode()


def part(shared: Shared, content: bytes, path: Path) -> bytes:
    """What is ours in the file."""
    if shared == "handles":
        return json.dumps(our_rows(content)).encode()
    if shared == "models":
        return content
    return "\n".join(block_lines(content, path) or ()).encode()


def without(shared: Shared, content: bytes, path: Path) -> bytes:
    """The file without our part: as it would be had we never written to it.

    Raises `ConfigError` with FILE:LINE for markers that are broken.
    """
    if shared == "handles":
        return with_handles(content, [], path)
    if shared == "models":
        return models_file(())
    return without_block(content, path)


def transplanted(shared: Shared, content: bytes, source: bytes, path: Path) -> bytes:
    """``content`` with the part that is ours in ``source``, another state of the same file.

    ``source`` is empty where there was no file.
    """
    if shared == "handles":
        return with_handles(content, our_rows(source), path)
    if shared == "models":
        return source or models_file(())
    lines = block_lines(source, path) or ()
    return with_block(content, lines, path, where=shared)
