"""The router's classifier as OptiLLM 0.3.12 asks it, and as we do, on the same weights.

``make bench-router``: a checkpoint of ModernBERT-large's dimensions with random weights is written
to a temporary folder. OptiLLM loads ModernBERT and then the classifier for each decision, pads
every text to 1024 tokens and computes in fp32, which is done here in the same calls of the same
libraries. Ours is the service's own way: the process beside it, asked over its socket, before and
after `optictl router calibrate`. A second table has the service beside it. It asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import router_health
from benchmarks.figures import aligned, ms
from benchmarks.proc import Meanwhile
from benchmarks.sides import PEER
from proxy.chat import Chat
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import EFFORT, LABELS, PREFIX, inspect, layout
from proxy.router.client import Router
from proxy.router.config import RouterSettings
from proxy.router.ladder import Asked, Choice, Ladder
from proxy.router.model import calibrate
from proxy.router.supervisor import Supervisor

#: ModernBERT-large's.
LARGE = {
    "vocab_size": 50368,
    "hidden_size": 1024,
    "intermediate_size": 2624,
    "num_hidden_layers": 28,
}
_SPECIAL = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "word": 4}
_TOKENS = (32, 128, 512)
_PADDED = 1024
#: ModernBERT alone, which OptiLLM loads first.
_BASE = "base"
_EFFORT = 0.7
_HITS = 1000
_LOAD = 300.0
_MB = 1_000_000

Row = tuple[str, str, str, str]


def main(arguments: Sequence[str] | None = None, sizes: Mapping[str, int] = LARGE) -> int:
    """Measure with a checkpoint of ``sizes``, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, for a first look")
    asked = parser.parse_args(arguments)
    theirs, ours = (1, 3) if asked.quick else (5, 21)
    meanwhile = Meanwhile()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("writing a checkpoint of random weights …", file=sys.stderr, flush=True)
        _write(folder, sizes)
        print("measuring …", file=sys.stderr, flush=True)
        rows = list(_rows(folder, sizes, theirs, ours))
        health = list(router_health.rows(folder, theirs))
    print("\n".join(aligned([("figure", "optictl", PEER, "better"), *rows])), end="\n\n")
    print("\n".join(aligned([("service", "without a router", "with one"), *health])))
    print(
        f"\n{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, Linux "
        f"{platform.release()}; other work took {meanwhile.share():.0%} of the cores meanwhile. "
        f"Medians of {ours} decisions, and of {theirs}; {theirs} services of each kind."
    )
    return 0


def _rows(folder: Path, sizes: Mapping[str, int], theirs: int, ours: int) -> Iterator[Row]:
    loads, decisions = zip(*(_their_decision(folder, sizes) for _ in range(theirs)), strict=True)
    whole = median(map(sum, zip(loads, decisions, strict=True)))
    told = f"{ms(whole)}, of that loading {ms(median(loads))}"
    full = asyncio.run(_ours(folder, ours))
    found = _calibrated(folder)
    runs = [full, asyncio.run(_ours(folder, ours))] if found.better else [full]
    for tokens in _TOKENS:
        for run in runs:
            seconds = run["decisions"][tokens]
            figure = f"a decision, {tokens} tokens, {run['precision']}"
            yield figure, ms(seconds), told, f"{whole / seconds:.1f} ×"
    hit = full["hit"]
    yield "a question that was asked before", ms(hit), told, f"{whole / hit:,.0f} ×"
    yield "calibration", str(found), "", ""
    copy = (4 if full["precision"] == "fp32" else 2) * sum(
        prod(shape) for _, shape in layout(**sizes)
    )
    yield f"the weights in {full['precision']}", f"{copy / _MB:,.0f} MB", "for each request", ""
    for run in runs:
        for what, held in run["held"].items():
            figure = f"{what} memory, {run['precision']}"
            yield figure, f"{held / _MB:,.0f} MB, {held / copy:.2f} × those weights", "", ""


def _calibrated(folder: Path) -> Calibration:
    """As `optictl router calibrate` does it: told to whoever loads the folder."""
    checkpoint = inspect(folder)
    found = calibrate(checkpoint, len(os.sched_getaffinity(0)))
    remember(checkpoint, found)
    return found


