from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from server.shared_memory import Region, Regions
from variants.errors import AlreadyThere, ConfigError, InvalidInput, UnknownRegion, Unsupported


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Stands for /dev/shm, with an object `data` of 64 bytes."""
    folder = tmp_path / "shm"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(range(64)))
    (tmp_path / "outside").write_bytes(b"secret" * 20)
    return folder


@pytest.fixture
def regions(tmp_path: Path, objects: Path) -> Regions:
    return Regions(tmp_path / "registry", objects=objects)


def test_what_is_written_on_one_side_is_read_on_the_other(regions: Regions, objects: Path) -> None:
    regions.register("r", "/data", 8, 16)
    view = regions.view("r", 4, 4)
    assert bytes(view) == bytes([12, 13, 14, 15])
    view[:] = b"abcd"
    assert (objects / "data").read_bytes()[12:16] == b"abcd"
    array = np.frombuffer(regions.view("r", 0, 4), np.uint8)
    with (objects / "data").open("r+b") as file:
        file.seek(8)
        file.write(b"\xff")
    assert array[0] == 255, "no copy is made"


def test_another_host_of_the_machine_finds_what_one_has_registered(
    tmp_path: Path, objects: Path, regions: Regions
) -> None:
    other = Regions(tmp_path / "registry", objects=objects)
    with pytest.raises(UnknownRegion, match="'r'"):
        other.view("r", 0, 1)
    regions.register("r", "data", 0, 64)
    assert bytes(other.view("r", 1, 2)) == bytes([1, 2])
    assert other.status() == [Region("r", "data", 0, 64)]
    other.unregister("r")
    with pytest.raises(UnknownRegion):
        regions.view("r", 0, 1)
    (objects / "more").write_bytes(b"m" * 8)
    other.register("r", "more", 0, 8)
    assert bytes(regions.view("r", 0, 2)) == b"mm", "registered anew, elsewhere, under the same name"


@pytest.mark.parametrize("key", ["", "/", ".", "..", "../outside", "/../outside", "a/b", "//data", "x\0y", "n" * 300])
def test_a_key_is_the_name_of_an_object_and_no_path(regions: Regions, key: str) -> None:
    with pytest.raises(InvalidInput, match="one path component"):
        regions.register("r", key, 0, 1)


def test_a_link_does_not_lead_out(regions: Regions, objects: Path, tmp_path: Path) -> None:
    (objects / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput, match="cannot be opened"):
        regions.register("r", "link", 0, 1)
    (objects / "folder").mkdir()
    with pytest.raises(InvalidInput, match="cannot be opened"):
        regions.register("r", "folder", 0, 1)
    os.mkfifo(objects / "pipe")
    with pytest.raises(InvalidInput, match="no shared-memory object"):
        regions.register("r", "pipe", 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (1, 64), (2**63, 1), (0, 2**64 - 1)])
def test_a_region_lies_within_its_object(regions: Regions, offset: int, size: int) -> None:
    with pytest.raises(InvalidInput, match="do not fit 'data', which has 64"):
        regions.register("r", "data", offset, size)
    assert regions.status() == []


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (17, 0), (2**64, 1)])
def test_a_view_lies_within_its_region(regions: Regions, offset: int, size: int) -> None:
    regions.register("r", "data", 8, 16)
    with pytest.raises(InvalidInput, match="reach out of its 16 bytes"):
        regions.view("r", offset, size)
    assert len(regions.view("r", 16, 0)) == 0


def test_an_object_that_has_shrunk_is_not_read(regions: Regions, objects: Path) -> None:
    regions.register("r", "data", 0, 64)
    regions.view("r", 0, 64)
    os.truncate(objects / "data", 10)
    with pytest.raises(InvalidInput, match="do not fit 'data', which has 10"):
        regions.view("r", 0, 64)


def test_names_are_taken_once_and_given_back(regions: Regions) -> None:
    regions.register("r/../x", "data", 0, 1)
    with pytest.raises(AlreadyThere, match="registered already"):
        regions.register("r/../x", "data", 0, 2)
    regions.register("s", "data", 0, 1)
    assert [r.name for r in regions.status()] == ["r/../x", "s"]
    assert regions.status("s") == [Region("s", "data", 0, 1)]
    regions.unregister("nobody")
    regions.unregister()
    assert regions.status() == []
    with pytest.raises(UnknownRegion):
        regions.status("s")
    with pytest.raises(InvalidInput, match="1 to 1024 bytes"):
        regions.register("", "data", 0, 1)
    with pytest.raises(InvalidInput, match="byte_size 0"):
        regions.register("z", "data", 0, 0)


def test_switched_off_it_says_how_it_is_switched_on(objects: Path) -> None:
    off = Regions(objects=objects, enabled=False)
    with pytest.raises(Unsupported, match="server.shared_memory: true"):
        off.register("r", "data", 0, 1)
    with pytest.raises(Unsupported):
        off.view("r", 0, 1)
    assert off.status() == []


def test_a_registry_that_others_can_write_to_is_not_trusted(tmp_path: Path, objects: Path) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="only this user"):
        Regions(folder, objects=objects).register("r", "data", 0, 1)
