# SPDX-License-Identifier: BSD-3-Clause
"""The XML of a domain, by which libvirt defines a guest.

The format is described in formatdomain of libvirt's documentation. Arguments that it cannot express
are passed to QEMU unchanged, which taints the domain and has no other effect.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from bench_lib import architecture
from bench_lib.guest.qemu import GuestConfig
from bench_lib.guest.workloads import description
from bench_lib.libvirt.daemon import SOCKETS
from bench_lib.record import Backing

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

MARKS, TEXT = "marks", "text"
CONTROL, REQUESTS, GDBSTUB = "control", "requests", "gdbstub"
"""The lines between kickbench and a guest. libvirt's own monitor is another one."""


def socket_path(line: str) -> Path:
    """Return the path of the socket of a line, in the mount namespace of QEMU."""
    return SOCKETS / f"kickbench-{line}"


def xml(config: GuestConfig, name: str, *, gdbstub: bool) -> str:
    """Return the XML of a guest's domain.

    :param name: the name of the domain, which is the same on both sides of a migration.
    :param gdbstub: whether QEMU gets a gdbstub.
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
    # Leave out the devices that libvirt adds by default. `guest.qemu` has none either.
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "memballoon", model="none")
    arguments += _lines(gdbstub=gdbstub)
    # libvirt has no names for most features that KVM adds, such as kvm-steal-time. It passes these
    # arguments after its own, and QEMU takes the last -cpu.
    if (cpu := description.cpu_model(shape)) != ours.cpu:
        arguments += ["-cpu", cpu]
    passed = SubElement(domain, "qemu:commandline")
    for argument in arguments:
        SubElement(passed, "qemu:arg", value=argument)
    return ElementTree.tostring(domain, encoding="unicode")


def _firmware(arguments: list[str]) -> tuple[str, list[str]]:
    """Split QEMU's arguments into the firmware, which has an XML element, and the others."""
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
    """Return the arguments of QEMU that make the sockets of the lines."""
    found = []
    for line in (MARKS, TEXT, CONTROL, REQUESTS, *((GDBSTUB,) if gdbstub else ())):
        options = f"path={socket_path(line)},server=on,wait=off"
        found += ["-chardev", f"socket,id=kickbench-{line},{options}"]
    for monitor in (CONTROL, REQUESTS):
        found += ["-mon", f"chardev=kickbench-{monitor},mode=control"]
    # In the order of the guest's serial ports.
    for serial in (MARKS, TEXT):
        found += ["-serial", f"chardev:kickbench-{serial}"]
    if gdbstub:
        found += ["-gdb", f"chardev:kickbench-{GDBSTUB}"]
    return found
