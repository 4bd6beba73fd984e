"""A checkpoint of the real layout and tiny dimensions, written without torch; all zeros."""

from __future__ import annotations

import json
from pathlib import Path

from proxy.router.checkpoint import layout

SIZES = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2}


def write_classifier(folder: Path, *, leave_out: str = "") -> Path:
    """Write config, tokenizer and tensors, but for the one called ``leave_out``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "modernbert", "num_attention_heads": 2, **SIZES}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    header, end = {}, 0
    for name, shape in layout(**SIZES):
        if name == leave_out:
            continue
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return folder