async def _ours(folder: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of a decision by its tokens, and of a hit; what the process holds."""
    settings = RouterSettings(model=str(folder), within=60.0)
    supervisor = Supervisor()
    supervisor.renew(settings)
    router = Router(settings, supervisor.address, supervisor.absent)
    router.start()
    try:
        end = time.monotonic() + _LOAD
        while router.state.phase == "loading" and time.monotonic() < end:
            supervisor.tick()
            await asyncio.sleep(0.1)
        if router.state.phase != "ready" or supervisor.pid is None:
            raise SystemExit(f"the classifier does not load: {router.state.why}")
        decisions = {}
        for tokens in _TOKENS:
            asked = Asked(_chat(tokens), LABELS, _EFFORT)
            times = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                if await router.decide(asked.chat, _EFFORT) is None:
                    raise SystemExit("the classifier has not decided")
                times.append(time.perf_counter() - began)
            decisions[tokens] = median(times[1:])
        return {
            "decisions": decisions,
            "hit": await _hit(Ladder(router), asked),
            "held": _held(supervisor.pid),
            "precision": router.state.why.partition(",")[0],
        }
    finally:
        await router.close()
        supervisor.stop()


def _held(pid: int) -> dict[str, int]:
    """Bytes of a process: its own, with the files that it has mapped, and that at its most."""
    folder = Path(f"/proc/{pid}")
    lines = [
        line.split()
        for name in ("smaps_rollup", "status")
        for line in (folder / name).read_text().splitlines()
    ]
    kilobytes = {words[0]: int(words[1]) for words in lines if words[2:] == ["kB"]}
    members = {"anonymous": "Anonymous:", "resident": "Rss:", "largest resident": "VmHWM:"}
    return {what: 1024 * kilobytes[name] for what, name in members.items()}


async def _hit(ladder: Ladder, asked: Asked) -> float:
    ladder.settle(asked, Choice("moa", "classifier", 0.9))
    times = []
    for _ in range(_HITS):
        began = time.perf_counter()
        await ladder.choose(asked)
        times.append(time.perf_counter() - began)
    return median(times)


def _their_decision(folder: Path, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Seconds to load, and to decide: in the library's own calls, as OptiLLM has them."""
    import torch
    from safetensors.torch import load_model
    from tokenizers import Tokenizer
    from torch import nn
    from transformers import ModernBertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    began = time.perf_counter()
    classifier = nn.Module()
    classifier.base_model = ModernBertModel.from_pretrained(folder / _BASE, dtype=torch.float32)
    classifier.effort_encoder = nn.Sequential(
        nn.Linear(1, EFFORT), nn.ReLU(), nn.Linear(EFFORT, EFFORT), nn.ReLU()
    )
    classifier.classifier = nn.Linear(sizes["hidden_size"] + EFFORT, len(LABELS))
    load_model(classifier, folder / "model.safetensors")
    classifier.eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=_PADDED, pad_id=_SPECIAL["[PAD]"], pad_token="[PAD]")
    loaded = time.perf_counter()
    read = tokenizer.encode("word " * min(_TOKENS))
    with torch.no_grad():
        states = classifier.base_model(
            input_ids=torch.tensor([read.ids]), attention_mask=torch.tensor([read.attention_mask])
        ).last_hidden_state
        effort = classifier.effort_encoder(torch.tensor([[_EFFORT]]))
        classifier.classifier(torch.cat([states[:, 0], effort], dim=1)).softmax(1).argmax().item()
    return loaded - began, time.perf_counter() - loaded


def _chat(tokens: int) -> Chat:
    words = " ".join(["word"] * (tokens - 2))
    return Chat(({"role": "user", "content": words},))


def _write(folder: Path, sizes: Mapping[str, int]) -> None:
    """Configuration, a tokenizer that knows one word, and random weights in fp32."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    config = {"model_type": "modernbert", "num_attention_heads": 16, "pad_token_id": 3, **sizes}
    (folder / _BASE).mkdir()
    for each in (folder, folder / _BASE):
        (each / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel(_SPECIAL, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    tensors = {name: torch.empty(shape).normal_(std=0.02) for name, shape in layout(**sizes)}
    save_file(tensors, folder / "model.safetensors")
    own = {name.removeprefix(PREFIX): each for name, each in tensors.items() if PREFIX in name}
    save_file(own, folder / _BASE / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    sys.exit(main())
