"""What Prometheus and Grafana need to watch the service: pure, no disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from optictl.artifact import Artifact
from optictl.places import Places
from optictl.render import proxy_key_file, reached_at
from optictl.site import Site

_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. ``expression`` is PromQL, ``lasting`` for how long it must hold."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning", "info"]
    #: What is the matter; may quote labels as Prometheus' templates do.
    summary: str
    #: What to look at.
    look: str


@dataclass(frozen=True, slots=True)
class _Panel:
    """One graph: PromQL by legend. ``unit`` is one of Grafana's."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]


def monitoring(site: Site, places: Places, folder: Path) -> tuple[Artifact, ...]:
    """The scrape configuration, the alert rules and the dashboard, below ``folder``."""
    environment = Environment(
        loader=PackageLoader("optictl"),
        undefined=StrictUndefined,
        autoescape=False,  # YAML, no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    known = {
        "job": places.name,
        "site_file": places.site,
        "key_file": proxy_key_file(site, places),
        "target": reached_at(site.proxy).removeprefix("http://"),
        "alerts": alerts(places.name, site.proxy.request_timeout),
    }
    texts = {
        "scrape.yml": environment.get_template("monitoring/scrape.yml.j2").render(known),
        "rules.yml": environment.get_template("monitoring/rules.yml.j2").render(known),
        "dashboard.json": json.dumps(_dashboard(places.name), indent=2) + "\n",
    }
    return tuple(
        Artifact(path=folder / name, content=text.encode(), effect="none")
        for name, text in texts.items()
    )


def alerts(job: str, request_timeout: float = 600.0) -> list[Alert]:
    """The rules for the service that is scraped as ``job``; ``request_timeout`` in seconds."""
    of = f'job="{job}"'
    requests = f"sum(rate(optillm_requests_total{{{of}}}[5m]))"
    failed = f'sum(rate(optillm_requests_total{{{of},status=~"200|5..",code!="ok"}}[5m]))'
    slowest = _quantile(0.95, "optillm_request_seconds", of, "10m")
    return [
        Alert(
            "OptillmDown", f"up{{{of}}} == 0", "1m", "critical",
            "{{ $labels.instance }} does not answer.", "optictl status; optictl logs",
        ),
        Alert(
            "OptillmNotReady", f"optillm_ready{{{of}}} == 0", "2m", "critical",
            "{{ $labels.instance }} finds its upstream unusable, or is stopping.",
            "GET /health/ready says why; optictl check",
        ),
        Alert(
            "OptillmProviderDown", f"optillm_provider_up{{{of}}} == 0", "2m", "warning",
            "The provider {{ $labels.provider }} is left out.",
            "GET /health/ready, providers; the log says provider=NAME is left out",
        ),
        Alert(
            "OptillmErrors", f"{failed} / {requests} > 0.05", "5m", "warning",
            "{{ $value | humanizePercentage }} of all requests fail.",
            "optillm_requests_total by code; optictl explain CODE",
        ),
        Alert(
            "OptillmSlow", f"{slowest} > {request_timeout / 2:g}", "10m", "warning",
            "One answer of {{ $labels.approach }} in twenty takes {{ $value | humanizeDuration }}: "
            "more than half of the request timeout.",
            "optictl trace; where calls wait, optillm_queue_depth",
        ),
        Alert(
            "OptillmLoopLag", f"optillm_loop_lag_seconds{{{of}}} > 1", "1m", "warning",
            "An event loop is {{ $value | humanizeDuration }} late.",
            "CPU of the machine; more workers",
        ),
        Alert(
            "OptillmRequestsLost", f"increase(optillm_requests_lost_total{{{of}}}[15m]) > 0", "0m",
            "critical", "{{ $value | humanize }} requests were lost with a worker that died.",
            "optictl logs, from worker … died; memory of the machine",
        ),
        Alert(
            "OptillmQueueFull",
            f"increase(optillm_requests_turned_away_total{{{of}}}[5m]) > 0", "0m", "warning",
            "Requests are refused for want of room ({{ $labels.code }}).",
            "max_concurrent of the providers, queue, --threads; optictl degrade on",
        ),
        Alert(
            "OptillmMembersMissing", f"increase(optillm_members_missing_total{{{of}}}[10m]) > 0",
            "0m", "warning",
            "{{ $labels.ensemble }} runs with fewer members than declared: {{ $labels.model }} "
            "does not answer.",
            "optictl check; optictl ensemble NAME",
        ),
        Alert(
            "OptillmDegraded", f"optillm_degraded{{{of}}} == 1", "15m", "info",
            "Every request is answered by none: degraded mode is on.", "optictl degrade off",
        ),
        Alert(
            "OptillmReloadRefused", f"optillm_reload_refused{{{of}}} == 1", "5m", "warning",
            "The last reload was refused; an older configuration serves on.",
            "GET /health/ready, reload; optictl validate",
        ),
    ]  # fmt: skip


