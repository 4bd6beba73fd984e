"""Every request's calls and decisions: kept for the whole service, and on disk where wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from proxy.run.ledger import Ledger
from proxy.telemetry.batches import Batches
from proxy.telemetry.entry import Texts, dumped, entry_of, request_of
from proxy.telemetry.record import Record
from proxy.telemetry.ring import Ring
from proxy.telemetry.usage import UsageFile, Used, summed, used

_log = logging.getLogger("optillm.telemetry")

_Told = tuple[dict[str, Any], Ledger, Texts | None]


class Traces:
    """A `proxy.telemetry.record.Sink`; ``text`` keeps prompts and candidates too.

    ``log`` appends lines to a file, and raises `OSError` where it cannot.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        text: bool = False,
        log: Callable[[bytes], None] | None = None,
        usage: Path | None = None,
    ) -> None:
        self._ring = ring
        self._text = text
        self._log = log
        self._usage = None if usage is None else UsageFile(usage)
        self._batches: Batches[_Told] = Batches("traces", self._keep)
        #: What cannot be written at present, so that it is told once.
        self._failing: set[str] = set()

    def ended(self, record: Record) -> None:
        texts = None
        if self._text and record.plan is not None:
            texts = Texts(record.plan.chat.messages, record.body)
        told = request_of(record), record.ledger, texts
        self._batches.put(told, record.ledger.calls)

    def close(self) -> None:
        self._batches.close()

    def newest(self, identity: str | None = None) -> Iterator[dict[str, Any]]:
        """The entries of the whole service, the newest first; with ``identity`` those of one id.

        Each has a ``number``, which only ever grows while the service runs.
        """
        for number, content in self._ring.newest(identity):
            entry: dict[str, Any] = orjson.loads(content)
            if identity is None or entry["id"] == identity:
                yield {"number": number, **entry}

    def usage(self) -> tuple[list[Used], str]:
        """What was used by day and handle, and where that is from: ``file`` or ``traces``.

        Without a file for it, it is what the last thousand requests have used.
        """
        if self._usage is not None:
            with self._trying("usage"):
                return self._usage.read(), "file"
        return summed(map(used, self.newest())), "traces"

    def _keep(self, batch: Sequence[_Told]) -> None:
        entries = [entry_of(*told) for told in batch]
        lines = [dumped(entry) for entry in entries]
        names = [entry["id"] for entry in entries]
        with self._trying("traces"):
            self._ring.add(list(zip(names, lines, strict=True)))
        if self._log is not None:
            with self._trying("the trace log"):
                self._log(b"\n".join([*lines, b""]))
        if self._usage is not None:
            with self._trying("usage"):
                self._usage.add(map(used, entries))

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """Serving goes on without ``what`` while it cannot be kept, which is told once."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                _log.warning("%s cannot be kept at present: %s", what, error)
        else:
            if what in self._failing:
                self._failing.discard(what)
                _log.warning("%s can be kept again; something is missing in between", what)
