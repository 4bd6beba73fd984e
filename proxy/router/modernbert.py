"""ModernBERT, as far as the classifier needs it (Warner et al., arXiv:2412.13663).

Only what the first token of a sequence becomes is asked for. Sequences lie one behind the other and
are never padded, and a layer that looks at a window computes no more than that. Without
transformers, whose modelling code takes 100 MB. Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import orjson

from proxy.router.config import Unusable

#: (tokens, in) to (tokens, out), by one matrix of the checkpoint.
Multiply = Callable[[Any], Any]

#: What a layer is called in a ``config.json`` of transformers 5, and where it has its rotation.
_EVERYWHERE, _NEAR = "full_attention", "sliding_attention"
_FRACTIONS = ("global_rope_theta", "local_rope_theta", "norm_eps")
_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """What a ``config.json`` says, as transformers 4 and 5 write it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    #: Tokens that a layer with a window looks at, half of them to either side.
    local_attention: int = 128
    #: Every so many layers, from the first on, one looks at all tokens.
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @classmethod
    def read(cls, file: Path) -> Config:
        """Raises `Unusable` for one that does not describe this model, and `OSError`."""
        try:
            said = orjson.loads(file.read_bytes())
        except ValueError:
            raise Unusable(f"{file} is not JSON") from None
        if not isinstance(said, dict) or said.get("model_type") != "modernbert":
            raise Unusable(f"{file} does not describe a ModernBERT")
        said |= _older(said)
        known: dict[str, Any] = {}
        for each in fields(cls):
            value = known[each.name] = said.get(each.name, each.default)
            kind = (int, float) if each.name in _FRACTIONS else int
            if not isinstance(value, kind) or not 0 < value < _MOST:
                raise Unusable(f"{file}: {each.name} is {said.get(each.name)!r}")
        for name, divisor in (
            ("hidden_size", 2 * known["num_attention_heads"]),
            ("local_attention", 2),
        ):
            if known[name] % divisor:
                raise Unusable(f"{file}: {name} is {known[name]}, no multiple of {divisor}")
        if said.get("hidden_activation", "gelu") != "gelu":
            raise Unusable(f"{file}: hidden_activation is {said['hidden_activation']!r}")
        return cls(**known)


