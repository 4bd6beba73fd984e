"""A checkpoint's matrices as what a layer asks of them, with as little around them as can be.

What comes after a product (an activation, a factor, the residual) is little work, but each one goes
through memory again: oneDNN takes it along where it can. Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from proxy.router.cpu import has_tiles

#: What a layer makes of the product with a matrix: takes it as it is, adds it to a second argument,
#: or takes the GELU of its first half, times its second (GeGLU: Shazeer, arXiv:2002.05202).
Use = Literal["taken", "added", "gated"]

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
        parts = [reorder(part) for part in weight.to(dtype).chunk(2 if use == "gated" else 1)]
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
    from torch.nn.functional import linear

    weight = weight.to(dtype)
    if use == "added":
        return lambda x, to: to + linear(x, weight)

    def taken(x: Any) -> Any:
        return linear(x, weight)

    return _gated(taken) if use == "gated" else taken


def int8(weight: Any, use: Use, dtype: Any) -> Matrix:
    """Each row of ``weight`` and each token in 255 steps, added up as integers by oneDNN.

    The result is in ``dtype``. Raises `AttributeError` and `RuntimeError` where torch has no such
    product.
    """
    import torch

    weight = weight.float()
    scales = _steps(weight)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    whole = torch.ops.onednn.qlinear_prepack((weight / scales).round().to(torch.int8), None)
    scales = scales.squeeze(1)
    # With tiles signed; else unsigned, as the CPU's instruction has it: zero is 128.
    signed = has_tiles()
    zero, kind = (0, torch.int8) if signed else (128, torch.uint8)

    def times(x: Any) -> tuple[Any, Any]:
        """The product, and what each of its rows is still to be multiplied by."""
        steps = _steps(x)
        small = x * steps.reciprocal()
        # The conversion cuts off.
        small = (small.round_() if signed else small.add_(128.5)).to(kind)
        y = torch.ops.onednn.qlinear_pointwise(
            small, 1.0, zero, whole, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return y, steps.to(dtype)

    def taken(x: Any) -> Any:
        y, steps = times(x)
        return y.mul_(steps)

    def added(x: Any, to: Any) -> Any:
        return torch.addcmul(to, *times(x))

    if use == "added":
        return added
    return _gated(taken) if use == "gated" else taken


def _gated(times: Callable[[Any], Any]) -> Matrix:
    from torch.nn.functional import gelu

    def gated(x: Any) -> Any:
        value, gate = times(x).chunk(2, dim=1)
        return gelu(value).mul_(gate)

    return gated


def _steps(x: Any) -> Any:
    """(rows, 1): what is one in each row's integers from -127 to 127."""
    return x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
