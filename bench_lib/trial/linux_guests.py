# SPDX-License-Identifier: BSD-3-Clause
"""Preparing Linux guests: each one is booted once, and trials start from its saved state.

To boot a guest takes longer than a trial. The states are kept in the cache, and used again under
the same kernel, with the same QEMU.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, GuestNotBooted, TrialLost
from bench_lib.guest import state
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.guest.workloads import description, linux
from bench_lib.guest.workloads.linux import Linux
from bench_lib.host import identity, setup
from bench_lib.kernel import guest as guest_kernel
from bench_lib.kernel.store import Bootable
from bench_lib.migration import QemuManager
from bench_lib.ownership import Run
from bench_lib.record import Shape
from bench_lib.settings import Settings
from bench_lib.trial.case import staging_s
from bench_lib.units import NS_PER_S

_log = logging.getLogger(__name__)

CACHE = "guests"
"""The folder of states in the cache."""

KEEP = 24
"""How many states are kept. The state of a guest of 128 MiB takes 70 MiB."""

BOOT_LIMIT = 4
"""How much longer the boot of a guest may take than the staging of a trial."""

LOOK_S = 0.25
"""Seconds between two queries of whether the guest still runs."""

LINES = 3
"""How many lines of the guest's console an error has."""

TIME = re.compile(r"^\[ *\d+\.\d+\] ")
"""The time before a line that the guest's kernel prints."""

OURS, PANIC = "kickbench: ", "Kernel panic"
"""How the lines begin that explain why a guest ended: its program's, and its kernel's."""

ADVICE = "If KVM on this host cannot run Linux, a lab can: use --kernel."


@dataclass(frozen=True)
class Maker:
    """What all Linux guests of a run have in common.

    :ivar advice: the last sentence of the error about a guest that did not boot.
    """

    run: Run
    settings: Settings
    qemu: str
    program: bytes
    kernel: Bootable
    advice: str = ""

    def bare(self) -> Linux:
        """Prepare a guest that boots in every trial.

        :raise GuestNotBooted: its initramfs cannot be written.
        """
        try:
            return Linux(self.program, self.kernel, self.run.folder)
        except OSError as error:
            raise self._not_written("initramfs", error) from None

    async def with_state(self, shape: Shape) -> Linux:
        """Prepare a guest that starts from its saved state. If there is none, boot it and save it.

        :raise GuestNotBooted: the guest does not boot, or its state cannot be saved or copied.
        """
        workload = self.bare()
        of = self._of(workload, shape)
        path = self.settings.cache / CACHE / name(shape, of)
        saved = state.load(path, of)
        if saved is None:
            saved = await self._saved(workload, shape, path, of)
        # The cache may be on a slow file system, and another run may replace the state.
        copy = self.run.folder / path.name
        try:
            shutil.copyfile(state.data(path), copy)
        except OSError as error:
            raise self._not_written("state", error) from None
        workload.state, workload.boot_ns = copy, saved.boot_ns
        return workload

    def _not_written(self, what: str, error: OSError) -> GuestNotBooted:
        return GuestNotBooted(
            f"The {what} of the Linux guest cannot be copied to {self.run.folder} "
            f"({error.strerror}); free some space there, or set KICKBENCH_RUNTIME to another "
            "folder."
        )

    def _of(self, workload: Linux, shape: Shape) -> dict[str, str]:
        """Describe a guest and the machine, as far as a state depends on them."""
        kernel = identity.booted()
        arguments = [Path(each).name for each in workload.arguments(shape)]
        return {
            "kernel": f"{kernel.release} {kernel.version}",
            "host": "native" if self.settings.lab is None else self.settings.lab[0],
            "processor": str(setup.of_this_machine().cpu),
            "kvm": str(setup.kvm_module()),
            "qemu": self.qemu,
            "guest kernel": self.kernel.build.id,
            "program": workload.sha256,
            "arguments": " ".join(arguments),
            "cpu": description.cpu_model(shape),
            "vcpus": str(shape.vcpus),
            "memory_mib": str(shape.memory_mib),
            # QEMU gives the memory another name.
            "backing": str(shape.backing),
        }

    async def _saved(
        self, workload: Linux, shape: Shape, path: Path, of: dict[str, str]
    ) -> state.State:
        limit_s = staging_s(shape, self.settings)
        async with AsyncExitStack() as stack:
            guest, boot_ns = await self.boot(workload, shape, BOOT_LIMIT * limit_s, stack)
            _log.info("The Linux guest booted in %.1f s.", boot_ns / NS_PER_S)
            address = self.run.folder / "state.socket"
            try:
                saving = Deadline.after(limit_s)
                saved = await state.save(guest, path, of, boot_ns, address, saving)
            except TrialLost as error:
                raise GuestNotBooted(
                    f"The state of the Linux guest cannot be saved: {error}"
                ) from None
        prune(self.settings.cache)
        return saved

    async def try_boot(self, shape: Shape, limit_s: float) -> float:
        """Boot a guest and end it, and return how many seconds the boot took.

        :raise GuestNotBooted: the guest does not boot.
        """
        async with AsyncExitStack() as stack:
            _, boot_ns = await self.boot(self.bare(), shape, limit_s, stack)
        return boot_ns / NS_PER_S

    async def boot(
        self, workload: Linux, shape: Shape, limit_s: float, stack: AsyncExitStack
    ) -> tuple[Guest, int]:
        """Boot a guest, and return it and how many nanoseconds that took.

        :param limit_s: how many seconds it may take.
        :param stack: the exit stack that ends the guest.
        :raise GuestNotBooted: the guest does not boot.
        """
        deadline = Deadline.after(limit_s)
        config = GuestConfig(self.run.name(0, "linux"), self.settings.qemu, workload, shape)
        started_ns = time.monotonic_ns()
        guest = None
        try:
            guest = await QemuManager(self.run).start(config, deadline, stack)
            await guest.during(_up(guest, deadline))
        except TrialLost as error:
            why = str(error).rstrip(".")
            if isinstance(error, DeadlinePassed):
                why = f"it was not up after {limit_s:g} s"
            text = ""
            if guest is not None:
                await guest.serial.look()
                text = guest.serial.text
            told = [
                f"The Linux guest with kernel {self.kernel.build.release} did not boot: "
                f"{'its kernel panicked' if PANIC in text else why}.",
                *([console(text)] if guest is not None else []),
            ]
            if self.advice:
                told.append(self.advice)
            raise GuestNotBooted(" ".join(told)) from None
        return guest, time.monotonic_ns() - started_ns


