"""A site's files: pure, no disk. The texts are ``templates/*.j2``.

What the units say and why: each fact was measured under systemd 252, the oldest that will do.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from optictl.artifact import Artifact, Effect
from optictl.errors import OptictlError
from optictl.places import Places
from optictl.quoting import env_line, exec_word, rest_of_line, word
from optictl.site import Proxy, Site
from proxy.settings import Secret

#: The oldest systemd that the units are for: Debian 12's.
FLOOR = 252
#: Seconds that loading takes at most, before the warmup may begin.
_LOADING = 30
#: Seconds between the last moment of a drain and the one at which systemd kills.
_SPARE = 10
#: Homes, which ``ProtectHome=`` hides.
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rendered files depend on besides the site."""

    #: The console script, by its absolute path.
    optictl: Path
    #: systemd's version.
    systemd: int
    #: The home of the user whom the service runs as.
    home: Path
    #: Where the Python is installed that the console script runs in (``sys.base_prefix``).
    python: Path = Path("/usr")
    #: The rows of its ensembles, a JSON object a line.
    ensembles: str = ""
    #: The variables by which the proxy knows LiteLLM's handles.
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: What the proxy calls a base model at LiteLLM, where that is another name.
    model_map: Mapping[str, str] = field(default_factory=dict)
    #: Whether it answers every request by ``none``.
    degraded: bool = False


def render(
    site: Site, facts: Facts, secrets: Mapping[str, Secret], places: Places
) -> list[Artifact]:
    """Every file of the site, units first.

    ``secrets`` holds, by their names in the site, ``upstream.key`` where there is one, and
    ``proxy.key`` where it lives in a file of variables. Raises `OptictlError` for what no file can
    say, and for a systemd that is too old.
    """
    if facts.systemd < FLOOR:
        raise OptictlError(
            f"systemd {facts.systemd} is too old: the units need {FLOOR} or newer "
            "(Debian 12, Ubuntu 23.04, RHEL 9.2 and later have it)"
        )
    return list(_artifacts(site, facts, secrets, places))


def _artifacts(
    site: Site, facts: Facts, secrets: Mapping[str, Secret], places: Places
) -> Iterator[Artifact]:
    texts = _Texts(site, facts, places)
    owner = "root" if site.service.scope == "system" else None

    def artifact(
        path: Path, text: str, effect: Effect, *, secret: bool = False, unit: bool = False
    ) -> Artifact:
        return Artifact(
            path=places.on_disk(path),
            content=text.encode(),
            mode=0o600 if secret else 0o644,
            owner=owner,
            group=owner,
            sensitive=secret,
            effect=effect,
            unit=unit,
        )

    yield artifact(places.service, texts.of("service.j2"), "restart", unit=True)
    yield artifact(places.socket, texts.of("socket.j2"), "rebind", unit=True)
    given = {**site.service.environment, **facts.aliases}
    variables = [env_line(*each) for each in given.items()]
    if site.upstream.key is not None:
        variables.append(env_line("OPENAI_API_KEY", secrets["upstream.key"].reveal()))
    # systemd reads this file and the key anew only at a start.
    yield artifact(places.env, texts.of("env.j2", variables=variables), "restart", secret=True)
    if proxy_key_file(site, places) == places.proxy_key:
        key = secrets["proxy.key"].reveal()
        yield artifact(places.proxy_key, f"{key}\n", "restart", secret=True)
    yield artifact(places.proxy_config, texts.of("proxy_config.yaml.j2"), "reload")
    if facts.ensembles:
        yield artifact(places.ensembles, facts.ensembles, "reload")
    if facts.degraded:
        yield artifact(places.degraded, texts.of("degraded.j2"), "reload")
    yield artifact(places.warmup, texts.of("warmup.json.j2"), "none")


class _Texts:
    """The templates, and what they all know."""

    def __init__(self, site: Site, facts: Facts, places: Places) -> None:
        self._environment = Environment(
            loader=PackageLoader("optictl"),
            undefined=StrictUndefined,
            autoescape=False,  # units and YAML, no HTML
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters.update(
            arguments=lambda words: " ".join(map(exec_word, words)),
            words=lambda entries: " ".join(map(word, entries)),
            path=lambda path: rest_of_line(str(path)),
            json=lambda value: json.dumps(value, ensure_ascii=False),
        )
        proxy, system = site.proxy, site.service.scope == "system"
        key_file = proxy_key_file(site, places)
        self._known = {
            "site": site,
            "facts": facts,
            "places": places,
            "system": system,
            "strict": site.service.profile == "strict",
            "key_file": key_file,
            "serve": serve_words(site, facts, places),
            "warmup": [
                *(str(facts.optictl), "warmup", "--url", reached_at(proxy)),
                *("--body", str(places.warmup), "--timeout", _number(proxy.warmup_timeout)),
                *(["--key-file", str(key_file)] if key_file is not None else []),
            ],
            "validate": [
                *(str(facts.optictl), "validate"),
                *("--proxy-config", str(places.proxy_config)),
                *(_ensemble_words(site, places) if facts.ensembles else []),
            ],
            "readable": _readable(facts) if system else [],
            "listen": _listen(proxy),
            "start_seconds": math.ceil(proxy.warmup_timeout) + _LOADING,
            "stop_seconds": math.ceil(proxy.request_timeout + 5.0) + _SPARE,
        }

    def of(self, template: str, **more: object) -> str:
        return self._environment.get_template(template).render(self._known, **more)


def proxy_key_file(site: Site, places: Places) -> Path | None:
    """The file that systemd hands the clients' key over from."""
    key = site.proxy.key
    if key is None:
        return None
    return places.proxy_key if key.file is None else Path(key.file)


def serve_words(site: Site, facts: Facts, places: Places) -> list[str]:
    """The command line, with nothing left to defaults or to the environment."""
    proxy = site.proxy
    return [
        *(str(facts.optictl), "serve", "--host", proxy.host, "--port", str(proxy.port)),
        *(["--allow-external"] if proxy.allow_external else []),
        *("--base-url", site.upstream.base_url, "--approach", proxy.approach),
        *("--model", proxy.base_model),
        *("--workers", str(proxy.workers), "--threads", str(proxy.threads)),
        *("--request-timeout", _number(proxy.request_timeout)),
        *("--proxy-config", str(places.proxy_config)),
        *(_ensemble_words(site, places) if facts.ensembles else []),
        *("--degraded-file", str(places.degraded)),
        *proxy.flags,
    ]


def _ensemble_words(site: Site, places: Places) -> list[str]:
    single = ["--single-model-ensembles"] if site.policy.single else []
    return ["--ensembles", str(places.ensembles), *single]


def _readable(facts: Facts) -> list[str]:
    """What the service reads although homes are hidden from it; ``-``: if it is there."""
    paths = [f"-{facts.home / '.optillm'}", f"-{facts.home / '.cache/huggingface'}"]
    for program in (facts.optictl.parent.parent, facts.python):
        if any(program.is_relative_to(hidden) for hidden in HIDDEN):
            paths.append(str(program))
    return paths


def _address(proxy: Proxy) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host = "127.0.0.1" if proxy.host == "localhost" else proxy.host
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise OptictlError(
            f"proxy.host: {proxy.host} is a name, and a socket unit listens on addresses; "
            "write the address"
        ) from None


def _listen(proxy: Proxy) -> str:
    return _joined(_address(proxy), proxy.port)


def reached_at(proxy: Proxy) -> str:
    """Where the service is reached from its own machine: ``http://127.0.0.1:4020``."""
    address = _address(proxy)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{_joined(address, proxy.port)}"


def _joined(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
