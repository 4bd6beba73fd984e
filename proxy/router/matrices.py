"""A checkpoint's matrices as what a layer asks of them, with as little around them as can be.

What comes after a product (an activation, a factor, the residual) is little work, but each one goes
through memory again: oneDNN takes it along where it can. Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from proxy.router.cpu import has_tiles
from proxy.router.steps import STEPS, best, magnitudes

#: What a layer makes of the product with a matrix: turns it by a second argument, adds it to one,
#: or takes the GELU of its first half, times its second (GeGLU: Shazeer, arXiv:2002.05202).
Use = Literal["turned", "added", "gated"]

#: (tokens, in) to (tokens, out), or half of that where it is gated. What is turned is taken apart,
#: too (`Steps.turned`).
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
    steps = best(dtype)
    return lambda x, by: steps.turned(product(x, whole, None, "none", [], ""), by)


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
    steps = best(dtype)
    return lambda x, by: steps.turned(linear(x, whole), by)


def int8(weight: Any, use: Use, dtype: Any) -> Matrix:
    """Each row of ``weight`` and each token in 255 steps, added up as integers by oneDNN.

    The result is in ``dtype``. Raises `AttributeError` and `RuntimeError` where torch has no such
    product.
    """
    import torch

    steps = best(dtype)
    # With tiles signed; else unsigned, as the CPU's instruction has it.
    zero = 0 if has_tiles() else 128

    def product(part: Any) -> Callable[[Any], Any]:
        one = magnitudes(part) / STEPS
        matrix = torch.ops.onednn.qlinear_prepack((part / one).round().to(torch.int8), None)
        ones, zeros = one.squeeze(1), torch.zeros(len(part), dtype=torch.long)
        return lambda small: torch.ops.onednn.qlinear_pointwise(
            small, 1 / STEPS, zero, matrix, ones, zeros, None, 1.0, 0, dtype, "none", [], ""
        )

    parts = [product(part) for part in _parts(weight.float(), use)]
    if use == "gated":
        value, gate = parts

        def gated(x: Any) -> Any:
            small, factor = steps.quantised(x, zero)
            return steps.gated(value(small), gate(small), factor)

        return gated
    (whole,) = parts

    def another(x: Any, other: Any) -> Any:
        small, factor = steps.quantised(x, zero)
        return (steps.added if use == "added" else steps.turned)(whole(small), other, factor)

    return another


def _parts(weight: Any, use: Use) -> Sequence[Any]:
    """The matrices of which each has a product of its own: GELU of half a product is slower."""
    parts: Sequence[Any] = weight.chunk(2 if use == "gated" else 1)
    return parts