def console(text: str) -> str:
    """Return a sentence about what a guest printed on its console.

    It has what the guest's program printed and the reason of a panic, or else the last lines.
    """
    lines = [TIME.sub("", line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        return "It printed nothing on its console."
    reasons = [line for line in lines if line.startswith((OURS, PANIC))]
    return f"Its console printed: {'; '.join(reasons or lines[-LINES:])}."


def name(shape: Shape, of: dict[str, str]) -> str:
    """Return the name of a state's files in the cache, without a suffix."""
    digest = hashlib.sha256(msgspec.json.encode(of, order="sorted")).hexdigest()[:12]
    return f"{_prefix(of['kernel'].partition(' ')[0], shape)}{digest}"


def pattern(release: str, shape: Shape) -> str:
    """Return a glob pattern of the states of such guests under a kernel, relative to the cache."""
    return f"{CACHE}/{_prefix(release, shape)}*"


def prune(cache: Path) -> None:
    """Delete old states in the cache, and files that a killed run has left there."""
    state.prune(cache / CACHE, KEEP)


def delete_unfinished(cache: Path) -> None:
    """Delete the files that killed runs have left in the cache."""
    state.delete_unfinished(cache / CACHE)


def _prefix(release: str, shape: Shape) -> str:
    cpu = hashlib.sha256(description.cpu_model(shape).encode()).hexdigest()[:6]
    return f"{release}-linux-{shape.work}-{shape.vcpus}x{shape.memory_mib}-{cpu}-"


async def prepared(
    run: Run,
    settings: Settings,
    qemu: str,
    shapes: Collection[Shape],
    restored: Collection[Shape],
) -> dict[Shape, Linux]:
    """Prepare the Linux guests of these shapes.

    KVM on some hosts cannot run Linux. So if none of the guests starts from a saved state, boot one
    of them, unless in a lab.

    :param qemu: QEMU's version.
    :param restored: the shapes of guests that trials start from a saved state.
    :raise GuestKernelMissing: the cache does not have the guests' kernel.
    :raise GuestNotBooted: a guest does not boot, or its state cannot be saved.
    """
    if not shapes:
        return {}
    kernel = guest_kernel.find(settings)
    native = settings.lab is None
    program = linux.load(settings.images)
    maker = Maker(run, settings, qemu, program, kernel, ADVICE if native else "")
    if native and not restored:
        shape = next(iter(shapes))
        await maker.try_boot(shape, staging_s(shape, settings))
    return {
        shape: await maker.with_state(shape) if shape in restored else maker.bare()
        for shape in shapes
    }


async def try_boot(run: Run, settings: Settings, limit_s: float) -> float:
    """Boot the usual Linux guest once, and return how many seconds that took.

    :param limit_s: how many seconds it may take.
    :raise GuestKernelMissing: the cache does not have the guest's kernel.
    :raise GuestNotBooted: the guest does not boot.
    """
    maker = Maker(run, settings, "", linux.load(settings.images), guest_kernel.find(settings))
    return await maker.try_boot(description.shape_of(description.LINUX), limit_s)


async def _up(guest: Guest, deadline: Deadline) -> None:
    """Wait until the guest's program runs.

    :raise TrialLost: QEMU stopped the guest, as it does if KVM cannot run it.
    :raise DeadlinePassed: the guest was not up in time.
    """
    ready = asyncio.ensure_future(guest.watch.ready(deadline))
    try:
        while not ready.done():
            await asyncio.wait({ready}, timeout=LOOK_S)
            status = await guest.control.execute("query-status", deadline=deadline)
            if status["status"] != "running":
                raise TrialLost(f"QEMU stopped it, with status {status['status']}")
        await ready
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)
