"""The classifier computes what its layout says, in every precision that it may be given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compiler import COMPILED
from tiny import reference_logits, write_checkpoint

from proxy.router import attention, cpu, matrices, model
from proxy.router.attention import _fused, _products
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import LABELS, inspect, layout
from proxy.router.config import NO_COMPILER, Unusable
from proxy.router.cpu import has_bf16, has_tiles
from proxy.router.matrices import Use, int8, packed, plain
from proxy.router.model import Classifier, alike, calibrate, gate_prompts, load
from proxy.router.modernbert import Config, Encoder
from proxy.router.steps import Steps, Torch
from proxy.router.tokenise import Question, Tokeniser

pytestmark = pytest.mark.router

QUESTIONS = [
    "Hi",
    "What is 17 * 23?",
    "Prove that there is no largest prime, and say which step needs the axiom of choice.",
    "Write a function that merges intervals. " * 10,
]
FULL = "bf16" if has_bf16() else "fp32"
INT8 = "int8" if COMPILED else f"int8, not compiled: {NO_COMPILER}"
EFFORTS = [0.0, 0.2, 0.7, 1.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokeniser(folder: Path) -> Tokeniser:
    return Tokeniser(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load(inspect(folder), "fp32", 1)


def close(a: Any, b: Any, within: float = 1e-3) -> bool:
    return bool((a - b).abs().max() < within)


@pytest.mark.parametrize("text", QUESTIONS, ids=lambda text: f"{len(text)} characters")
@pytest.mark.parametrize("effort", EFFORTS)
def test_the_decision_is_that_of_a_plain_reference(
    folder: Path, tokeniser: Tokeniser, classifier: Classifier, text: str, effort: float
) -> None:
    ids = tokeniser.encode(Question(text), 512)
    logits = classifier.logits([ids], [effort])[0]
    expected = reference_logits(folder, ids, effort)
    assert close(logits, expected)
    assert logits.argmax() == expected.argmax()
    shares = classifier.shares([ids], [effort], 1.0)[0]
    assert shares.index(max(shares)) == expected.argmax()
    assert len(shares) == len(LABELS)
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_the_effort_changes_the_logits(tokeniser: Tokeniser, classifier: Classifier) -> None:
    ids = tokeniser.encode(Question("What is 17 * 23?"), 512)
    cheap, thorough = classifier.logits([ids, ids], [0.0, 1.0])
    assert not close(cheap, thorough, 0.01)


def test_questions_taken_together_are_decided_as_each_alone(
    tokeniser: Tokeniser, classifier: Classifier
) -> None:
    batch = [tokeniser.encode(Question(text), 512) for text in QUESTIONS]
    together = classifier.logits(batch, EFFORTS)
    for ids, effort, logits in zip(batch, EFFORTS, together, strict=True):
        assert close(classifier.logits([ids], [effort])[0], logits)


def test_a_higher_temperature_is_less_sure_of_the_same(
    tokeniser: Tokeniser, classifier: Classifier
) -> None:
    ids = tokeniser.encode(Question("What is 17 * 23?"), 512)
    sharp, soft = (classifier.shares([ids], [0.7], t)[0] for t in (1.0, 4.0))
    assert sharp.index(max(sharp)) == soft.index(max(soft))
    assert max(soft) < max(sharp)


def test_bf16_stays_near_the_reference(folder: Path, tokeniser: Tokeniser) -> None:
    ids = tokeniser.encode(Question("What is 17 * 23?"), 512)
    classifier = load(inspect(folder), "bf16", 1)
    assert classifier.note == "bf16"
    assert close(classifier.logits([ids], [0.7])[0], reference_logits(folder, ids, 0.7), 0.5)


def test_matrices_that_cannot_be_packed_are_taken_as_they_are(
    folder: Path, tokeniser: Tokeniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def none(_: Any) -> Any:
        raise RuntimeError("bf16 path needs the cpu support avx512")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", none)
    ids = tokeniser.encode(Question("What is 17 * 23?"), 512)
    classifier = load(inspect(folder), "fp32", 1)
    assert close(classifier.logits([ids], [0.7])[0], reference_logits(folder, ids, 0.7))


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_with_the_threads_that_it_is_given(folder: Path, threads: int) -> None:
    import torch

    load(inspect(folder), "fp32", threads)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("avx2 fma avx512f", "fp32"),
        ("avx512f avx512_bf16", "bf16"),
        ("avx512f amx_bf16 amx_tile", "bf16"),
        ("asimd bf16 sve", "bf16"),
        ("", "fp32"),
    ],
)
def test_the_full_precision_is_bf16_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: str, precision: str
) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: frozenset(flags.split()))
    assert model._full() == precision


def test_auto_is_what_the_cpu_is_good_at(folder: Path) -> None:
    assert load(inspect(folder), "auto", 1).note == FULL


def test_auto_is_int8_where_that_was_found_to_be_better(
    tokeniser: Tokeniser, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path)
    checkpoint = inspect(folder)
    for found, note in (
        (Calibration(1.0, 0.2, 0.1), INT8),
        (Calibration(1.0, 0.2, 0.3), FULL),
        (Calibration(0.98, 0.2, 0.1), FULL),
        (Calibration(0.0, 0.2, 0.0, "no engine"), FULL),
    ):
        remember(checkpoint, found)
        assert load(checkpoint, "auto", 1).note == note
    remember(checkpoint, Calibration(0.99, 0.2, 0.1))
    ids = tokeniser.encode(Question("What is 17 * 23?"), 512)
    logits = load(checkpoint, "auto", 1).logits([ids], [0.7])[0]
    assert close(logits, reference_logits(folder, ids, 0.7), 2.0)
    os.utime(checkpoint.weights, (0, 0))
    assert load(inspect(folder), "auto", 1).note == FULL


def test_int8_is_held_against_the_full_precision(folder: Path) -> None:
    heard: list[str] = []
    found = calibrate(inspect(folder), 1, heard.append)
    assert found.alike > 0.9
    assert found.full > 0
    assert found.small > 0
    assert heard == [f"reading the weights in {FULL} and int8 …", "deciding 200 prompts in both …"]


def test_int8_is_refused_where_it_decides_otherwise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "alike", lambda *_: 0.98)
    refused = load(inspect(folder), "int8", 1).note
    assert refused == f"{FULL}; int8 refused: it decides 98.0% of the prompts alike, not 99%"


def test_int8_is_refused_where_torch_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Any:
        raise RuntimeError("no engine\nand a trace")

    monkeypatch.setattr(model, "int8", none)
    assert load(inspect(folder), "int8", 1).note == f"{FULL}; int8 refused: no engine"


def test_int8_is_given_where_it_decides_alike_though_nobody_has_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "alike", lambda *_: 0.99)
    assert load(inspect(folder), "int8", 1).note == INT8


def test_int8_is_not_tried_again_where_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = inspect(write_checkpoint(tmp_path))
    remember(checkpoint, Calibration(1.0, 0.1, 0.2))
    monkeypatch.setattr(model, "calibrate", None)
    assert load(checkpoint, "int8", 1).note == INT8


def test_choices_that_are_the_same_are_counted() -> None:
    assert alike([1, 2, 3, 4], [1, 2, 0, 4]) == 0.75


def test_the_gate_has_200_prompts() -> None:
    prompts = gate_prompts()
    assert len(set(prompts)) == 200
    assert all(prompt.strip() for prompt in prompts)


def test_the_layout_is_that_of_modernbert_large() -> None:
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    sizes = {
        "vocab_size": 50368,
        "hidden_size": 1024,
        "intermediate_size": 2624,
        "num_hidden_layers": 28,
    }
    with torch.device("meta"):
        base = ModernBertModel(ModernBertConfig(num_attention_heads=16, **sizes))
    ours = {name: shape for name, shape in layout(**sizes) if name.startswith("base_model.")}
    assert ours == {f"base_model.{k}": tuple(v.shape) for k, v in base.state_dict().items()}


def test_the_encoder_is_that_of_transformers(folder: Path, tokeniser: Tokeniser) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import ModernBertConfig, ModernBertModel

    tensors = {
        name.removeprefix("base_model."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    theirs = ModernBertModel(ModernBertConfig.from_pretrained(folder)).eval()
    theirs.load_state_dict({name: tensors[name] for name in theirs.state_dict()})
    batch = [tokeniser.encode(Question(text), 512) for text in QUESTIONS]
    with torch.no_grad():
        encoder = Encoder(Config.read(folder / "config.json"), torch.float32, plain)
        for name, tensor in tensors.items():
            encoder.take(name, tensor)
        for ids, first in zip(batch, encoder.first(batch), strict=True):
            assert close(first, theirs(torch.tensor([ids])).last_hidden_state[0, 0])


def test_a_config_of_the_present_transformers_is_read_alike(folder: Path, tmp_path: Path) -> None:
    from transformers import ModernBertConfig

    ModernBertConfig.from_pretrained(folder).save_pretrained(tmp_path)
    assert Config.read(tmp_path / "config.json") == Config.read(folder / "config.json")


def test_a_file_that_is_cut_short_behind_the_header_is_told(tmp_path: Path) -> None:
    checkpoint = inspect(write_checkpoint(tmp_path))
    checkpoint.weights.write_bytes(checkpoint.weights.read_bytes()[:-8])
    with pytest.raises(Unusable, match=str(tmp_path)):
        load(checkpoint, "fp32", 1)


@pytest.mark.parametrize("steps", [Torch, *COMPILED])
@pytest.mark.parametrize("use", ["turned", "added", "gated"])
@pytest.mark.parametrize(
    ("build", "tiles"), [(packed, has_tiles()), (int8, has_tiles()), (int8, False)]
)
def test_a_matrix_is_used_alike_in_every_form(
    build: Callable[..., Any],
    tiles: bool,
    use: Use,
    steps: Callable[..., Steps],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    torch.manual_seed(1)
    weight, x, other = torch.randn(96, 64), torch.randn(5, 64), torch.randn(5, 96)
    rotation = torch.randn(5, 2, 1, 4, dtype=torch.complex64)
    given: dict[Use, Any] = {"turned": (x, rotation), "added": (x, other), "gated": (x,)}
    kept = x.clone(), other.clone(), rotation.clone()
    monkeypatch.setattr(matrices, "best", lambda _: Torch())
    expected = plain(weight, use, torch.float32)(*given[use])
    monkeypatch.setattr(matrices, "has_tiles", lambda: tiles)
    monkeypatch.setattr(matrices, "best", lambda _: steps())
    found = build(weight, use, torch.float32)(*given[use])
    if use == "turned":
        assert [each.shape for each in (*found, *expected)] == [(4, 5, 8)] * 6
        found, expected = map(torch.stack, (found, expected))
    assert found.shape == expected.shape
    error = 0.02 * expected.abs().max() if build is int8 else 1e-4
    assert (found - expected).abs().max() <= error
    assert all(map(torch.equal, kept, (x, other, rotation)))


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("length", [1, 5, 6, 8, 9, 16, 31])
@pytest.mark.parametrize("mixed", [_fused, _products])
def test_a_token_sees_itself_and_half_a_window_to_either_side(
    mixed: Callable[..., Any], length: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(attention, "_products", mixed)
    torch.manual_seed(length)
    q, k, v = torch.randn(3, 2, length, 4)
    out = torch.empty(length, 2, 4)
    attention.Attention(length, window, torch.float32)(q, k, v, out)
    at = torch.arange(length)
    scores = torch.einsum("hid,hjd->hij", q, k)
    if window is not None:
        scores[:, (at[:, None] - at).abs() > window // 2] = float("-inf")
    expected = torch.einsum("hij,hjd->ihd", scores.softmax(-1), v)
    assert close(out, expected)
