"""Whether int8 may stand in for the full precision here: found out once, and remembered.

What was found lies beside the weights, in a file of its own, and holds for these weights, this
build of torch and this kind of CPU only: with others, nothing is known. Without torch.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from proxy.router.checkpoint import Checkpoint

#: Of the prompts that both decide, what int8 has to decide as the full precision does.
PARITY = 0.99
#: What int8 may take where the full precision takes 1: half of the memory is worth a few
#: milliseconds, and two runs of one of them differ by as much.
_AS_FAST = 1.25
_NAME = "calibration.json"
#: Lines of /proc/cpuinfo that say what a CPU can do.
_KIND = ("model name", "flags", "Features", "CPU part")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How int8 did beside the full precision, on the same prompts."""

    #: The share of the prompts for which both have the same first choice.
    alike: float
    #: Seconds that each takes for a question of 128 tokens; 0 for int8 where it cannot be had.
    full: float
    small: float
    #: Why int8 is not to be had; empty where it is.
    why: str = ""
    #: Whether there was a C compiler, with which int8 is faster.
    compiled: bool = True

    @property
    def allowed(self) -> bool:
        """Whether int8 decides as the full precision does."""
        return not self.why and self.alike >= PARITY

    @property
    def better(self) -> bool:
        """Whether it is nearly as fast besides, or faster; it takes half of the memory."""
        return self.allowed and self.small <= _AS_FAST * self.full

    def __str__(self) -> str:
        if self.why:
            return f"int8 refused: {self.why}"
        alike = f"decides {self.alike:.1%} of the prompts alike"
        if not self.allowed:
            return f"int8 refused: it {alike}, not {PARITY:.0%}"
        return f"int8 {alike}, {self.full / self.small:.1f} times as fast"


def remembered(checkpoint: Checkpoint) -> Calibration | None:
    """What was found here for ``checkpoint``; None where nothing was, or it does not hold."""
    try:
        said = orjson.loads(_file(checkpoint).read_bytes())
        if said.pop("of") != _of(checkpoint):
            return None
        return Calibration(**said)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def tried(checkpoint: Checkpoint) -> bool:
    """Whether anything was ever found, be it outdated."""
    return _file(checkpoint).exists()


def outdated(checkpoint: Checkpoint) -> bool:
    """Whether something was found, for another torch, CPU or checkpoint, that holds no more."""
    return tried(checkpoint) and remembered(checkpoint) is None


def remember(checkpoint: Checkpoint, found: Calibration) -> None:
    """Write it down for whoever loads ``checkpoint``, whole or not at all. Raises `OSError`."""
    file = _file(checkpoint)
    descriptor, name = tempfile.mkstemp(prefix=f".{_NAME}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(orjson.dumps({"of": _of(checkpoint), **asdict(found)}))
            # The service's user reads what root may have written.
            os.fchmod(out.fileno(), 0o644)
        Path(name).replace(file)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _file(checkpoint: Checkpoint) -> Path:
    return checkpoint.folder / _NAME


def _of(checkpoint: Checkpoint) -> list[int | str]:
    """What a calibration holds for."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return [*checkpoint.stamp, torch, _cpu()]


def _cpu() -> str:
    """A name for this kind of CPU; that of nothing where it cannot be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(_KIND)})
    return hashlib.sha256("\n".join(kind).encode()).hexdigest()[:16]
