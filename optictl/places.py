"""Where the files of a site live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optictl.site import Site
from optictl.state import Records


@dataclass(frozen=True, slots=True)
class Places:
    """Paths as the running system sees them, which is how files speak of one another.

    `on_disk` is where such a path is written: below ``root``, in a staging tree.
    """

    name: str
    #: What the service reads: its settings, and the site that they are rendered from.
    config: Path
    #: systemd's units.
    units: Path
    #: What optictl remembers: the last written state, checkpoints, the lock.
    state: Path
    #: What the service keeps (``StateDirectory=``), and what it could do without.
    service_state: Path
    service_cache: Path
    root: Path = Path("/")

    @classmethod
    def of(cls, site: Site, *, root: Path = Path("/"), home: Path) -> Places:
        """``home`` is that of the user whom the service runs as."""
        name = site.service.name
        if site.service.scope == "user":
            return cls(
                name=name,
                config=home / ".config" / name,
                units=home / ".config/systemd/user",
                state=home / ".local/state/optictl" / name,
                service_state=home / ".local/state" / name,
                service_cache=home / ".cache" / name,
                root=root,
            )
        return cls(
            name=name,
            config=Path("/etc") / name,
            units=Path("/etc/systemd/system"),
            state=Path("/var/lib/optictl") / name,
            service_state=Path("/var/lib") / name,
            service_cache=Path("/var/cache") / name,
            root=root,
        )

    @property
    def site(self) -> Path:
        return self.config / "optictl.yaml"

    @property
    def env(self) -> Path:
        return self.config / "env"

    @property
    def proxy_config(self) -> Path:
        return self.config / "proxy_config.yaml"

    @property
    def proxy_key(self) -> Path:
        return self.config / "proxy.key"

    @property
    def ensembles(self) -> Path:
        return self.config / "ensembles.jsonl"

    @property
    def degraded(self) -> Path:
        """While it is there, the service answers every request by ``none``."""
        return self.config / "degraded"

    @property
    def warmup(self) -> Path:
        return self.config / "warmup.json"

    @property
    def service(self) -> Path:
        return self.units / f"{self.name}.service"

    @property
    def socket(self) -> Path:
        return self.units / f"{self.name}.socket"

    @property
    def records(self) -> Records:
        """Where optictl keeps account of what it has written."""
        return Records(self.state.parent, self.name)

    def on_disk(self, path: Path) -> Path:
        """Where ``path``, which is absolute, is written."""
        return self.root / path.relative_to("/")
