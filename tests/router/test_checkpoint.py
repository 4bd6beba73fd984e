"""A checkpoint is found, and what is wrong with it is told by name, without torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import CONFIG

from proxy.router.checkpoint import REPOSITORY, cached, find, inspect, layout
from proxy.router.config import RouterSettings, Unusable

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


def tensors() -> dict[str, tuple[int, ...]]:
    return dict(layout(**{name: CONFIG[name] for name in SIZES}))


def written(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> Path:
    """A folder whose weights are zeros, in the format of safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start = end
        size = 4
        for length in shape:
            size *= length
        end += size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def complaint(folder: Path) -> str:
    with pytest.raises(Unusable) as caught:
        inspect(folder)
    return str(caught.value)


def test_the_layout_is_accepted(tmp_path: Path) -> None:
    assert inspect(written(tmp_path, tensors())).folder == tmp_path


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    shapes = tensors()
    del shapes["base_model.layers.1.attn.Wo.weight"]
    del shapes["classifier.bias"]
    text = complaint(written(tmp_path, shapes))
    assert text.endswith("the tensor base_model.layers.1.attn.Wo.weight is missing")


def test_an_extra_tensor_is_named(tmp_path: Path) -> None:
    text = complaint(
        written(tmp_path, {**tensors(), "base_model.layers.0.attn_norm.weight": (32,)})
    )
    assert "base_model.layers.0.attn_norm.weight belongs to no part of it" in text


def test_a_model_without_the_prefix_is_told(tmp_path: Path) -> None:
    shapes = {name.removeprefix("base_model."): shape for name, shape in tensors().items()}
    text = complaint(written(tmp_path, shapes))
    missing = "the tensor base_model.embeddings.tok_embeddings.weight is missing"
    assert f"{missing}; there is embeddings.tok_embeddings.weight, without base_model." in text


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    text = complaint(written(tmp_path, {**tensors(), "classifier.weight": (12, 96)}))
    assert "classifier.weight has the shape (12, 96) where (13, 96) is wanted" in text


def test_a_tensor_of_another_type_is_named(tmp_path: Path) -> None:
    text = complaint(written(tmp_path, tensors(), "I64"))
    assert "base_model.embeddings.tok_embeddings.weight is I64" in text


@pytest.mark.parametrize("left", [0, 5, 8, 100, -1, -1000])
def test_a_truncated_file_is_told(tmp_path: Path, left: int) -> None:
    weights = written(tmp_path, tensors()) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    assert "model.safetensors is cut short" in complaint(tmp_path)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    weights = written(tmp_path, tensors()) / "model.safetensors"
    weights.write_bytes((4).to_bytes(8, "little") + b"PK\3\4" + bytes(99))
    assert "model.safetensors is no safetensors file" in complaint(tmp_path)
    weights.write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(99))
    assert "model.safetensors is no safetensors file" in complaint(tmp_path)


@pytest.mark.parametrize(
    "members",
    [
        {"shape": None},
        {"shape": [13, "96"]},
        {"shape": [13, 95]},
        {"dtype": ["F32"]},
        {"data_offsets": [0]},
        {"data_offsets": ["0", "52"]},
        {"data_offsets": [0, 52]},
        {"more": 1},
    ],
)
def test_a_header_that_describes_no_tensors_is_told(tmp_path: Path, members: Any) -> None:
    weights = written(tmp_path, tensors()) / "model.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["classifier.weight"] |= members
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert "model.safetensors is no safetensors file; fetch it again" in complaint(tmp_path)


def test_a_config_of_very_many_layers_is_no_reason_to_think_long(tmp_path: Path) -> None:
    folder = written(tmp_path, tensors())
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 9_999_999}))
    assert "the tensor base_model.layers.5.attn_norm.weight is missing" in complaint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_was_replaced_is_another_checkpoint(tmp_path: Path, name: str) -> None:
    before = inspect(written(tmp_path, tensors()))
    assert inspect(tmp_path) == before
    (tmp_path / "new").write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "new").replace(tmp_path / name)
    after = inspect(tmp_path)
    assert after != before
    assert (after.stamp == before.stamp) == (name != "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (written(tmp_path, tensors()) / name).unlink()
    assert f"{tmp_path / name} is missing" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "does not describe a ModernBERT"),
        ('{"model_type": "bert"}', "does not describe a ModernBERT"),
        (json.dumps({**CONFIG, "hidden_size": "32"}), "hidden_size is '32'"),
        (json.dumps({**CONFIG, "num_hidden_layers": 10**12}), "num_hidden_layers is 1000000000000"),
        (json.dumps({**CONFIG, "num_attention_heads": 5}), "hidden_size is 32, no multiple of 10"),
        (json.dumps({**CONFIG, "local_attention": 7}), "local_attention is 7, no multiple of 2"),
        (json.dumps({**CONFIG, "hidden_activation": "relu"}), "hidden_activation is 'relu'"),
        (
            json.dumps({**CONFIG, "layer_types": ["full_attention"] * 2 + ["sliding_attention"]}),
            "global_attn_every_n_layers is ['full_attention', ",
        ),
        (
            json.dumps({**CONFIG, "rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
            "global_rope_theta is {'rope_type': 'yarn'}",
        ),
    ],
)
def test_a_config_of_another_model_is_told(tmp_path: Path, config: str, said: str) -> None:
    (written(tmp_path, tensors()) / "config.json").write_text(config)
    assert said in complaint(tmp_path)


@pytest.mark.parametrize(
    ("variable", "folder"),
    [("HF_HUB_CACHE", "."), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_cache_is_where_the_hub_keeps_it(tmp_path: Path, variable: str, folder: str) -> None:
    repository = tmp_path / folder / "models--codelion--optillm-modernbert-large"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    assert cached({variable: str(tmp_path)}) == repository / "snapshots" / "0123abc"


def test_an_empty_cache_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=f"{REPOSITORY} is not in {tmp_path}; run: optictl router f"):
        cached({"HF_HUB_CACHE": str(tmp_path)})


def test_a_folder_given_is_taken_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    folder = written(tmp_path / "model", tensors())
    assert find(RouterSettings(model=str(folder)), {"HF_HUB_CACHE": "/"}).folder == folder


def test_without_the_extra_the_mend_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        Unusable, match=r"torch is not installed; run: pip install 'optictl\[router\]'"
    ):
        find(RouterSettings(model=str(written(tmp_path, tensors()))))


def test_other_weights_in_the_same_place_are_another_checkpoint(tmp_path: Path) -> None:
    before = inspect(written(tmp_path, tensors()))
    assert inspect(tmp_path) == before
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "other").write_text("takes the inode")
    assert inspect(written(tmp_path, tensors())) != before
