"""The classifier itself: ModernBERT, the effort beside it, one linear layer over both.

Imports torch where it is used; only the sidecar does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.router.checkpoint import PREFIX, Checkpoint
from proxy.router.config import Precision, Unusable
from proxy.router.modernbert import Config, Encoder, Multiply
from proxy.router.tokenise import Question, Tokeniser

#: Of the gate's prompts, what int8 has to decide as the full precision does.
PARITY = 0.99
_GATE_EFFORT = 0.7
_GATE_TOKENS = 128
_PROMPTS = Path(__file__).with_name("prompts.txt")

#: Logits for one token sequence and an effort.
Decide = Callable[[Sequence[int], float], Sequence[float]]


class Classifier:
    """A loaded checkpoint. Of one thread at a time."""

    def __init__(self, encoder: Encoder, head: Mapping[str, Any], note: str) -> None:
        self._encoder = encoder
        self._head = head
        #: How it computes, and why not otherwise.
        self.note = note

    def logits(self, batch: Sequence[Sequence[int]], efforts: Sequence[float]) -> Any:
        """A float tensor (len(batch), 13) for sequences of token ids, each with its effort."""
        import torch

        with torch.inference_mode():
            first = self._encoder.first(batch).float()
            effort = torch.tensor(efforts, dtype=torch.float32).unsqueeze(1)
            for layer in ("effort_encoder.0", "effort_encoder.2"):
                effort = self._linear(layer, effort).relu()
            return self._linear("classifier", torch.cat([first, effort], dim=1))

    def shares(
        self, batch: Sequence[Sequence[int]], efforts: Sequence[float], temperature: float
    ) -> list[Sequence[float]]:
        """For each sequence the shares of `LABELS`, softened by ``temperature``."""
        logits = self.logits(batch, efforts)
        shares: list[Sequence[float]] = (logits / temperature).softmax(1).tolist()
        return shares

    def _linear(self, name: str, x: Any) -> Any:
        from torch.nn.functional import linear

        return linear(x, self._head[f"{name}.weight"], self._head[f"{name}.bias"])


def load(checkpoint: Checkpoint, precision: Precision, threads: int) -> Classifier:
    """Build the model by its config and fill it from ``checkpoint``, tensor by tensor.

    int8 is given only where it decides as ``auto`` does, which is what is given otherwise, with a
    note that says why. Raises `Unusable` for a file that torch cannot read.
    """
    import torch
    from safetensors import SafetensorError

    torch.set_num_threads(threads)
    usual: Precision = "bf16" if has_bf16() else "fp32"
    try:
        full = _load(checkpoint, usual if precision in {"auto", "int8"} else precision)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise Unusable(f"{checkpoint.folder}: {error}") from error
    if precision != "int8":
        return full
    try:
        small = _load(checkpoint, "int8")
        alike = parity(_decide(full), _decide(small), Tokeniser(checkpoint.tokenizer))
    except (AttributeError, RuntimeError) as error:
        # Not every build of torch can, and not on every CPU.
        refusal = f"int8 refused: {error}"
    else:
        if alike >= PARITY:
            return small
        refusal = f"int8 refused: it decides {alike:.1%} of the prompts alike, not {PARITY:.0%}"
    full.note += f"; {refusal}"
    return full


def parity(full: Decide, small: Decide, tokeniser: Tokeniser) -> float:
    """The share of the shipped prompts for which both have the same first choice."""
    alike = []
    for text in gate_prompts():
        ids = tokeniser.encode(Question(text), _GATE_TOKENS)
        alike.append(_first(full(ids, _GATE_EFFORT)) == _first(small(ids, _GATE_EFFORT)))
    return sum(alike) / len(alike)


def gate_prompts() -> list[str]:
    return _PROMPTS.read_text(encoding="utf-8").splitlines()


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself; elsewhere it is slower than fp32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def _load(checkpoint: Checkpoint, precision: Precision) -> Classifier:
    import torch

    # What int8 leaves to others is computed as without it.
    half = precision == "bf16" or (precision == "int8" and has_bf16())
    dtype = torch.bfloat16 if half else torch.float32
    pack = _int8 if precision == "int8" else _packed
    tensors, matrices, head = {}, {}, {}
    for name, tensor in _tensors(checkpoint):
        own = name.removeprefix(PREFIX)
        if own == name:
            head[name] = tensor.to(torch.float32)
        elif ".W" in own:
            matrices[own] = pack(tensor, dtype)
        else:
            tensors[own] = tensor.to(dtype)
    encoder = Encoder(Config.read(checkpoint.folder / "config.json"), tensors, matrices)
    return Classifier(encoder, head, precision)


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Each on its own: while a file is open, all that was read of it stays in memory."""
    from safetensors import safe_open

    with safe_open(checkpoint.weights, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(checkpoint.weights, framework="pt") as file:
            yield name, file.get_tensor(name)


def _packed(weight: Any, dtype: Any) -> Multiply:
    """In oneDNN's own order, which is faster: 2.5 times in fp32 on AMD, 1.1 in bf16."""
    import torch
    from torch.nn.functional import linear

    weight = weight.to(dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    except (AttributeError, RuntimeError):
        # Not in this build of torch, or not for bf16 on this CPU.
        return lambda x: linear(x, weight)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _int8(weight: Any, dtype: Any) -> Multiply:
    """Each row of ``weight`` and each token in 255 steps, added up as integers by oneDNN."""
    import torch

    weight = weight.float()
    scales = _steps(weight)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    packed = torch.ops.onednn.qlinear_prepack((weight / scales).round().to(torch.int8), None)
    scales = scales.squeeze(1)

    def times(x: Any) -> Any:
        steps = _steps(x)
        # Unsigned, as the CPU's instruction has it: zero is 128.
        small = (x / steps).round_().add_(128).to(torch.uint8)
        return steps.to(dtype) * torch.ops.onednn.qlinear_pointwise(
            small, 1.0, 128, packed, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
        )

    return times


def _steps(x: Any) -> Any:
    """(rows, 1): what is one in each row's integers from -127 to 127."""
    return x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127


def _decide(classifier: Classifier) -> Decide:
    def decide(ids: Sequence[int], effort: float) -> Sequence[float]:
        logits: list[float] = classifier.logits([ids], [effort])[0].tolist()
        return logits

    return decide


def _first(logits: Sequence[float]) -> int:
    return max(range(len(logits)), key=logits.__getitem__)
