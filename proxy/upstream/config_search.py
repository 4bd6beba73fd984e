"""Where ``proxy_config.yaml`` is looked for. Apart from its reader, which takes long to import."""

from __future__ import annotations

from pathlib import Path

from proxy.errors import ConfigError


def find(explicit: str | None, home: Path) -> Path | None:
    """The file of ``--proxy-config``, else the one in ``home``; None where there is none.

    Raises `ConfigError` if the file that was asked for does not exist.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not _exists(path):
            raise ConfigError(f"--proxy-config: {path} does not exist")
        return path
    folder = home / ".optillm"
    return next(filter(_exists, (folder / "proxy_config.yaml", folder / "proxy_config.yml")), None)


def _exists(path: Path) -> bool:
    """Also true for a link that leads nowhere: `load` says so, rather than nobody."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return True
