"""The service of a site without systemd: the same command line, the same files, in a terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from optictl.desired import secrets_of
from optictl.ensemble_registry import rendered
from optictl.machine import Machine
from optictl.program_path import program_path
from optictl.render import FLOOR, Facts, proxy_key_file, render, serve_words
from optictl.wiring import alias_lines


@dataclass(frozen=True, slots=True)
class Foreground:
    """What to start: the words after ``optictl``, and the variables of the env file."""

    words: list[str]
    variables: Mapping[str, str]


@contextmanager
def foreground(machine: Machine) -> Iterator[Foreground]:
    """The files that the service reads lie in a folder of their own as long as this lasts.

    Raises as rendering does: for a key that is not where the site says, for a registry of ensembles
    with a mistake.
    """
    site, secrets = machine.site, secrets_of(machine.site)
    # Units are not rendered for anybody here: any systemd will do.
    facts = Facts(
        optictl=program_path(),
        systemd=FLOOR,
        home=machine.home,
        ensembles=rendered(site, machine.places),
        model_map=machine.route.model_map,
        degraded=machine.degraded,
    )
    with tempfile.TemporaryDirectory(prefix="optictl-run-") as folder:
        places = replace(machine.places, config=Path(folder))
        read = (places.proxy_config, places.proxy_key, places.ensembles, places.degraded)
        for artifact in render(site, facts, secrets, places):
            if artifact.path in read:
                artifact.path.touch(mode=0o600)
                artifact.path.write_bytes(artifact.content)
        key = proxy_key_file(site, places)
        words = serve_words(site, facts, places)[1:]
        if key is not None:
            words += ["--optillm-api-key-file", str(key)]
        upstream = secrets.get("upstream.key")
        given = {} if upstream is None else {"OPENAI_API_KEY": upstream.reveal()}
        aliases = alias_lines(machine.ensembles)
        yield Foreground(words, {**site.service.environment, **aliases, **given})
