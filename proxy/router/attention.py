"""Attention within one sequence, in blocks where a token looks at its neighbours only."""

from __future__ import annotations

from typing import Any

from proxy.router.cpu import has_tiles


class Attention:
    """For sequences of ``length`` tokens, of queries that are scaled already.

    With a ``window`` a token looks at itself and at half of that many tokens to either side. Each
    block of so many tokens then computes with what is within its reach, and with no more.
    """

    def __init__(self, length: int, window: int | None, dtype: Any) -> None:
        import torch

        tiles = dtype == torch.bfloat16 and has_tiles()
        self._mixed = _fused if tiles else _products
        if window is None or length <= window // 2 + 1:
            everything = slice(length)
            #: Queries, the keys that they look at, and what is added to their scores.
            self._blocks: list[tuple[slice, slice, Any | None]] = [(everything, everything, None)]
            return
        reach = window // 2
        self._blocks = []
        for begin in range(0, length, window):
            end = min(begin + window, length)
            near = slice(max(begin - reach, 0), min(end + reach, length))
            self._blocks.append((slice(begin, end), near, _hidden(begin, end, near, reach, dtype)))

    def __call__(self, q: Any, k: Any, v: Any, out: Any) -> None:
        """From (heads, tokens, width) each into ``out``, (tokens, heads, width)."""
        for asking, seen, hidden in self._blocks:
            mixed = self._mixed(q[:, asking], k[:, seen], v[:, seen], hidden)
            out[asking] = mixed.transpose(0, 1)


def _hidden(begin: int, end: int, near: slice, reach: int, dtype: Any) -> Any:
    """(queries, keys): -inf where a key is out of reach."""
    import torch

    apart = torch.arange(begin, end).unsqueeze(1) - torch.arange(near.start, near.stop)
    return torch.zeros(apart.shape, dtype=dtype).masked_fill_(apart.abs() > reach, float("-inf"))


def _fused(q: Any, k: Any, v: Any, hidden: Any | None) -> Any:
    """Torch's kernel: with AMX up to three times as fast as `_products`."""
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = (each.unsqueeze(0) for each in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=hidden, scale=1.0).squeeze(0)


def _products(q: Any, k: Any, v: Any, hidden: Any | None) -> Any:
    """Step by step: without AMX up to twice as fast as `_fused`."""
    scores = q @ k.transpose(1, 2)
    if hidden is not None:
        scores += hidden
    return scores.softmax(-1) @ v
