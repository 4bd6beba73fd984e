"""ModernBERT, as far as the classifier needs it (Warner et al., arXiv:2412.13663).

Only what the first token of a sequence becomes is asked for. Sequences lie one behind the other and
are never padded. Without transformers, whose modelling code takes 100 MB. Imports torch where it is
used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import orjson

from proxy.router.attention import Attention
from proxy.router.config import Unusable
from proxy.router.matrices import Build, Matrix, Use
from proxy.router.steps import best

#: The matrices of a layer, and what becomes of the products with them.
_USES: Mapping[str, Use] = {"Wqkv": "turned", "Wo": "added", "Wi": "gated"}

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
    """ModernBERT's layers over the tensors that it is given, computing in ``dtype``.

    ``build`` makes of a weight what a layer has a use for (`proxy.router.matrices`).
    """

    def __init__(self, config: Config, dtype: Any, build: Build) -> None:
        self._config = config
        self._dtype = dtype
        self._build = build
        self._steps = best(dtype)
        self._tensors: dict[str, Any] = {}
        self._matrices: dict[str, Matrix] = {}

    def take(self, name: str, tensor: Any) -> None:
        """Keep a tensor of the checkpoint in the form in which it is needed."""
        use = _USES.get(name.removesuffix(".weight").rpartition(".")[2])
        if use is None:
            self._tensors[name] = tensor.to(self._dtype)
            return
        if use == "turned":
            tensor = self._paired(tensor)
        self._matrices[name] = self._build(tensor, use, self._dtype)

    def first(self, batch: Sequence[Sequence[int]]) -> Any:
        """(len(batch), hidden_size): what the first token of each sequence of ids becomes."""
        import torch
        from torch.nn.functional import embedding

        config = self._config
        bounds = list(pairwise(accumulate(map(len, batch), initial=0)))
        ids = torch.tensor([token for tokens in batch for token in tokens])
        x = embedding(ids, self._tensors["embeddings.tok_embeddings.weight"])
        x = self._normed("embeddings.norm", x)
        at = torch.cat([torch.arange(len(tokens)) for tokens in batch])
        # What a layer that looks at all tokens goes by, and one that looks at its neighbours.
        kinds = [
            (self._rotation(at, theta), [Attention(len(each), window, x.dtype) for each in batch])
            for theta, window in (
                (config.global_rope_theta, None),
                (config.local_rope_theta, config.local_attention),
            )
        ]
        for index in range(config.num_hidden_layers):
            layer = f"layers.{index}"
            rotation, attentions = kinds[index % config.global_attn_every_n_layers > 0]
            seen = self._normed(f"{layer}.attn_norm", x) if index else x
            q, k, v = self._matrices[f"{layer}.attn.Wqkv.weight"](seen, rotation)
            mixed = torch.empty(len(x), *q.shape[::2], dtype=x.dtype)
            for attention, (begin, end) in zip(attentions, bounds, strict=True):
                own = slice(begin, end)
                attention(q[:, own], k[:, own], v[:, own], mixed[own])
            mixed = mixed.flatten(1)
            if index == config.num_hidden_layers - 1:
                # Of the last layer nothing else is asked for.
                starts = torch.tensor([begin for begin, _ in bounds])
                x, mixed = x[starts], mixed[starts]
            x = self._matrices[f"{layer}.attn.Wo.weight"](mixed, x)
            gated = self._matrices[f"{layer}.mlp.Wi.weight"](self._normed(f"{layer}.mlp_norm", x))
            x = self._matrices[f"{layer}.mlp.Wo.weight"](gated, x)
        return self._normed("final_norm", x)

    def _normed(self, name: str, x: Any) -> Any:
        return self._steps.normed(x, self._tensors[f"{name}.weight"], self._config.norm_eps)

    def _paired(self, qkv: Any) -> Any:
        """``qkv`` with the rows of queries and keys in another order within each head.

        A rotary position turns the i-th of the first half together with the i-th of the second:
        here they are neighbours, so that a pair is one complex number. Products do not change.
        """
        import torch

        heads, size = self._config.num_attention_heads, self._config.hidden_size
        turned, values = qkv.split((2 * size, size))
        turned = turned.unflatten(0, (2 * heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        return torch.cat([turned, values])

    def _rotation(self, at: Any, theta: float) -> Any:
        """What queries and keys at the positions ``at`` are multiplied by: (tokens, 2, 1, pairs).

        Queries are scaled, too, as their products with keys would have to be.
        """
        import torch

        pairs = self._config.hidden_size // self._config.num_attention_heads // 2
        angles = torch.outer(at.float(), theta ** (-torch.arange(pairs) / pairs))
        scales = torch.tensor([(2 * pairs) ** -0.5, 1.0]).view(2, 1, 1)
        return torch.polar(scales, angles.view(-1, 1, 1, pairs))


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
