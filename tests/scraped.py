"""What ``/metrics`` says, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scraped:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels, among others."""
        return sum(sample.value for sample in self._of(name, labels))

    def labels(self, name: str, label: str) -> set[str]:
        """The values of one label."""
        return {sample.labels[label] for sample in self._of(name, {})}

    def _of(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        for sample in self._samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                yield sample
