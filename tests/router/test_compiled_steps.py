"""The steps between products, compiled, come to what they come to with torch.

Where there is no compiler, there is nothing to test (`tests/conftest.py`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from compiler import compiled

from proxy.router import steps
from proxy.router.steps import Compiled, Torch

pytestmark = pytest.mark.router

KINDS = ["float32", "bfloat16"]
#: Of one number, of less and of more than a register holds, and of what lies beside a power of two.
WIDTHS = [1, 7, 64, 129]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_width = pytest.mark.parametrize("width", WIDTHS)


def numbers(kind: str, *shape: int) -> Any:
    import torch

    torch.manual_seed(sum(shape))
    return 3 * torch.randn(*shape, dtype=getattr(torch, kind))


def alike(found: Any, expected: Any) -> bool:
    """As near as what both are rounded to in the end; torch rounds bf16 after each operation."""
    within = 1e-6 if str(found.dtype) == "torch.float32" else 0.01
    error = (found.double() - expected.double()).abs().max()
    return bool(error <= within * expected.double().abs().max())


@each_kind
@each_width
@pytest.mark.parametrize("zero", [0, 128])
def test_each_row_has_its_own_steps(kind: str, width: int, zero: int) -> None:
    import torch

    x = numbers(kind, 6, width)
    x[1] *= 1e4
    x[2] *= 1e-6
    x[3] = 0
    kept = x.clone()
    whole, largest = compiled(x.dtype).quantised(x, zero)
    assert whole.dtype == (torch.uint8 if zero else torch.int8)
    assert torch.equal(x, kept)
    expected, theirs = Torch().quantised(x, zero)
    assert torch.allclose(largest, theirs.float(), rtol=0.004, atol=0)
    # One rounds halves to even, the other up.
    assert (whole.int() - expected.int()).abs().max() <= 1
    assert (whole.int() - zero).abs().max() <= 127
    back = (whole.float() - zero) * largest / 127
    assert ((back - x.float()).abs() <= largest / 127 * 0.501).all()
    assert (whole[3] == zero).all()


@each_kind
@each_width
def test_a_product_is_gated_and_added_as_by_torch(kind: str, width: int) -> None:
    product, other = numbers(kind, 2, 6, width)
    factor = numbers(kind, 6, 1).abs()
    own = compiled(product.dtype)
    gated = own.gated(product.clone(), other.clone(), factor.float())
    assert alike(gated, Torch().gated(product.clone(), other.clone(), factor))
    kept = other.clone()
    added = own.added(product.clone(), other, factor.float())
    assert alike(added, Torch().added(product.clone(), other, factor))
    assert other.equal(kept)


@each_kind
@each_width
def test_rows_are_normed_as_by_torch(kind: str, width: int) -> None:
    import torch

    x, weight = 5 + numbers(kind, 6, width), numbers(kind, width)
    x[1] *= 1e4
    x[2] *= 1e-6
    x[3] = 0
    kept = x.clone(), weight.clone()
    found = compiled(x.dtype).normed(x, weight, 1e-5)
    assert alike(found, Torch().normed(x.double(), weight.double(), 1e-5))
    assert all(map(torch.equal, (x, weight), kept))


def test_gelu_is_exact() -> None:
    """Of fp32, over all that it changes and far beyond."""
    import torch
    from torch.nn.functional import gelu

    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([-1e30, -1e-30, 0.0, 1e30])])
    x = x.unsqueeze(0)
    found = compiled().gated(x.clone(), torch.ones_like(x), torch.ones(1, 1))
    assert torch.allclose(found.double(), gelu(x.double()), rtol=1e-6, atol=1e-6)


@each_kind
@pytest.mark.parametrize("factored", [False, True])
def test_queries_and_keys_are_turned_as_by_torch(kind: str, factored: bool) -> None:
    import torch

    heads, pairs = 3, 5
    qkv = numbers(kind, 6, 3 * heads * 2 * pairs)
    rotation = torch.randn(6, 2, 1, pairs, dtype=torch.complex64)
    factor = numbers(kind, 6, 1).abs() if factored else None
    expected = Torch().turned(qkv.clone(), rotation, factor)
    own = None if factor is None else factor.float()
    found = compiled(qkv.dtype).turned(qkv.clone(), rotation, own)
    for each, their in zip(found, expected, strict=True):
        assert each.shape == their.shape == (heads, 6, 2 * pairs)
        assert alike(each, their)


@each_kind
def test_what_is_no_number_stays_none(kind: str) -> None:
    """A disk that spoils weights must not come to a decision."""
    import torch

    x = numbers(kind, 2, 40)
    x[1, 7] = float("nan")
    own = compiled(x.dtype)
    _, largest = own.quantised(x, 0)
    assert largest.isnan().tolist() == [[False], [True]]
    assert own.normed(x, x[0], 1e-5).isnan().all(1).tolist() == [False, True]
    product = torch.zeros_like(x)
    for found in (
        own.added(product.clone(), x, largest),
        own.gated(x.clone(), x, torch.ones(2, 1)),
    ):
        assert found.isnan().any(1).tolist() == [False, True]


def test_a_tensor_with_gaps_is_refused() -> None:
    x = numbers("float32", 6, 8)
    with pytest.raises(ValueError, match=r"added: a tensor with gaps, \(1, 8\)"):
        compiled().added(x.T, x, x)


def test_a_config_may_say_a_fraction_as_an_integer() -> None:
    x = numbers("float32", 6, 8)
    assert alike(compiled().normed(x, x[0], 1), Torch().normed(x, x[0], 1.0))


def test_the_source_is_without_warnings(tmp_path: Path) -> None:
    for half in (0, 1):
        command = ["cc", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-c"]
        out = ["-o", str(tmp_path / "steps.o"), str(steps._SOURCE), f"-DHALF={half}"]
        subprocess.run([*command, *out], check=True)


def test_a_python_without_memory_files_loads_it_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was built for an older glibc."""
    import torch

    monkeypatch.delattr(os, "memfd_create")
    x = numbers("float32", 6, 8)
    assert alike(Compiled(torch.float32).added(x.clone(), x, torch.ones(6, 1)), 2 * x)
