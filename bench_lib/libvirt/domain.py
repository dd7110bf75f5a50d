# SPDX-License-Identifier: BSD-3-Clause
"""A guest as libvirt is told of it: the XML of a domain.

See formatdomain in libvirt's documentation. What libvirt has no words for goes to QEMU's command
line as it is; that taints the domain and changes nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from bench_lib import architecture
from bench_lib.guest.qemu import GuestConfig
from bench_lib.libvirt.daemon import SOCKETS
from bench_lib.record import Backing

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

SERIAL, CONTROL, REQUESTS, GDBSTUB = "serial", "control", "requests", "gdbstub"
"""Our lines into a guest: beside libvirt's own monitor, it has two for us."""


def socket_path(line: str) -> Path:
    """The socket of one of these lines, as QEMU sees the file system."""
    return SOCKETS / f"kickbench-{line}"


def xml(config: GuestConfig, name: str, *, gdbstub: bool) -> str:
    """The domain of a guest.

    :param name: of the domain, which a migration does not change.
    :param gdbstub: whether QEMU has a gdbstub, on either side of a migration.
    """
    ours, shape = architecture.for_trials(), config.shape
    firmware, arguments = _firmware(config.workload.arguments(shape))
    domain = Element("domain", {"type": "kvm", "xmlns:qemu": QEMU_NAMESPACE})
    SubElement(domain, "name").text = name
    SubElement(domain, "memory", unit="MiB").text = str(shape.memory_mib)
    SubElement(domain, "vcpu").text = str(shape.vcpus)
    _add_memory(domain, shape.backing)
    system = SubElement(domain, "os")
    SubElement(system, "type", arch=architecture.here().name, machine=ours.machine).text = "hvm"
    SubElement(system, "loader", readonly="yes", type="rom").text = firmware
    _add_cpu(domain, ours.cpu)
    SubElement(domain, "on_reboot").text = "destroy"
    devices = SubElement(domain, "devices")
    # libvirt wants a path.
    SubElement(devices, "emulator").text = shutil.which(config.qemu) or config.qemu
    # No devices but those that are needed, as in `guest.qemu`.
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "memballoon", model="none")
    arguments += _lines(gdbstub=gdbstub)
    passed = SubElement(domain, "qemu:commandline")
    for argument in arguments:
        SubElement(passed, "qemu:arg", value=argument)
    return ElementTree.tostring(domain, encoding="unicode")


def _firmware(arguments: list[str]) -> tuple[str, list[str]]:
    """The firmware among QEMU's arguments, which libvirt has to be told of, and the others."""
    at = arguments.index("-bios")
    return arguments[at + 1], arguments[:at] + arguments[at + 2 :]


def _add_memory(domain: Element, backing: Backing) -> None:
    if backing is Backing.ANONYMOUS:
        return
    memory = SubElement(domain, "memoryBacking")
    if backing is Backing.HUGETLB:
        size = SubElement(SubElement(memory, "hugepages"), "page", unit="MiB")
        size.set("size", str(architecture.for_trials().huge_page_mib))
    SubElement(memory, "source", type="memfd")
    SubElement(memory, "access", mode="shared")


def _add_cpu(domain: Element, described: str) -> None:
    """:param described: as QEMU's -cpu has it: a model, and features that are left out."""
    model, *features = described.split(",")
    cpu = SubElement(domain, "cpu", mode="custom", match="exact", check="none")
    SubElement(cpu, "model", fallback="forbid").text = model
    for feature in features:
        SubElement(cpu, "feature", policy="disable", name=feature.removeprefix("-"))


def _lines(*, gdbstub: bool) -> list[str]:
    """The part of QEMU's command line that makes our sockets."""
    found = []
    for line in (SERIAL, CONTROL, REQUESTS, *((GDBSTUB,) if gdbstub else ())):
        options = f"path={socket_path(line)},server=on,wait=off"
        found += ["-chardev", f"socket,id=kickbench-{line},{options}"]
    for monitor in (CONTROL, REQUESTS):
        found += ["-mon", f"chardev=kickbench-{monitor},mode=control"]
    found += ["-serial", f"chardev:kickbench-{SERIAL}"]
    if gdbstub:
        found += ["-gdb", f"chardev:kickbench-{GDBSTUB}"]
    return found