class Encoder:
    """ModernBERT's layers over tensors and matrices that are called as in the checkpoint."""

    def __init__(
        self, config: Config, tensors: Mapping[str, Any], matrices: Mapping[str, Multiply]
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._matrices = matrices

    def first(self, batch: Sequence[Sequence[int]]) -> Any:
        """(len(batch), hidden_size): what the first token of each sequence of ids becomes."""
        import torch
        from torch.nn.functional import embedding, gelu

        config = self._config
        bounds = list(pairwise(accumulate(map(len, batch), initial=0)))
        ids = torch.tensor([token for tokens in batch for token in tokens])
        x = embedding(ids, self._tensors["embeddings.tok_embeddings.weight"])
        x = self._normed("embeddings.norm", x)
        at = torch.cat([torch.arange(len(tokens)) for tokens in batch])
        half = config.local_attention // 2
        windows = [_window(end - begin, half, x.dtype) for begin, end in bounds]
        everywhere = self._rotation(at, config.global_rope_theta, x.dtype)
        near = self._rotation(at, config.local_rope_theta, x.dtype)
        for index in range(config.num_hidden_layers):
            layer = f"layers.{index}"
            seen = self._normed(f"{layer}.attn_norm", x) if index else x
            qkv = self._matrices[f"{layer}.attn.Wqkv.weight"](seen)
            # Each is (heads, tokens, width).
            q_k_v = qkv.unflatten(1, (3, config.num_attention_heads, -1)).permute(1, 2, 0, 3)
            local = index % config.global_attn_every_n_layers > 0
            q, k = _turned(q_k_v[:2], *(near if local else everywhere))
            v = q_k_v[2]
            mixed = [
                _attended(
                    q[:, begin:end], k[:, begin:end], v[:, begin:end], window if local else None
                )
                for (begin, end), window in zip(bounds, windows, strict=True)
            ]
            together = torch.cat(mixed, dim=1).transpose(0, 1).flatten(1)
            if index == config.num_hidden_layers - 1:
                # Of the last layer nothing else is asked for.
                starts = torch.tensor([begin for begin, _ in bounds])
                x, together = x[starts], together[starts]
            x += self._matrices[f"{layer}.attn.Wo.weight"](together)
            seen = self._normed(f"{layer}.mlp_norm", x)
            value, gate = self._matrices[f"{layer}.mlp.Wi.weight"](seen).chunk(2, dim=1)
            x += self._matrices[f"{layer}.mlp.Wo.weight"](gelu(value).mul_(gate))
        return self._normed("final_norm", x)

    def _normed(self, name: str, x: Any) -> Any:
        from torch.nn.functional import layer_norm

        weight = self._tensors[f"{name}.weight"]
        return layer_norm(x, weight.shape, weight, eps=self._config.norm_eps)

    def _rotation(self, at: Any, theta: float, dtype: Any) -> tuple[Any, Any]:
        """Cosines and sines of the rotary positions ``at``: (2, 1, tokens, width / 2) each.

        The first of two is for queries: scaled, as their products with keys would have to be.
        """
        import torch

        half = self._config.hidden_size // self._config.num_attention_heads // 2
        angles = torch.outer(at.float(), theta ** (-torch.arange(half) / half))
        scales = torch.tensor([(2 * half) ** -0.5, 1.0]).view(2, 1, 1, 1)
        return (angles.cos() * scales).to(dtype), (angles.sin() * scales).to(dtype)


def _turned(x: Any, cos: Any, sin: Any) -> Any:
    """``x``, (2, heads, tokens, width), with its positions, without copies in between."""
    import torch

    a, b = x.chunk(2, dim=-1)
    turned = torch.empty(x.shape, dtype=x.dtype)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=left)
    left.addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=right)
    right.addcmul_(a, sin)
    return turned


def _attended(q: Any, k: Any, v: Any, window: Any | None) -> Any:
    """Attention of one sequence, (heads, tokens, width) each; ``q`` is scaled already.

    With a ``window``, in blocks of half of it, each of which sees itself and its neighbours.
    Products of matrices are up to twice as fast as torch's fused kernel where there is no AMX.
    """
    from torch.nn.functional import pad

    if window is None:
        return (q @ k.transpose(1, 2)).softmax(-1) @ v
    length, half = q.shape[1], window.shape[1]
    rest = -length % half
    q = pad(q, (0, 0, 0, rest)).unflatten(1, (-1, half))
    # (heads, blocks, width, 3 * half)
    k, v = (pad(each, (0, 0, half, half + rest)).unfold(1, 3 * half, half) for each in (k, v))
    mixed = (q @ k + window).softmax(-1) @ v.transpose(2, 3)
    return mixed.flatten(1, 2)[:, :length]


def _window(length: int, half: int, dtype: Any) -> Any | None:
    """What is added to the scores of a block, (blocks, half, 3 * half); None where all is seen."""
    import torch

    if length <= half + 1:
        return None
    q = torch.arange(length + -length % half).view(-1, half, 1)
    k = q[:, :1] - half + torch.arange(3 * half)
    seen = ((q - k).abs() <= half) & (k >= 0) & (k < length)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))


def _older(said: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 5 says in other words than 4, in those of 4; as it is where 4 has none."""
    found: dict[str, Any] = {}
    rotations = said.get("rope_parameters")
    if isinstance(rotations, dict):
        for name, kind in (("global_rope_theta", _EVERYWHERE), ("local_rope_theta", _NEAR)):
            rotation = rotations.get(kind)
            found[name] = rotation
            if isinstance(rotation, dict) and rotation.get("rope_type") == "default":
                found[name] = rotation.get("rope_theta")
    layers = said.get("layer_types")
    if isinstance(layers, list) and layers:
        every = [*layers, _EVERYWHERE].index(_EVERYWHERE, 1)
        regular = [_NEAR if index % every else _EVERYWHERE for index in range(len(layers))]
        found["global_attn_every_n_layers"] = every if layers == regular else layers
    return found
