# SPDX-License-Identifier: BSD-3-Clause
"""The last lines that QEMU wrote, which are part of the reason of a lost trial."""

from __future__ import annotations

from pathlib import Path

from bench_lib.guest.qemu import last_words


def test_a_qemu_that_wrote_nothing_has_no_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_text("\n \n")
    assert last_words(log) == ""


def test_the_cause_that_qemu_wrote_first_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "qemu: warning: something else\n"
        "qemu: warning: and something more\n"
        "qemu: Unknown combination of migration flags: 0x4\n"
        "\n"
        "qemu: error while loading state section id 2(ram).\n"
        "qemu: load of migration failed: Invalid argument\n"
    )
    assert last_words(log) == (
        ": qemu: warning: and something more; "
        "qemu: Unknown combination of migration flags: 0x4; "
        "qemu: error while loading state section id 2(ram); "
        "qemu: load of migration failed: Invalid argument"
    )


def test_what_libvirtd_wrote_is_not_from_qemu(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "-sandbox on \\\n-msg timestamp=on\n"
        "2026-11-26 05:30:55.097+0000: Domain id=1 is tainted: custom-argv\n"
        "2026-11-26T05:31:08.887136Z qemu-system-x86_64: terminating on signal 15\n"
    )
    assert last_words(log) == (
        ": 2026-11-26T05:31:08.887136Z qemu-system-x86_64: terminating on signal 15"
    )