def _dashboard(job: str) -> dict[str, Any]:
    """A dashboard of Grafana's, for its import: it asks which Prometheus."""
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {
                "x": _WIDTH * (number % 2), "y": _HEIGHT * (number // 2),
                "w": _WIDTH, "h": _HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "datasource": source, "expr": query,
                 "legendFormat": legend}
                for place, (legend, query) in enumerate(panel.queries)
            ],
        }
        for number, panel in enumerate(_panels(f'job="{job}"'))
    ]  # fmt: skip
    return {
        "__inputs": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource",
             "pluginId": "prometheus"}
        ],
        "uid": job[:40],
        "title": job,
        "tags": ["optillm"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": panels,
    }  # fmt: skip


def _panels(of: str) -> Iterator[_Panel]:
    def rate(name: str, *by: str, where: str = "") -> str:
        return f"sum by ({', '.join(by)}) (rate({name}{{{of}{where}}}[$__rate_interval]))"

    def shown(*labels: str) -> str:
        return " ".join(f"{{{{{label}}}}}" for label in labels)

    def p95(name: str, by: str = "approach") -> tuple[str, str]:
        return shown(by), _quantile(0.95, name, of, "$__rate_interval", by)

    yield _Panel("Requests", "reqps", [
        (shown("approach"), rate("optillm_requests_total", "approach")),
    ])  # fmt: skip
    yield _Panel("Errors", "reqps", [
        (shown("status", "code"), rate("optillm_requests_total", "status", "code",
                                       where=',code!="ok"')),
    ])  # fmt: skip
    yield _Panel("Time to the answer, p95", "s", [p95("optillm_request_seconds")])
    yield _Panel("Time to the first token, p95", "s", [p95("optillm_first_token_seconds")])
    yield _Panel("Upstream calls", "reqps", [
        (shown("provider", "model", "outcome"),
         rate("optillm_upstream_calls_total", "provider", "model", "outcome")),
    ])  # fmt: skip
    yield _Panel("Tokens", "short", [
        (shown("model", "kind"), rate("optillm_tokens_total", "model", "kind")),
    ])  # fmt: skip
    yield _Panel("Rounds, p95", "short", [p95("optillm_rounds")])
    yield _Panel("Calls cancelled and shared", "reqps", [
        (shown("approach", "why"), rate("optillm_calls_cancelled_total", "approach", "why")),
        (shown("source"), rate("optillm_calls_shared_total", "source")),
    ])  # fmt: skip
    yield _Panel("Approaches chosen by the router", "reqps", [
        (shown("approach", "source"), rate("optillm_router_decisions_total", "approach", "source")),
    ])  # fmt: skip
    yield _Panel("Confidence of the router, median", "percentunit", [
        (shown("source"),
         _quantile(0.5, "optillm_router_confidence", of, "$__rate_interval", "source")),
    ])  # fmt: skip
    yield _Panel("In flight", "short", [
        ("requests", f"optillm_requests_in_flight{{{of}}}"),
        ("upstream calls", f"optillm_upstream_calls_in_flight{{{of}}}"),
        ("waiting", f"optillm_queue_depth{{{of}}}"),
    ])  # fmt: skip
    yield _Panel("Wait for a provider, p95", "s", [p95("optillm_queue_wait_seconds", "provider")])
    yield _Panel("Providers", "short", [
        (shown("provider"), f"optillm_provider_up{{{of}}}"),
        (shown("provider", "state"),
         f'optillm_provider_state{{{of},state!="closed"}}'),
    ])  # fmt: skip
    yield _Panel("Failovers, retries, limits", "reqps", [
        ("failover from " + shown("provider"), rate("optillm_failovers_total", "provider")),
        ("retry at " + shown("provider"), rate("optillm_retries_total", "provider")),
        ("ended by " + shown("reason"), rate("optillm_budget_exhausted_total", "reason")),
        ("turned away: " + shown("code"), rate("optillm_requests_turned_away_total", "code")),
    ])  # fmt: skip
    yield _Panel("Members missing", "short", [
        (shown("ensemble", "model"),
         f"increase(optillm_members_missing_total{{{of}}}[$__rate_interval])"),
    ])  # fmt: skip
    yield _Panel("The service", "short", [
        ("ready", f"optillm_ready{{{of}}}"),
        ("workers", f"optillm_workers{{{of}}}"),
        ("degraded", f"optillm_degraded{{{of}}}"),
        ("reload refused", f"optillm_reload_refused{{{of}}}"),
        ("requests lost", f"optillm_requests_lost_total{{{of}}}"),
    ])  # fmt: skip
    yield _Panel("Event loops", "s", [("lag", f"optillm_loop_lag_seconds{{{of}}}")])
    yield _Panel("Tasks", "short", [("tasks", f"optillm_tasks{{{of}}}")])


def _quantile(part: float, name: str, of: str, over: str, by: str = "approach") -> str:
    return f"histogram_quantile({part}, sum by ({by}, le) (rate({name}_bucket{{{of}}}[{over}])))"
