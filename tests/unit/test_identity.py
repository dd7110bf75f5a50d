# SPDX-License-Identifier: BSD-3-Clause
from pathlib import Path

import pytest

from bench_lib.errors import HostError
from bench_lib.host import identity

ID = "0123456789abcdef0123456789abcdef"

HASHED = "e576c0746df946faa57aeef173c681ee"
"""What systemd-id128 of systemd 252 printed for ID and the application id of kickbench."""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The paths of the two files, neither of which exists."""
    paths = tmp_path / "machine-id", tmp_path / "product_uuid"
    monkeypatch.setattr(identity, "MACHINE_ID", paths[0])
    monkeypatch.setattr(identity, "PRODUCT_UUID", paths[1])
    return paths


def test_a_machine_id_is_hashed_as_systemd_hashes_it(files: tuple[Path, Path]) -> None:
    files[0].write_text(f"{ID}\n")
    assert identity.machine_id() == HASHED


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32])
def test_the_uuid_of_the_firmware_takes_the_place_of_a_machine_id_that_is_not_set(
    files: tuple[Path, Path], text: str
) -> None:
    files[0].write_text(text)
    files[1].write_text("01234567-89AB-CDEF-0123-456789ABCDEF\n")
    assert identity.machine_id() == HASHED


def test_a_uuid_that_many_machines_have_is_not_an_id(files: tuple[Path, Path]) -> None:
    files[1].write_text("03000200-0400-0500-0006-000700080009\n")
    with pytest.raises(HostError, match="run `systemd-machine-id-setup`"):
        identity.machine_id()
    assert identity.machine_id_if_known() is None
