# SPDX-License-Identifier: BSD-3-Clause
"""Identify the running kernel, its boot, and the machine."""

from __future__ import annotations

import hmac
import os
import platform
import uuid
from pathlib import Path

from bench_lib.errors import HostError
from bench_lib.record import Host, Kernel

MACHINE_ID = Path("/etc/machine-id")
"""The id of the installed system; see machine-id(5)."""

PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
"""The UUID in the machine's firmware, which only root may read."""

SHARED = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
    }
)
"""UUIDs that many machines have: SMBIOS's two values for a UUID that is not set, and one that
vendors forget to replace."""

APPLICATION = uuid.UUID("11696a28cde843e5ae470534ab29131a")
"""The id of kickbench as an application that asks for a machine's id; see `machine_id`."""


def booted() -> Kernel:
    """The running kernel."""
    uname = os.uname()
    return Kernel(uname.release, uname.version)


def boot_id() -> str:
    """The id of this boot; see random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def machine_id() -> str:
    """The id of this machine, 32 hexadecimal digits. Two machines of one name have different ids.

    The id in /etc/machine-id must not be shown to others, so machine-id(5) asks applications to
    hash it with an id of their own. This does what sd_id128_get_machine_app_specific(3) does, and
    `systemd-id128 machine-id --app-specific` prints the same. Without that file, the id is the hash
    of the UUID in the firmware.

    :raise HostError: the machine has neither.
    """
    key = _uuid(MACHINE_ID) or _uuid(PRODUCT_UUID)
    if key is None:
        raise HostError(
            f"This machine has no id, because {MACHINE_ID} has none and {PRODUCT_UUID} cannot be "
            "read; run `systemd-machine-id-setup`."
        )
    return uuid.UUID(bytes=hmac.digest(key.bytes, APPLICATION.bytes, "sha256")[:16], version=4).hex


def machine_id_if_known() -> str | None:
    """The id of this machine; None if it has none."""
    try:
        return machine_id()
    except HostError:
        return None


def _uuid(path: Path) -> uuid.UUID | None:
    """The UUID in a file, or None if the file cannot be read or has none of this machine's own."""
    try:
        found = uuid.UUID(path.read_text().strip())
    except (OSError, ValueError):  # /etc/machine-id may be "uninitialized"
        return None
    return None if str(found) in SHARED else found


def this_host(lab: tuple[str, str] | None) -> Host:
    """The host that this process stores in its records.

    :param lab: the lab's accelerator and the name of the machine that runs the lab; None outside of
        a lab.
    """
    if lab is not None:
        accelerator, machine = lab
        return Host("lab", accelerator, machine)
    return Host("native", "kvm", platform.node())
