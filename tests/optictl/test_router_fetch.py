"""The router's classifier comes into the cache whole, checked, or not at all."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import REVISION, Hub, serving
from tiny_classifier import write_classifier

from optictl import router_fetch
from optictl.errors import FetchFailed, Locked
from optictl.router_fetch import BASE, from_folder, from_hub
from optictl.router_place import Place
from proxy.router.checkpoint import REPOSITORY
from proxy.router.config import Unusable


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "carried")


@pytest.fixture(autouse=True)
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tokenizers are none that could be read."""
    monkeypatch.setattr(router_fetch, "lacks", lambda: "tokenizers is not installed")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place({"HF_HOME": str(tmp_path / "hf")})


@pytest.fixture
def hub(carried: Path) -> Iterator[Hub]:
    with serving({REPOSITORY: {each.name: each.read_bytes() for each in carried.iterdir()}}) as hub:
        yield hub


def quiet(_: str) -> None:
    """Nobody listens."""


def fetch(place: Place, hub: Hub) -> Path:
    return from_hub(place.repository, quiet, {"HF_ENDPOINT": hub.url})


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


class TestFromTheHub:
    def test_the_service_finds_it(self, place: Place, hub: Hub) -> None:
        folder = fetch(place, hub)
        assert place.checkpoint().folder == folder
        assert folder.name == REVISION
        assert names(folder) == {"config.json", "tokenizer.json", "model.safetensors"}

    def test_one_that_is_there_is_not_fetched_again(self, place: Place, hub: Hub) -> None:
        fetch(place, hub)
        hub.asked.clear()
        fetch(place, hub)
        assert hub.asked == []

    def test_tokenizer_and_config_may_come_from_the_base(self, place: Place, hub: Hub) -> None:
        own = hub.files[REPOSITORY]
        hub.files[BASE] = {name: own.pop(name) for name in ("config.json", "tokenizer.json")}
        hub.files[BASE]["model.safetensors"] = b"never asked for"
        fetch(place, hub)
        assert place.checkpoint().weights.read_bytes() == own["model.safetensors"]

    def test_it_says_how_far_it_is(self, place: Place, hub: Hub) -> None:
        heard: list[str] = []
        from_hub(place.repository, heard.append, {"HF_ENDPOINT": hub.url})
        size = len(hub.files[REPOSITORY]["model.safetensors"])
        assert heard[-1] == f"model.safetensors: 100 % of {size:,} bytes"

    def test_a_broken_connection_goes_on_where_it_was(self, place: Place, hub: Hub) -> None:
        hub.cut = 1000
        with pytest.raises(FetchFailed, match=r"what has arrived is kept.*--from DIR"):
            fetch(place, hub)
        with pytest.raises(Unusable, match="optictl router fetch"):
            place.checkpoint()
        hub.cut = None
        hub.asked.clear()
        fetch(place, hub)
        assert ("model.safetensors", "bytes=1000-") in hub.asked
        content = hub.files[REPOSITORY]["model.safetensors"]
        assert place.checkpoint().weights.read_bytes() == content

    def test_what_arrives_damaged_is_thrown_away(self, place: Place, hub: Hub) -> None:
        gathered = place.repository / f"fetch-{REVISION}"
        gathered.mkdir(parents=True)
        size = len(hub.files[REPOSITORY]["model.safetensors"])
        (gathered / "model.safetensors").write_bytes(bytes(size))
        with pytest.raises(FetchFailed, match="has arrived damaged"):
            fetch(place, hub)
        fetch(place, hub)
        assert place.checkpoint().folder.name == REVISION

    def test_another_layout_is_refused_by_its_tensor(
        self, place: Place, hub: Hub, tmp_path: Path
    ) -> None:
        other = write_classifier(tmp_path / "other", leave_out="classifier.weight")
        content = (other / "model.safetensors").read_bytes()
        hub.files[REPOSITORY]["model.safetensors"] = content
        with pytest.raises(FetchFailed, match=r"the tensor classifier\.weight is missing"):
            fetch(place, hub)

    def test_a_hub_that_has_none(self, place: Place, hub: Hub) -> None:
        hub.files.clear()
        with pytest.raises(FetchFailed, match=r"answers HTTP 404.*--from DIR"):
            fetch(place, hub)

    def test_no_network(self, place: Place) -> None:
        with pytest.raises(FetchFailed, match=r"cannot be reached.*--from DIR"):
            from_hub(place.repository, quiet, {"HF_ENDPOINT": "http://127.0.0.1:9"})

    def test_a_broken_snapshot_is_replaced(self, place: Place, hub: Hub) -> None:
        (fetch(place, hub) / "config.json").unlink()
        fetch(place, hub)
        assert place.checkpoint().folder.name == REVISION
        assert names(place.repository / "snapshots") == {REVISION}


class TestFromAFolder:
    def test_the_service_finds_a_copy(self, place: Place, carried: Path) -> None:
        from_folder(carried, place.repository, quiet)
        shutil.rmtree(carried)
        assert place.checkpoint().folder.parent == place.repository / "snapshots"

    def test_again(self, place: Place, carried: Path) -> None:
        from_folder(carried, place.repository, quiet)
        folder = from_folder(carried, place.repository, quiet)
        assert place.checkpoint().folder == folder

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_the_missing_file_is_named(self, place: Place, carried: Path, name: str) -> None:
        (carried / name).unlink()
        with pytest.raises(FetchFailed, match=f"{name} is missing"):
            from_folder(carried, place.repository, quiet)
        assert not place.repository.exists()

    def test_one_cut_short_on_its_way(self, place: Place, carried: Path) -> None:
        weights = carried / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(FetchFailed, match="is cut short"):
            from_folder(carried, place.repository, quiet)


def test_without_room(place: Place, carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=7)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FetchFailed, match=r"no room in .* bytes are needed, 7 are free"):
        from_folder(carried, place.repository, quiet)


def test_a_place_that_is_not_to_be_written(place: Place, carried: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("a file")
    with pytest.raises(FetchFailed, match=r"cannot write .*: Not a directory"):
        from_folder(carried, place.repository, quiet)


def test_two_at_once(place: Place, carried: Path) -> None:
    place.repository.mkdir(parents=True)
    with (place.repository / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Locked, match="another optictl"):
            from_folder(carried, place.repository, quiet)
