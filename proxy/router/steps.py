"""What a layer computes between two products of matrices, in one pass where that can be compiled.

Torch takes everything through memory again for each operation, which in int8 is a third of a
decision. So `steps.c` is compiled for this very CPU when the classifier is loaded, which takes half
a second and leaves no file. Without a C compiler it is done with torch. Imports torch where it is
used.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from proxy.router.config import NO_COMPILER

#: What stands for the largest magnitude of a row in int8.
STEPS = 127

_SOURCE = Path(__file__).with_suffix(".c")
_COMPILE = (
    *("cc", "-c", "-fPIC", "-fopenmp", "-O3", "-march=native"),
    *("-fno-math-errno", "-fno-trapping-math"),
)
#: Without any library: that of the threads is torch's own, which is there when this is loaded.
_LINK = ("cc", "-shared", "-nostdlib")
_SECONDS = 60.0
#: What is logged where there is no compiler, or none that will do.
SLOWER = "the steps between products are torch's, so that int8 takes longer"
_log = logging.getLogger("optillm.router")


class Steps(Protocol):
    """``factor`` is (rows, 1). What it is multiplied with may be overwritten."""

    def normed(self, x: Any, weight: Any, eps: float) -> Any:
        """Each row of ``x``, (rows, width), by its mean and variance, times ``weight``."""

    def quantised(self, x: Any, zero: int) -> tuple[Any, Any]:
        """(rows, width) in 255 steps about ``zero``, and (rows, 1) what 127 of them stand for.

        They are int8 where ``zero`` is 0, else uint8.
        """

    def gated(self, value: Any, gate: Any, factor: Any) -> Any:
        """GELU of the first times the second, both times ``factor``."""

    def added(self, product: Any, to: Any, factor: Any) -> Any:
        """The first, times ``factor``, and the second."""

    def turned(self, qkv: Any, rotation: Any, factor: Any | None = None) -> tuple[Any, Any, Any]:
        """Of (tokens, 3 * heads * width) queries, keys and values, (heads, tokens, width) each.

        All are multiplied by ``factor``, and of queries and keys each two neighbours, as one
        complex number, by that of ``rotation``, (tokens, 2, 1, width / 2).
        """


@cache
def best(dtype: Any) -> Steps:
    """The fastest that this machine has for ``dtype``."""
    try:
        return Compiled(dtype)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.info("%s: %s", SLOWER, error)
        return Torch(str(error))


def magnitudes(x: Any) -> Any:
    """(rows, 1): the largest magnitude in each row, never zero."""
    import torch

    # Numbers without their signs are in the order of their bits, and integers are compared faster.
    bits, unsigned = (torch.int16, 0x7FFF) if x.itemsize == 2 else (torch.int32, 0x7FFFFFFF)
    return (x.view(bits) & unsigned).amax(1, keepdim=True).view(x.dtype).clamp_(min=1e-12)


class Torch:
    """Operation by operation; ``why`` not in one."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def normed(self, x: Any, weight: Any, eps: float) -> Any:
        from torch.nn.functional import layer_norm

        return layer_norm(x, weight.shape, weight, eps=eps)

    def quantised(self, x: Any, zero: int) -> tuple[Any, Any]:
        import torch

        largest = magnitudes(x)
        scaled = x.to(torch.float, copy=True).mul_(STEPS / largest.float())
        # The conversion cuts off.
        if zero:
            return scaled.add_(zero + 0.5).to(torch.uint8), largest
        return scaled.round_().to(torch.int8), largest

    def gated(self, value: Any, gate: Any, factor: Any) -> Any:
        from torch.nn.functional import gelu

        return gelu(value.mul_(factor)).mul_(gate.mul_(factor))

    def added(self, product: Any, to: Any, factor: Any) -> Any:
        import torch

        return torch.addcmul(to, product, factor)

    def turned(self, qkv: Any, rotation: Any, factor: Any | None = None) -> tuple[Any, Any, Any]:
        import torch

        if factor is not None:
            qkv.mul_(factor)
        size = qkv.shape[1] // 3
        width = 2 * rotation.shape[-1]
        pairs = qkv[:, : 2 * size].float().unflatten(1, (2, -1, width // 2, 2))
        turned = torch.view_as_real(torch.view_as_complex(pairs).mul_(rotation))
        q, k = turned.flatten(3).to(qkv.dtype).permute(1, 2, 0, 3)
        return q, k, qkv[:, 2 * size :].unflatten(1, (-1, width)).transpose(0, 1)


class Compiled:
    """By `steps.c`, of bf16 or fp32.

    Raises `OSError` and `subprocess.TimeoutExpired` where it cannot be compiled or loaded.
    """

    def __init__(self, dtype: Any) -> None:
        import torch

        self._library = _compiled(half=dtype == torch.bfloat16)

    def normed(self, x: Any, weight: Any, eps: float) -> Any:
        import torch

        x = x.contiguous()
        out = torch.empty_like(x)
        self._call("normed", x, weight, float(eps), out, *x.shape)
        return out

    def quantised(self, x: Any, zero: int) -> tuple[Any, Any]:
        import torch

        x = x.contiguous()
        steps = torch.empty_like(x, dtype=torch.uint8 if zero else torch.int8)
        largest = torch.empty(len(x), 1, dtype=torch.float32)
        self._call("quantised", x, zero, steps, largest, *x.shape)
        return steps, largest

    def gated(self, value: Any, gate: Any, factor: Any) -> Any:
        self._call("gated", value, gate, factor, *value.shape)
        return value

    def added(self, product: Any, to: Any, factor: Any) -> Any:
        self._call("added", product, to, factor, *product.shape)
        return product

    def turned(self, qkv: Any, rotation: Any, factor: Any | None = None) -> tuple[Any, Any, Any]:
        pairs = rotation.shape[-1]
        heads = qkv.shape[1] // (6 * pairs)
        self._call("turned", qkv, rotation, factor, len(qkv), heads, pairs)
        q, k, v = qkv.unflatten(1, (3, heads, 2 * pairs)).permute(1, 2, 0, 3)
        return q, k, v

    def _call(self, name: str, *arguments: Any) -> None:
        """Tensors and None are passed as pointers, integers as C's long."""
        import torch

        passed: list[Any] = []
        for each in arguments:
            if isinstance(each, torch.Tensor):
                if not each.is_contiguous():
                    raise ValueError(f"{name}: a tensor with gaps, {tuple(each.stride())}")
                passed.append(ctypes.c_void_p(each.data_ptr()))
            elif isinstance(each, float):
                passed.append(ctypes.c_float(each))
            else:
                passed.append(None if each is None else ctypes.c_long(each))
        getattr(self._library, name)(*passed, ctypes.c_long(torch.get_num_threads()))


def _compiled(*, half: bool) -> ctypes.CDLL:
    with TemporaryDirectory(prefix="optillm-steps-", ignore_cleanup_errors=True) as folder:
        parts, whole = Path(folder, "steps.o"), Path(folder, "steps.so")
        _run([*_COMPILE, f"-DHALF={half:d}", "-o", str(parts), str(_SOURCE)], folder)
        _run([*_LINK, "-o", str(whole), str(parts)], folder)
        if not hasattr(os, "memfd_create"):
            # Python was built for a glibc of before 2018.
            return ctypes.CDLL(str(whole))
        # Temporary files may not be executed on many a server; and of each its own, since a library
        # is known by its path.
        descriptor = os.memfd_create(f"optillm-steps-{half:d}")
        os.write(descriptor, whole.read_bytes())
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _run(command: Sequence[str], folder: str) -> None:
    """Raises `OSError` with the first line of what it says where it fails."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": folder},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise OSError(NO_COMPILER) from None
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise OSError(f"cc ended with {done.returncode}: {said}")
