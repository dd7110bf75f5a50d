# SPDX-License-Identifier: BSD-3-Clause
"""The list of workloads, without the code that runs them."""

from __future__ import annotations

from dataclasses import dataclass

from bench_lib.errors import BadShape
from bench_lib.record import Shape

HUGE_MIB = 2
"""The size of a huge page, in MiB."""


@dataclass(frozen=True)
class ShapeLimits:
    """The shapes that a workload's guest may have.

    :ivar vcpus: the largest number of vCPUs.
    :ivar memory_mib: the possible sizes of memory, in MiB.
    """

    vcpus: int
    memory_mib: range

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


FIRMWARE = ShapeLimits(
    # Each vCPU marks the serial line with its own letter.
    vcpus=26,
    # The image's page tables map huge pages, and end below the PCI hole.
    memory_mib=range(4, 3073, HUGE_MIB),
)

WORKLOADS: dict[str, ShapeLimits] = {
    "gup": FIRMWARE,
    "async-pf": FIRMWARE,
    "uaccess": FIRMWARE,
    "pv-steal-time": FIRMWARE,
    "pv-kvmclock": FIRMWARE,
}
"""The limits of each workload, by its name in `--image` and in records."""
