# SPDX-License-Identifier: BSD-3-Clause
import shutil
import subprocess
from pathlib import Path

import pytest

from bench_lib.errors import ImageError
from bench_lib.guest import image
from tests.conftest import CHECKOUT

FOLDER = CHECKOUT / "guest-images"


@pytest.mark.parametrize("name", image.manifest(FOLDER))
def test_every_committed_image_is_what_its_source_builds(name: str, tmp_path: Path) -> None:
    built = tmp_path / image.manifest(FOLDER)[name].file
    make = ["make", "-s", "-C", str(FOLDER), f"OUT={tmp_path}", str(built)]
    subprocess.run(make, check=True, capture_output=True)
    assert built.read_bytes() == image.load(FOLDER, name).path.read_bytes()


def test_the_guest_gets_its_span_and_vcpus_through_loader_devices() -> None:
    loaded = image.load(FOLDER, "gup")
    assert loaded.pages(64) == 15872
    arguments = loaded.qemu_arguments(64, 3)
    assert "loader,addr=0x7000,data=15872,data-len=4" in arguments
    assert "loader,addr=0x7008,data=3,data-len=4" in arguments
    assert "loader,addr=0x7010,data=16384,data-len=4" in arguments


@pytest.mark.parametrize(
    ("memory_mib", "low_pages"), [(3582, 0xDFE00), (3584, 0xC0000), (128 << 10, 0xC0000)]
)
def test_the_guest_gets_the_place_of_the_hole_in_its_memory(
    memory_mib: int, low_pages: int
) -> None:
    arguments = image.load(FOLDER, "gup").qemu_arguments(memory_mib, 1)
    assert f"loader,addr=0x7010,data={low_pages},data-len=4" in arguments


def test_an_image_that_was_changed_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "images")
    with (tmp_path / "images" / "gup.bin").open("r+b") as file:
        file.write(b"\x90")
    with pytest.raises(ImageError, match="not the one in the manifest"):
        image.load(tmp_path / "images", "gup")


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImageError, match="the images are gup"):
        image.load(FOLDER, "nothing")


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="manifest"):
        image.load(tmp_path, "gup")
