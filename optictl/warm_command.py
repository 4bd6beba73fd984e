"""``gateway.warm_command``: a program of the operator's that loads the members of an ensemble."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from optictl.errors import EnsembleFailed
from proxy.ensembles import Ensemble

#: Seconds that it may take.
TIMEOUT = 600.0
#: Seconds between two looks at what it says.
_PAUSE = 0.05


def filled(command: Sequence[str], ensemble: Ensemble) -> list[str]:
    """Its words: ``{ensemble}`` is the name, the word ``{models}`` becomes a word for each."""
    words: list[str] = []
    for word in command:
        if word == "{models}":
            words += dict.fromkeys(member.model for member in ensemble.team.members)
        else:
            words.append(word.replace("{ensemble}", ensemble.name))
    return words


def run(words: Sequence[str], tell: Callable[[str], None], *, timeout: float = TIMEOUT) -> None:
    """Run it to its end; what it says goes to ``tell``, a line at a time, as it comes.

    A server that it has started and left behind goes on. Raises `EnsembleFailed`, with its last
    line, where it fails or takes longer than ``timeout`` seconds: then it is ended, with all that
    it has started.
    """
    # No pipe: who is left behind would die of writing to one that nobody reads.
    with (
        tempfile.NamedTemporaryFile(prefix="optictl-") as output,
        Path(output.name).open("rb") as reader,
    ):
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise EnsembleFailed(
                f"gateway.warm_command: cannot run {words[0]}: {error.strerror}"
            ) from None
        last = ""
        try:
            for last in _lines(process, reader, time.monotonic() + timeout):
                tell(last)
        finally:
            status = process.poll()
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != 0:
        how = f"not done after {timeout:g} s" if status is None else f"exit status {status}"
        said = f"gateway.warm_command: {shlex.join(words)}: {how}"
        raise EnsembleFailed(f"{said}: {last}" if last else said)


def _lines(process: subprocess.Popen[bytes], reader: BinaryIO, end: float) -> Iterator[str]:
    """What it says until it ends, or until ``end``; blank lines say nothing."""
    begun = b""
    while True:
        # Asked first: what it has said by then is all there.
        over = process.poll() is not None or time.monotonic() >= end
        # A bar of progress goes back to the start of its line.
        *whole, begun = (begun + reader.read()).replace(b"\r", b"\n").split(b"\n")
        for line in [*whole, begun] if over else whole:
            if line.strip():
                yield line.decode(errors="replace").strip()
        if over:
            return
        time.sleep(_PAUSE)
