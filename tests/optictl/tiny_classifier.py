"""A checkpoint of the real layout and tiny dimensions, written without torch; all zeros."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from proxy.router.checkpoint import layout

SIZES = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2}
SHAPES: Mapping[str, tuple[int, ...]] = dict(layout(**SIZES))


def write_classifier(folder: Path, *, leave_out: str = "") -> Path:
    """Write config, tokenizer and tensors, but for the one called ``leave_out``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "modernbert", "num_attention_heads": 2, **SIZES}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    write_weights(folder, {name: shape for name, shape in SHAPES.items() if name != leave_out})
    return folder


def write_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write tensors of zeros, one behind the other."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def _without_a_tensor(folder: Path) -> None:
    write_classifier(folder, leave_out="classifier.bias")


def _with_one_too_many(folder: Path) -> None:
    write_weights(folder, {**SHAPES, "pooler.weight": (4,)})


def _with_one_turned(folder: Path) -> None:
    write_weights(folder, {**SHAPES, "classifier.weight": SHAPES["classifier.weight"][::-1]})


def _cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


#: What can become of a folder with a classifier, and how that is told, behind the folder's name.
DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "a tensor is missing": (
        _without_a_tensor, "/model.safetensors: the tensor classifier.bias is missing"
    ),
    "a tensor is too many": (
        _with_one_too_many, "/model.safetensors: the tensor pooler.weight belongs to no part of it"
    ),
    "a tensor has another shape": (
        _with_one_turned,
        "/model.safetensors: the tensor classifier.weight has the shape (68, 13) where (13, 68) is "
        "wanted",
    ),
    "the weights are cut short": (_cut_short, "/model.safetensors is cut short: "),
    "there is no tokenizer": (
        _without_tokenizer, "/tokenizer.json is missing: there is no tokenizer"
    ),
}  # fmt: skip
