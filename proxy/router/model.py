"""The classifier itself: ModernBERT, the effort beside it, one linear layer over both.

Imports torch where it is used; only the sidecar does.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from operator import eq
from pathlib import Path
from statistics import median
from typing import Any

from proxy.router.calibration import Calibration, remembered
from proxy.router.checkpoint import PREFIX, Checkpoint
from proxy.router.config import NO_COMPILER, Precision, Unusable
from proxy.router.cpu import has_bf16
from proxy.router.matrices import int8, packed
from proxy.router.modernbert import Config, Encoder
from proxy.router.steps import Torch, best
from proxy.router.tokenise import Question, Tokeniser

#: Read by the libraries when they are loaded. No threads are started that were not asked for. Those
#: that wait for each other spin for some microseconds: to fall asleep and wake up a thousand times
#: takes up to half of a decision, and to spin for longer keeps the CPU from requests. By the policy
#: they do so also where they outnumber the cores of the thread that loaded the libraries. Weights
#: lie in pages of 2 MB where Linux leaves that to the program, 3 % of a decision.
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "1000",
    "THP_MEM_ALLOC_ENABLE": "1",
}
#: How the prompts are asked on which int8 is held against the full precision.
_GATE_EFFORT = 0.7
_GATE_TOKENS = 128
#: How often a question of so many tokens is timed.
_ROUNDS = 7
_PROMPTS = Path(__file__).with_name("prompts.txt")

Aside = Callable[[Callable[[], Any]], Any]


def _here(work: Callable[[], Any]) -> Any:
    return work()


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


def load(
    checkpoint: Checkpoint,
    precision: Precision,
    threads: int,
    aside: Aside = _here,
    rest: Callable[[], None] = lambda: None,
) -> Classifier:
    """Build the model by its config and fill it from ``checkpoint``, tensor by tensor.

    ``auto`` is what the CPU is good at, int8 among it only where a calibration has found that.
    ``int8`` is given where it decides as the full precision does, which is found out first where
    nobody has; else that is given, with a note that says why. ``aside`` does what takes seconds and
    is not timed; ``rest`` is called between two tensors. Raises `Unusable` for a file that torch
    cannot read.
    """
    torch = aside(lambda: import_module("torch"))
    note = ""
    if precision == "auto":
        known = remembered(checkpoint)
        precision = "int8" if known is not None and known.better else _full()
    elif precision == "int8":
        known = remembered(checkpoint) or calibrate(checkpoint, threads)
        if not known.allowed:
            precision, note = _full(), f"; {known}"
    try:
        classifier: Classifier = aside(lambda: _load(checkpoint, precision, rest))
    except RuntimeError as error:
        raise Unusable(f"{checkpoint.folder}: {error}") from error
    torch.set_num_threads(threads)
    classifier.note += note
    return classifier


def calibrate(
    checkpoint: Checkpoint, threads: int, tell: Callable[[str], None] = lambda _: None
) -> Calibration:
    """Hold int8 against the full precision, in turns: both meet the machine in the same minutes.

    Both are in memory meanwhile.
    ``tell`` hears what is being done. Raises `Unusable` for a file that torch cannot read.
    """
    import torch

    torch.set_num_threads(threads)
    tokeniser = Tokeniser(checkpoint.tokenizer)
    prompts = [tokeniser.encode(Question(text), _GATE_TOKENS) for text in gate_prompts()]
    tell(f"reading the weights in {_full()} and int8 …")
    full = _load(checkpoint, _full())
    try:
        small = _load(checkpoint, "int8")
        tell(f"deciding {len(prompts)} prompts in both …")
        choices = [(_first_choice(full, each), _first_choice(small, each)) for each in prompts]
    except (AttributeError, RuntimeError) as error:
        # Not every build of torch can, and not on every CPU.
        return Calibration(0.0, _seconds(full), 0.0, str(error).strip().partition("\n")[0])
    seconds = [(_seconds(full), _seconds(small)) for _ in range(_ROUNDS)]
    long, short = map(median, zip(*seconds, strict=True))
    same = alike(*zip(*choices, strict=True))
    return Calibration(same, long, short, compiled=NO_COMPILER not in small.note)


def alike(full: Sequence[int], small: Sequence[int]) -> float:
    """The share of first choices that are the same in both."""
    same: int = sum(map(eq, full, small))
    return same / len(full)


def gate_prompts() -> list[str]:
    return _PROMPTS.read_text(encoding="utf-8").splitlines()


def _first_choice(classifier: Classifier, prompt: Sequence[int]) -> int:
    """The label with the highest logit."""
    return int(classifier.logits([prompt], [_GATE_EFFORT]).argmax())


def _seconds(classifier: Classifier) -> float:
    """What a long question takes."""
    began = time.perf_counter()
    classifier.logits([[0] * _GATE_TOKENS], [_GATE_EFFORT])
    return time.perf_counter() - began


def _full() -> Precision:
    return "bf16" if has_bf16() else "fp32"


def _load(
    checkpoint: Checkpoint, precision: Precision, rest: Callable[[], None] = lambda: None
) -> Classifier:
    import torch

    # What int8 leaves to others is computed as without it.
    half = precision == "bf16" or (precision == "int8" and has_bf16())
    dtype = torch.bfloat16 if half else torch.float32
    build = int8 if precision == "int8" else packed
    encoder = Encoder(Config.read(checkpoint.folder / "config.json"), dtype, build)
    head = {}
    # What one tensor has left of the heap lies between what is kept of others: a quarter of a copy
    # in the end. Only glibc can be asked to give it back, and has to be.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    for name, tensor in _tensors(checkpoint):
        rest()
        trim(0)
        own = name.removeprefix(PREFIX)
        if own == name:
            head[name] = tensor.to(torch.float32)
        else:
            encoder.take(own, tensor)
    note: str = precision
    if precision == "int8" and isinstance(steps := best(dtype), Torch):
        note = f"int8, not compiled: {steps.why}"
    return Classifier(encoder, head, note)


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Each on its own: while a file is open, all that was read of it stays in memory.

    Raises `Unusable` where they cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Any:
        with safe_open(checkpoint.weights, framework="pt") as file:
            return file.get_tensor(name)

    try:
        with safe_open(checkpoint.weights, framework="pt") as file:
            names = list(file.keys())
        for name in names:
            yield name, read(name)
    except (SafetensorError, OSError) as error:
        raise Unusable(f"{checkpoint.folder}: {error}") from error
