"""A checkpoint of the real layout and tiny dimensions, and what a plain reference makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: As the real one is written: by transformers 4.47, whose names for rotary embeddings are older.
CONFIG: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "bos_token_id": 256,
    "cls_token_id": 256,
    "eos_token_id": 257,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-05,
    "local_attention": 8,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "pad_token_id": 258,
    "position_embedding_type": "absolute",
    "sep_token_id": 257,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": 264,
}


def write_checkpoint(folder: Path) -> Path:
    """Write config, weights and tokenizer into ``folder`` by the code that wrote the real ones."""
    import torch
    from safetensors.torch import save_model
    from torch import nn
    from transformers import ModernBertConfig, ModernBertModel

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(5)
    classifier = nn.Module()
    classifier.base_model = ModernBertModel(ModernBertConfig.from_pretrained(folder))
    classifier.effort_encoder = nn.Sequential(
        nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
    )
    classifier.classifier = nn.Linear(32 + 64, 13)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_(std=0.3)
    save_model(classifier, str(folder / "model.safetensors"))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(file: Path) -> None:
    """A tokenizer of bytes, each a token, which pads and cuts at 16 unless told otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["[CLS]", "[SEP]", "[PAD]"]
    tokenizer = Tokenizer(
        models.BPE({name: at for at, name in enumerate([*alphabet, *special])}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 256), ("[SEP]", 257)]
    )
    tokenizer.enable_padding(length=16, pad_id=258, pad_token="[PAD]")
    tokenizer.enable_truncation(16)
    tokenizer.save(str(file))


def reference_logits(folder: Path, ids: Sequence[int], effort: float) -> Any:
    """The classifier in plain torch, one sequence at a time (Warner et al., arXiv:2412.13663)."""
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import gelu, layer_norm

    weights = load_file(folder / "model.safetensors")
    size, heads = CONFIG["hidden_size"], CONFIG["num_attention_heads"]
    width, length = size // heads, len(ids)

    def normed(x: Any, name: str) -> Any:
        return layer_norm(x, (size,), weights[f"base_model.{name}.weight"], eps=CONFIG["norm_eps"])

    def times(x: Any, name: str) -> Any:
        return x @ weights[f"base_model.{name}.weight"].T

    at = torch.arange(length)
    near = (at[:, None] - at[None, :]).abs() <= CONFIG["local_attention"] // 2
    x = normed(weights["base_model.embeddings.tok_embeddings.weight"][list(ids)], "embeddings.norm")
    for layer in range(CONFIG["num_hidden_layers"]):
        everywhere = layer % CONFIG["global_attn_every_n_layers"] == 0
        theta = CONFIG["global_rope_theta" if everywhere else "local_rope_theta"]
        seen = x if layer == 0 else normed(x, f"layers.{layer}.attn_norm")
        q, k, v = times(seen, f"layers.{layer}.attn.Wqkv").view(length, 3, heads, width).unbind(1)
        scores = torch.einsum("ihd,jhd->hij", _turned(q, theta), _turned(k, theta)) / width**0.5
        if not everywhere:
            scores = scores.masked_fill(~near, float("-inf"))
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(length, size)
        x = x + times(mixed, f"layers.{layer}.attn.Wo")
        value, gate = times(normed(x, f"layers.{layer}.mlp_norm"), f"layers.{layer}.mlp.Wi").chunk(
            2, dim=-1
        )
        x = x + times(gelu(value) * gate, f"layers.{layer}.mlp.Wo")
    first = normed(x, "final_norm")[0]
    return _linear(
        weights, "classifier", torch.cat([first, _effort(weights, torch.tensor([effort]))])
    )


def _effort(weights: Mapping[str, Any], effort: Any) -> Any:
    hidden = _linear(weights, "effort_encoder.0", effort).relu()
    return _linear(weights, "effort_encoder.2", hidden).relu()


def _linear(weights: Mapping[str, Any], name: str, x: Any) -> Any:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _turned(x: Any, theta: float) -> Any:
    """Rotary positions: (length, heads, width), halves of the width turned against each other."""
    import torch

    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[0])[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
