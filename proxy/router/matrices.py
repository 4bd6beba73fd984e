"""A checkpoint's matrices as what a layer asks of them, with as little around them as can be.

What comes after a product (an activation, a factor, the residual) is little work, but each one goes
through memory again: oneDNN takes it along where it can. Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

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
    return _then(lambda x: linear(x, weight), use)


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

    def times(x: Any) -> Any:
        steps = _steps(x)
        # Unsigned, as the CPU's instruction has it: zero is 128. The conversion cuts off.
        small = (x * steps.reciprocal()).add_(128.5).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            small, 1.0, 128, whole, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return y.mul_(steps.to(dtype))

    return _then(times, use)


def _then(times: Callable[[Any], Any], use: Use) -> Matrix:
    from torch.nn.functional import gelu

    def gated(x: Any) -> Any:
        value, gate = times(x).chunk(2, dim=1)
        return gelu(value).mul_(gate)

    if use == "gated":
        return gated
    if use == "added":
        return lambda x, to: times(x).add_(to)
    return times


def _steps(x: Any) -> Any:
    """(rows, 1): what is one in each row's integers from -127 to 127."""
    return x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
