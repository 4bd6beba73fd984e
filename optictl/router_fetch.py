"""Fetches the router's classifier into a Hugging Face cache: from the hub, or from a folder.

https://huggingface.co/docs/hub/api. A snapshot's files are gathered beside it and the folder is
renamed when they are complete, so that a service never finds half of one. What has arrived of a
file stays, and the rest is asked for the next time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from optictl.errors import FetchFailed, Locked
from proxy.router.checkpoint import REPOSITORY, inspect, lacks
from proxy.router.config import Unusable
from proxy.router.tokenise import Tokeniser

#: Hears how far it is.
Tell = Callable[[str], None]

#: Where tokenizer and configuration are taken from where the checkpoint has none of its own.
BASE = "answerdotai/ModernBERT-large"
NAMES = ("config.json", "tokenizer.json", "model.safetensors")
_HUB = "https://huggingface.co"
_BY_HAND = "by-hand"
_PIECE = 1 << 20
_TIMEOUT = httpx.Timeout(30.0)
_CARRY = "without the internet: optictl router fetch --from DIR"


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the hub: bytes, and the digest that it is known by."""

    url: str
    name: str
    size: int
    #: Of Git LFS the SHA-256; else what Git calls it, a SHA-1 with the size in front.
    digest: str

    def is_at(self, path: Path) -> bool:
        known = hashlib.sha256() if len(self.digest) == 64 else _git(self.size)
        with path.open("rb") as file:
            for piece in _pieces(file):
                known.update(piece)
        return known.hexdigest() == self.digest


def from_hub(repository: Path, tell: Tell, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the hub's present snapshot, complete. Raises `FetchFailed` and `Locked`."""
    hub = (environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    with _writing(repository), httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as http:
        try:
            revision, files = _listed(http, hub)
            target = repository / "snapshots" / revision
            if not _usable(target):
                gathered = repository / f"fetch-{revision}"
                gathered.mkdir(parents=True, exist_ok=True)
                _room(gathered, [each.size for each in files])
                for each in files:
                    _download(http, each, gathered / each.name, tell)
                _put(gathered, target)
        except httpx.HTTPStatusError as error:
            raise FetchFailed(
                f"{error.request.url} answers HTTP {error.response.status_code}; {_CARRY}"
            ) from None
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise FetchFailed(
                f"{hub} cannot be reached, or does not answer as the hub does ({error}); try "
                f"again, what has arrived is kept; {_CARRY}"
            ) from None
        _name(repository, revision)
    return target


def from_folder(source: Path, repository: Path, tell: Tell) -> Path:
    """A snapshot that is a copy of ``source``. Raises `FetchFailed` and `Locked`."""
    try:
        inspect(source)
    except Unusable as unusable:
        raise FetchFailed(f"{unusable}; a folder has to hold: {', '.join(NAMES)}") from None
    target = repository / "snapshots" / _BY_HAND
    with _writing(repository):
        gathered = repository / f"fetch-{_BY_HAND}"
        shutil.rmtree(gathered, ignore_errors=True)
        gathered.mkdir(parents=True)
        _room(gathered, [(source / name).stat().st_size for name in NAMES])
        for name in NAMES:
            with (source / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _write(gathered / name, _pieces(file), 0, size, tell)
        _put(gathered, target)
        _name(repository, _BY_HAND)
    return target


def _listed(http: httpx.Client, hub: str) -> tuple[str, list[_File]]:
    """The hub's present revision, and the files that make a checkpoint."""
    revision, own = _tree(http, hub, REPOSITORY)
    files = [own[name] for name in NAMES if name in own]
    if len(files) < len(NAMES):
        _, base = _tree(http, hub, BASE)
        files += [base[name] for name in NAMES[:2] if name not in own]
    return revision, files


def _tree(http: httpx.Client, hub: str, repository: str) -> tuple[str, dict[str, _File]]:
    about = f"{hub}/api/models/{repository}"
    revision = str(_json(http, about)["sha"])
    if not revision.isalnum():
        raise ValueError("its revision is no digest")
    files = {}
    for each in _json(http, f"{about}/tree/{revision}"):
        name, stored = each["path"], each.get("lfs") or each
        if name in NAMES:
            url = f"{hub}/{repository}/resolve/{revision}/{name}"
            files[name] = _File(url, name, int(stored["size"]), str(stored["oid"]))
    return revision, files


def _json(http: httpx.Client, url: str) -> Any:
    return http.get(url).raise_for_status().json()


def _download(http: httpx.Client, file: _File, path: Path, tell: Tell) -> None:
    """All of ``file`` at ``path``, where some of it may be."""
    have = path.stat().st_size if path.exists() else 0
    if have < file.size:
        # As it is: the digest is of the file, and so is the range.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with http.stream("GET", file.url, headers=headers) as answer:
            answer.raise_for_status()
            # One that does not know ranges begins again.
            begun = have if answer.status_code == httpx.codes.PARTIAL_CONTENT else 0
            _write(path, answer.iter_raw(), begun, file.size, tell)
    if path.stat().st_size != file.size or not file.is_at(path):
        path.unlink()
        raise FetchFailed(f"{file.url} has arrived damaged; run it again: optictl router fetch")


def _write(path: Path, pieces: Iterator[bytes], begun: int, size: int, tell: Tell) -> None:
    """Put ``pieces`` behind the first ``begun`` bytes at ``path``; a line for each tenth."""
    written, tenth = begun, 10 * begun // max(1, size)
    with path.open("r+b" if begun else "wb") as out:
        out.seek(begun)
        for piece in pieces:
            out.write(piece)
            written += len(piece)
            if 10 * written // max(1, size) > tenth:
                tenth = 10 * written // max(1, size)
                tell(f"{path.name}: {10 * tenth} % of {size:,} bytes")
        _flush(out)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _flush(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())


def _put(gathered: Path, target: Path) -> None:
    """Make ``gathered`` the snapshot ``target``, in the place of one that is no use."""
    try:
        inspect(gathered)
    except Unusable as unusable:
        raise FetchFailed(f"what has arrived is not the classifier that we know: {unusable}") from (
            None
        )
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        gathered.rename(target)
        shutil.rmtree(old)
    else:
        gathered.rename(target)


def _name(repository: Path, revision: str) -> None:
    """Have everybody who looks find the snapshot ``revision``."""
    named = repository / "refs" / "main"
    named.parent.mkdir(exist_ok=True)
    written = named.with_name("main.new")
    written.write_text(revision, encoding="utf-8")
    written.rename(named)


def _usable(folder: Path) -> bool:
    try:
        checkpoint = inspect(folder)
        if not lacks():
            Tokeniser(checkpoint.tokenizer)
    except Unusable:
        return False
    return True


def _room(folder: Path, sizes: list[int]) -> None:
    """Raises `FetchFailed` where files of these sizes do not fit beside what is there."""
    needed = sum(sizes) - sum(each.stat().st_size for each in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FetchFailed(
            f"no room in {folder.parent}: {needed:,} bytes are needed, {free:,} are free"
        )


@contextmanager
def _writing(repository: Path) -> Iterator[None]:
    """Alone, and with what the disk refuses in words."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with (repository / "fetch.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Locked(f"another optictl fetches into {repository}; wait for it") from None
            yield
    except OSError as error:
        said = "no room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise FetchFailed(f"cannot write {error.filename or repository}: {said}") from None


def _git(size: int) -> Any:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
