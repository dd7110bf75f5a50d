# SPDX-License-Identifier: BSD-3-Clause
"""The workloads that there are, without what runs them."""

from __future__ import annotations

from dataclasses import dataclass

from bench_lib.errors import BadShape
from bench_lib.record import Shape

HUGE_MIB = 2
"""MiB of a huge page."""


@dataclass(frozen=True)
class ShapeLimits:
    """The guests that a workload can be.

    :ivar vcpus: the most vCPUs that it can have.
    :ivar memory_mib: the memory that it can have, in MiB.
    """

    vcpus: int
    memory_mib: range

    def check(self, shape: Shape) -> None:
        """Refuse a guest that the workload cannot be.

        :raise BadShape: the sentence says what it can be.
        """
        if not 1 <= shape.vcpus <= self.vcpus:
            raise BadShape(f"A guest has 1 to {self.vcpus} vCPUs, not {shape.vcpus}.")
        if shape.memory_mib not in self.memory_mib:
            raise BadShape(
                f"A guest has {self.memory_mib.start} to {self.memory_mib[-1]} MiB of memory, an "
                f"even number, not {shape.memory_mib}."
            )


FIRMWARE = ShapeLimits(
    # As many as there are letters, which the vCPUs' marks on the serial line are.
    vcpus=26,
    # Its page tables map huge pages below the hole for devices.
    memory_mib=range(4, 3073, HUGE_MIB),
)

WORKLOADS: dict[str, ShapeLimits] = {
    "gup": FIRMWARE,
    "async-pf": FIRMWARE,
    "uaccess": FIRMWARE,
    "pv-steal-time": FIRMWARE,
    "pv-kvmclock": FIRMWARE,
}
"""By the name that `--image` and records have for them."""
