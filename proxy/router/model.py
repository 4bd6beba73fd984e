"""The classifier itself: ModernBERT, the effort beside it, one linear layer over both.

Imports torch where it is used; only the sidecar does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from proxy.router.checkpoint import EFFORT, LABELS, PREFIX, Checkpoint
from proxy.router.config import Precision, Unusable
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

    def __init__(self, base: Any, effort: Any, head: Any, note: str) -> None:
        self._base = base
        self._effort = effort
        self._head = head
        #: How it computes, and why not otherwise.
        self.note = note

    def logits(self, batch: Sequence[Sequence[int]], efforts: Sequence[float]) -> Any:
        """A float tensor (len(batch), 13) for sequences of token ids, each with its effort."""
        import torch

        longest = max(map(len, batch))
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        with torch.inference_mode():
            states = self._base(input_ids=ids, attention_mask=mask).last_hidden_state
            effort = self._effort(torch.tensor(efforts, dtype=torch.float32).unsqueeze(1))
            return self._head(torch.cat([states[:, 0].float(), effort], dim=1))

    def shares(
        self, batch: Sequence[Sequence[int]], efforts: Sequence[float], temperature: float
    ) -> list[Sequence[float]]:
        """For each sequence the shares of `LABELS`, softened by ``temperature``."""
        logits = self.logits(batch, efforts)
        shares: list[Sequence[float]] = (logits / temperature).softmax(1).tolist()
        return shares


def load(checkpoint: Checkpoint, precision: Precision, threads: int) -> Classifier:
    """Build the model by its config and fill it from ``checkpoint``, tensor by tensor.

    int8 is given only where it passes the gate; where it does not, the classifier computes as with
    ``auto`` and its note says why. Raises `Unusable` for a file that torch cannot read.
    """
    import torch
    from safetensors import SafetensorError

    torch.set_num_threads(threads)
    if precision == "auto":
        precision = "bf16" if has_bf16() else "fp32"
    try:
        if precision != "int8":
            return _load(checkpoint, precision)
        full = _load(checkpoint, "fp32")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise Unusable(f"{checkpoint.folder}: {error}") from error
    try:
        small = _quantised(full)
        alike = parity(_decide(full), _decide(small), Tokeniser(checkpoint.tokenizer))
    except (AttributeError, RuntimeError) as error:
        # Later versions of torch leave it out, and some CPUs have no engine for it.
        refusal = f"int8 refused: {error}"
    else:
        if alike >= PARITY:
            return small
        refusal = f"int8 refused: it decides {alike:.1%} of the prompts alike, not {PARITY:.0%}"
    if has_bf16():
        full = _load(checkpoint, "bf16")
    return Classifier(full._base, full._effort, full._head, f"{full.note}; {refusal}")


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
    from torch import nn
    from transformers import ModernBertConfig, ModernBertModel
    from transformers.utils import logging

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = ModernBertConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    # transformers 4 would compile the layers where it finds a compiler.
    config.reference_compile = False
    logging.disable_progress_bar()
    base, rest = {}, {}
    for name, tensor in _tensors(checkpoint):
        if name.startswith(PREFIX):
            base[name.removeprefix(PREFIX)] = tensor.to(dtype)
        else:
            rest[name] = tensor.to(torch.float32)
    # Without a name it reads no file, makes no random weights and takes these as they are.
    model = ModernBertModel.from_pretrained(
        None, config=config, state_dict=base, dtype=dtype, attn_implementation="sdpa"
    )
    ours = nn.ModuleDict(
        {
            "effort_encoder": nn.Sequential(
                nn.Linear(1, EFFORT), nn.ReLU(), nn.Linear(EFFORT, EFFORT), nn.ReLU()
            ),
            "classifier": nn.Linear(config.hidden_size + EFFORT, len(LABELS)),
        }
    )
    ours.load_state_dict(rest)
    return Classifier(
        model.eval(), ours["effort_encoder"].eval(), ours["classifier"].eval(), precision
    )


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    with safe_open(checkpoint.weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield name, file.get_tensor(name)


def _quantised(full: Classifier) -> Classifier:
    import torch

    with warnings.catch_warnings():
        # That it moves to another package in some later version.
        warnings.simplefilter("ignore")
        base = torch.ao.quantization.quantize_dynamic(
            full._base, {torch.nn.Linear}, dtype=torch.qint8
        )
    return Classifier(base, full._effort, full._head, "int8")


def _decide(classifier: Classifier) -> Decide:
    def decide(ids: Sequence[int], effort: float) -> Sequence[float]:
        logits: list[float] = classifier.logits([ids], [effort])[0].tolist()
        return logits

    return decide


def _first(logits: Sequence[float]) -> int:
    return max(range(len(logits)), key=logits.__getitem__)
