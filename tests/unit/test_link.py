# SPDX-License-Identifier: BSD-3-Clause
"""What a link that cannot be made advises, with a fake of ip(8)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench_lib.errors import NamespacesUnavailable
from bench_lib.network import link
from bench_lib.ownership import Run

IN_A_CHROOT = '"mount --make-rslave /" failed: Invalid argument'
FORBIDDEN = "mkdir /run/netns failed: Permission denied"


@pytest.mark.parametrize(
    ("error", "uid", "advice"),
    [
        (IN_A_CHROOT, 0, "In a chroot, `/` has to be a mount point"),
        (FORBIDDEN, 1000, "Run kickbench as root."),
        (FORBIDDEN, 0, "The kernel needs network namespaces and veth"),
    ],
)
def test_a_link_that_cannot_be_made_has_advice_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, uid: int, advice: str
) -> None:
    (tmp_path / "ip").write_text(f"#!/bin/sh\necho '{error}' >&2\nexit 1\n")
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    run = Run("ffffffffffff", tmp_path)
    with pytest.raises(NamespacesUnavailable) as refused, link.joined(run, 0):
        pass
    assert f"failed (1): {error}. {advice}" in str(refused.value)
