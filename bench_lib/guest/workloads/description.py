# SPDX-License-Identifier: BSD-3-Clause
"""The list of workloads, without the code that runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench_lib import architecture
from bench_lib.errors import BadShape, ImageError
from bench_lib.record import Backing, Shape

HUGE_MIB = 2
"""The size of a huge page, in MiB."""

CPU = re.compile(r"(?!help(,|$))[A-Za-z0-9][\w.-]*(,[+-]?[A-Za-z][\w.-]*(=[\w.:-]+)?)*", re.ASCII)
"""A pattern for the CPUs of shapes, as QEMU's -cpu takes them: a model, and features after it. With
`help` for a model, QEMU lists its models and ends."""


@dataclass(frozen=True)
class ShapeLimits:
    """The shapes that a workload's guest may have.

    :ivar vcpus: the largest number of vCPUs.
    :ivar memory_mib: the possible sizes of memory, in MiB.
    :ivar usual_memory_mib: the size of memory of a guest for which none is given, in MiB.
    :ivar cpu: the CPU model of a guest for which none is given, as QEMU's -cpu takes it; None for
        that of `architecture.Trials`.
    :ivar works: what the guest can do (`--work`), first what it does if nothing is given; empty if
        there is no choice.
    """

    vcpus: int
    memory_mib: range
    usual_memory_mib: int = 16
    cpu: str | None = None
    works: tuple[str, ...] = ()

    @property
    def cpu_model(self) -> str:
        """The CPU model of a guest for which none is given.

        :raise UnknownArchitecture: kickbench has no guests for this machine's architecture.
        """
        return self.cpu or architecture.for_trials().cpu

    def check(self, shape: Shape) -> None:
        """Check that a guest may have this shape.

        :raise BadShape: it may not; the message has the limit.
        """
        if not 1 <= shape.vcpus <= self.vcpus:
            raise BadShape(f"A guest can have 1 to {self.vcpus} vCPUs, not {shape.vcpus}.")
        if shape.memory_mib not in self.memory_mib:
            raise BadShape(
                f"A guest can have {self.memory_mib.start} to {self.memory_mib[-1]} MiB of memory, "
                f"an even number, not {shape.memory_mib}."
            )
        if shape.cpu is not None and not CPU.fullmatch(shape.cpu):
            raise BadShape(
                "A guest's CPU is a model of QEMU and features, such as "
                f"host,kvm-steal-time=off; {shape.cpu!r} is not."
            )
        if shape.work is None and self.works:
            raise BadShape(f"The image {shape.image} needs a work: {', '.join(self.works)}.")
        if shape.work is not None and not self.works:
            raise BadShape(f"The image {shape.image} takes no --work.")
        if shape.work is not None and shape.work not in self.works:
            raise BadShape(
                f"The works of the image {shape.image} are {', '.join(self.works)}; "
                f"{shape.work!r} is not one of them."
            )


FIRMWARE = ShapeLimits(
    # QEMU's machine type `pc` has at most 255 vCPUs. A mark, which is one byte, has their numbers.
    vcpus=255,
    # The image's page tables map huge pages, and have room for 256 GiB.
    memory_mib=range(4, (256 << 10) + 1, HUGE_MIB),
)

# An unpaged guest cannot leave out the hole for devices, which may start at 3 GiB.
UNPAGED = ShapeLimits(vcpus=FIRMWARE.vcpus, memory_mib=range(4, (3 << 10) + 1, HUGE_MIB))

LINUX = "linux"
"""The name of the workload that is a Linux guest."""

WORKLOADS: dict[str, ShapeLimits] = {
    "gup": FIRMWARE,
    "async-pf": FIRMWARE,
    "uaccess": UNPAGED,
    "pv-steal-time": FIRMWARE,
    "pv-kvmclock": FIRMWARE,
    LINUX: ShapeLimits(
        vcpus=255,
        # Less is not enough for the guest's kernel.
        memory_mib=range(128, (1 << 20) + 1, HUGE_MIB),
        usual_memory_mib=128,
        # The features that KVM offers are what makes a Linux guest share pages with it.
        cpu="host",
        works=("memory", "idle", "busy"),
    ),
}
"""The limits of each workload, by its name in `--image` and in records."""


def find(image: str) -> ShapeLimits:
    """Return the limits of a workload.

    :raise ImageError: there is no such workload.
    """
    try:
        return WORKLOADS[image]
    except KeyError:
        raise ImageError(
            f"There is no guest image {image!r}; the images are {', '.join(WORKLOADS)}."
        ) from None


def cpu_model(shape: Shape) -> str:
    """Return the CPU of a guest, as QEMU's -cpu takes it."""
    return shape.cpu or find(shape.image).cpu_model


def shape_of(
    image: str,
    *,
    vcpus: int = 1,
    memory_mib: int | None = None,
    backing: Backing = Backing.ANONYMOUS,
    preempt: bool = False,
    cpu: str | None = None,
    work: str | None = None,
) -> Shape:
    """Return a shape that has the workload's own values where a parameter is None.

    The workload's own CPU model becomes None, so that shapes of equal guests are equal.

    :raise ImageError: there is no such workload.
    """
    limits = find(image)
    return Shape(
        vcpus=vcpus,
        memory_mib=limits.usual_memory_mib if memory_mib is None else memory_mib,
        backing=backing,
        preempt=preempt,
        image=image,
        cpu=None if cpu is None or cpu == limits.cpu_model else cpu,
        work=next(iter(limits.works), None) if work is None else work,
    )
