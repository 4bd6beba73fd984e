"""Where the classifier's checkpoint lies and whether it is the one we know. Without torch.

The layout is that of ``codelion/optillm-modernbert-large``: a ModernBERT under ``base_model.``, an
encoder of the effort (1 → 64 → 64), and one linear layer over both. It is written by
``safetensors.torch.save_model``; format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from pathlib import Path

import orjson

from proxy.router.config import RouterSettings, Unusable
from proxy.router.modernbert import Config

REPOSITORY = "codelion/optillm-modernbert-large"
#: What the classifier chooses among, in the order of its outputs.
LABELS = (
    "none",
    "mcts",
    "bon",
    "moa",
    "rto",
    "z3",
    "self_consistency",
    "pvg",
    "rstar",
    "cot_reflection",
    "plansearch",
    "leap",
    "re2",
)
#: Width of the encoded effort.
EFFORT = 64
#: In front of the names of ModernBERT's own tensors.
PREFIX = "base_model."

#: Bytes of a number, of the types that may be.
_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
#: No header of this layout is as long; a file that says so is none.
_HEADER = 10_000_000


@dataclass(frozen=True, slots=True)
class _Tensor:
    """As the header of a file describes it."""

    dtype: str
    shape: tuple[int, ...]
    #: Where its bytes begin and end, from the end of the header on.
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose tensors have the names and shapes of the layout."""

    folder: Path
    #: Changes with the file of the weights.
    stamp: tuple[int, int]
    #: Changes with the files beside it.
    beside: tuple[int, ...] = ()

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"


def find(settings: RouterSettings, environ: Mapping[str, str] = os.environ) -> Checkpoint:
    """The checkpoint that ``settings`` mean; raises `Unusable` where none can be loaded."""
    lacking = lacks()
    if lacking:
        raise Unusable(lacking)
    return inspect(Path(settings.model).expanduser() if settings.model else cached(environ))


def lacks() -> str:
    """Which package is not installed here, with the mend; empty where the extra is."""
    for name in ("torch", "safetensors", "tokenizers"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; run: pip install 'optictl[router]'"
    return ""


def repository(environ: Mapping[str, str]) -> Path:
    """Where the Hugging Face cache of a user with these variables has the checkpoint."""
    home = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{home}/huggingface"
    hub = Path(environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    return hub / f"models--{REPOSITORY.replace('/', '--')}"


def cached(environ: Mapping[str, str]) -> Path:
    """The checkpoint's folder in this user's Hugging Face cache; raises `Unusable`."""
    found = repository(environ)
    try:
        revision = (found / "refs" / "main").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Unusable(
            f"{REPOSITORY} is not in {found.parent}; run: optictl router fetch"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"cannot read {found}: {error}") from None
    return found / "snapshots" / revision


def inspect(folder: Path) -> Checkpoint:
    """Compare ``folder`` with the layout; raises `Unusable` naming the first thing that differs."""
    checkpoint = Checkpoint(folder, (0, 0))
    config_file = folder / "config.json"
    try:
        config = Config.read(config_file)
        found = _header(checkpoint.weights)
        if not checkpoint.tokenizer.is_file():
            raise Unusable(f"{checkpoint.tokenizer} is missing: there is no tokenizer")
        stamp, *others = map(_stamp, (checkpoint.weights, config_file, checkpoint.tokenizer))
    except FileNotFoundError as error:
        raise Unusable(f"{error.filename} is missing") from None
    except OSError as error:
        raise Unusable(f"cannot read {error.filename}: {error.strerror}") from None
    _compare(found, config, checkpoint.weights)
    return Checkpoint(folder, stamp, tuple(chain.from_iterable(others)))


def _compare(found: Mapping[str, _Tensor], config: Config, weights: Path) -> None:
    """Raise `Unusable` for the first tensor that is not as the layout has it."""
    wanted = set()
    for name, shape in layout(
        config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers
    ):
        wanted.add(name)
        tensor = found.get(name)
        if tensor is None:
            bare = name.removeprefix(PREFIX)
            instead = f"; there is {bare}, without {PREFIX} before it" if bare in found else ""
            raise Unusable(f"{weights}: the tensor {name} is missing{instead}")
        if tensor.shape != shape:
            raise Unusable(
                f"{weights}: the tensor {name} has the shape "
                f"{_written(tensor.shape)} where {_written(shape)} is wanted"
            )
        if tensor.dtype not in _TYPES:
            raise Unusable(f"{weights}: the tensor {name} is {tensor.dtype}")
    for name in found:
        if name not in wanted:
            raise Unusable(f"{weights}: the tensor {name} belongs to no part of it")


def layout(
    vocab_size: int, hidden_size: int, intermediate_size: int, num_hidden_layers: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of the checkpoint."""
    yield f"{PREFIX}embeddings.tok_embeddings.weight", (vocab_size, hidden_size)
    yield f"{PREFIX}embeddings.norm.weight", (hidden_size,)
    for index in range(num_hidden_layers):
        layer = f"{PREFIX}layers.{index}."
        # The first layer's is the identity: the embeddings are normalised already.
        if index:
            yield f"{layer}attn_norm.weight", (hidden_size,)
        yield f"{layer}attn.Wqkv.weight", (3 * hidden_size, hidden_size)
        yield f"{layer}attn.Wo.weight", (hidden_size, hidden_size)
        yield f"{layer}mlp_norm.weight", (hidden_size,)
        yield f"{layer}mlp.Wi.weight", (2 * intermediate_size, hidden_size)
        yield f"{layer}mlp.Wo.weight", (hidden_size, intermediate_size)
    yield f"{PREFIX}final_norm.weight", (hidden_size,)
    yield "effort_encoder.0.weight", (EFFORT, 1)
    yield "effort_encoder.0.bias", (EFFORT,)
    yield "effort_encoder.2.weight", (EFFORT, EFFORT)
    yield "effort_encoder.2.bias", (EFFORT,)
    yield "classifier.weight", (len(LABELS), hidden_size + EFFORT)
    yield "classifier.bias", (len(LABELS),)


def _header(file: Path) -> dict[str, _Tensor]:
    """The tensors of a safetensors file by name, one behind the other and nothing else."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, _HEADER):
            raise Unusable(f"{file} is cut short, or no safetensors file; fetch it again")
        text = stream.read(length)
    try:
        header = orjson.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(**said) for name, said in header.items()}
        spans = sorted(tensor.span for tensor in tensors.values())
        if any(end != begin for (_, end), (begin, _) in pairwise([(0, 0), *spans])):
            raise ValueError("between two tensors lies what belongs to none, or to both")
        end = 8 + length + spans[-1][1]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise Unusable(f"{file} is no safetensors file; fetch it again") from None
    if size != end:
        raise Unusable(f"{file} is cut short: {size:,} of {end:,} bytes; fetch it again")
    return tensors


def _tensor(dtype: str, shape: list[int], data_offsets: list[int]) -> _Tensor:
    """Raises `ValueError` and `TypeError` for what no safetensors file says."""
    if not (isinstance(dtype, str) and all(type(each) is int for each in (*shape, *data_offsets))):
        raise TypeError("the type of a tensor is a name, all else of it numbers")
    begin, end = data_offsets
    if dtype in _TYPES and prod(shape) * _TYPES[dtype] != end - begin:
        raise ValueError("a tensor has more numbers, or fewer, than its shape")
    return _Tensor(dtype, tuple(shape), (begin, end))


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _written(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
