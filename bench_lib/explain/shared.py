# SPDX-License-Identifier: BSD-3-Clause
"""Find out which feature of KVM needs the page that a vCPU waits for.

A guest shares pages with KVM for paravirtual features. KVM itself reads and writes them, mostly at
an entry into the guest, and waits there in a way that no signal but SIGKILL ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench_lib import architecture
from bench_lib.architecture import Architecture
from bench_lib.explain.vmm import Seen
from bench_lib.record import Entry, Role
from bench_lib.threads import functions

_COPIES = re.compile(r"^_*(kvm_(read|write)_guest|copy_|rep_movs|get_user|put_user|mc_copy)")
"""Functions that copy from or to a page, for any purpose."""


@dataclass(frozen=True)
class Shared:
    """The page that KVM touched.

    :ivar sentence: what KVM does with the page, as the beginning of a sentence.
    :ivar feature: the feature of QEMU's -cpu that shares the page; None if the stack does not show
        it.
    :ivar features: all features that share pages.
    """

    sentence: str
    feature: str | None
    features: tuple[str, ...]

    @property
    def avoid(self) -> str:
        """How to start guests that cannot get stuck there."""
        if self.feature is None:
            return f"Start guests with -cpu MODEL,{','.join(map(_off, self.features))}."
        others = ", ".join(_off(name) for name in self.features if name != self.feature)
        return (
            f"Start guests with -cpu MODEL,{_off(self.feature)}. They may then get stuck in the "
            f"next page that they share with KVM; {others} remove the others."
        )


def _off(feature: str) -> str:
    """Switch off a feature in QEMU's -cpu.

    Linux guests look only at kvm-asyncpf-int, and QEMU migrates the state of both with kvm-asyncpf.
    """
    both = ",kvm-asyncpf-int=off" if feature == "kvm-asyncpf" else ""
    return f"{feature}=off{both}"


def find(thread: Seen, machine: Architecture | None = None) -> Shared | None:
    """Return the shared page that a vCPU thread waits for; None if it waits for something else.

    :param machine: the architecture of the stack; by default that of this machine.
    """
    machine = machine or architecture.here()
    if thread.role is not Role.VCPU or thread.entry not in {Entry.UACCESS, Entry.GPC}:
        return None
    frames = functions(thread.frames)
    features = tuple(each.feature for each in machine.shared_pages)
    for page in machine.shared_pages:
        known = page.functions | (page.mapped_by if thread.entry is Entry.GPC else frozenset())
        if function := next((name for name in frames if name in known), None):
            return Shared(f"{page.use} ({function})", page.feature, features)
    if features and thread.entry is Entry.UACCESS and _hides_the_function(frames, machine):
        return Shared(
            "KVM itself touched a page that the guest shares with it, most likely for steal time "
            "(the kernel's compiler left the function out of the stack)",
            None,
            features,
        )
    return None


def _hides_the_function(frames: list[str], machine: Architecture) -> bool:
    """Whether the stack has no function of KVM between the fault and those that run the guest."""
    fault = max(number for number, name in enumerate(frames) if name in machine.fault_frames)
    outer = (name for name in frames[fault + 1 :] if not _COPIES.match(name))
    return next(outer, None) in machine.run_frames
