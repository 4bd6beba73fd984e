"""A checkpoint's matrices as what a layer asks of them, with as little around them as can be.

What comes after a product (an activation, a factor, the residual) is little work, but each one goes
through memory again: oneDNN takes it along where it can. Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from proxy.router.cpu import has_tiles

#: What a layer makes of the product with a matrix: takes it as it is, adds it to a second argument,
#: or takes the GELU of its first half, times its second (GeGLU: Shazeer, arXiv:2002.05202).
Use = Literal["taken", "added", "gated"]

#: What stands for the largest magnitude of a row in int8.
_STEPS = 127

#: (tokens, in) to (tokens, out), or half of that where it is gated; ``added`` takes two.
Matrix = Callable[..., Any]
#: Of a weight, (out, in), what it is used for, and the dtype to compute in.
Build = Callable[[Any, Use, Any], Matrix]


def packed(weight: Any, use: Use, dtype: Any) -> Matrix:
    """In oneDNN's own order, which is faster: 2.5 times in fp32 on AMD, 1.1 in bf16."""
    import torch

    try:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        product = torch.ops.mkldnn._linear_pointwise
        with_another = product.binary
        parts = [reorder(part) for part in _parts(weight.to(dtype), use)]
    except (AttributeError, RuntimeError):
        # Not in this build of torch, or not for bf16 on this CPU.
        return plain(weight, use, dtype)
    if use == "gated":
        value, gate = parts
        return lambda x: with_another(
            x, product(x, value, None, "gelu", [], "none"), gate, None, "mul"
        )
    (whole,) = parts
    if use == "added":
        return lambda x, to: with_another(x, to, whole, None, "add")
    return lambda x: product(x, whole, None, "none", [], "")


def plain(weight: Any, use: Use, dtype: Any) -> Matrix:
    """In the order of the checkpoint."""
    from torch.nn.functional import gelu, linear

    parts = _parts(weight.to(dtype), use)
    if use == "gated":
        value, gate = parts
        return lambda x: gelu(linear(x, value)).mul_(linear(x, gate))
    (whole,) = parts
    if use == "added":
        return lambda x, to: to + linear(x, whole)
    return lambda x: linear(x, whole)


def int8(weight: Any, use: Use, dtype: Any) -> Matrix:
    """Each row of ``weight`` and each token in 255 steps, added up as integers by oneDNN.

    The result is in ``dtype``. Raises `AttributeError` and `RuntimeError` where torch has no such
    product.
    """
    import torch
    from torch.nn.functional import gelu

    # With tiles signed; else unsigned, as the CPU's instruction has it: zero is 128.
    signed = has_tiles()
    zero, kind = (0, torch.int8) if signed else (128, torch.uint8)

    def product(part: Any) -> Callable[[Any], Any]:
        steps = _largest(part) / _STEPS
        matrix = torch.ops.onednn.qlinear_prepack((part / steps).round().to(torch.int8), None)
        scales, zeros = steps.squeeze(1), torch.zeros(len(part), dtype=torch.long)
        return lambda small: torch.ops.onednn.qlinear_pointwise(
            small, 1 / _STEPS, zero, matrix, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
        )

    def small(x: Any) -> tuple[Any, Any]:
        """``x`` as integers, and what each row of a product of them is to be multiplied by."""
        largest = _largest(x)
        scaled = x.to(torch.float, copy=True).mul_(_STEPS / largest.float())
        # The conversion cuts off.
        return (scaled.round_() if signed else scaled.add_(128.5)).to(kind), largest

    parts = [product(part) for part in _parts(weight.float(), use)]
    if use == "gated":
        value, gate = parts

        def gated(x: Any) -> Any:
            x, largest = small(x)
            return gelu(value(x).mul_(largest)).mul_(gate(x).mul_(largest))

        return gated
    (whole,) = parts
    if use == "added":

        def added(x: Any, to: Any) -> Any:
            x, largest = small(x)
            return torch.addcmul(to, whole(x), largest)

        return added

    def taken(x: Any) -> Any:
        x, largest = small(x)
        return whole(x).mul_(largest)

    return taken


def _parts(weight: Any, use: Use) -> Sequence[Any]:
    """The matrices of which each has a product of its own: GELU of half a product is slower."""
    parts: Sequence[Any] = weight.chunk(2 if use == "gated" else 1)
    return parts


def _largest(x: Any) -> Any:
    """(rows, 1): the largest magnitude in each row, never zero."""
    import torch

    # Numbers without their signs are in the order of their bits, and integers are compared faster.
    bits, unsigned = (torch.int16, 0x7FFF) if x.itemsize == 2 else (torch.int32, 0x7FFFFFFF)
    return (x.view(bits) & unsigned).amax(1, keepdim=True).view(x.dtype).clamp_(min=1e-12)
