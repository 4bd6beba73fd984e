"""What a comparison with OptiLLM consists of: both services, the effort, and a row of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.processes import Proxy

PEER = "OptiLLM 0.3.12"
#: An installed package has its bytecode compiled: here the first start, which is not counted, does.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for a figure."""

    #: Of one run of the load generator, behind half as many until its queue is as long as it gets.
    seconds: float
    rounds: int
    starts: int
    repeats: int
    questions: int


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both; ``better`` says how many times better ours is, or in what it is not."""

    name: str
    ours: str
    theirs: str
    better: float | str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        better = self.better if isinstance(self.better, str) else f"{self.better:.1f} ×"
        return self.name, self.ours, self.theirs, better


class Optillm(Proxy):
    """OptiLLM on a free loopback port while the block lasts.

    Its key comes from OPENAI_API_KEY. OPTILLM_API_KEY, which its manual names for clients' keys,
    would turn it into a server of local models.
    """

    def __init__(self, program: str, base_url: str) -> None:
        super().__init__(base_url, env={**_COMPILED, "OPENAI_API_KEY": "x"}, within=300.0)
        self._command = [
            program, "--host", "127.0.0.1", "--port", str(self.port), "--base-url", base_url,
        ]  # fmt: skip


#: Makes a service in front of a base URL.
Make = Callable[[str], Proxy]


def optictl(base_url: str, *flags: str) -> Proxy:
    """Ours, as `Optillm` is theirs."""
    return Proxy(base_url, *flags, env=_COMPILED)
