# SPDX-License-Identifier: BSD-3-Clause
"""A file on NFS whose server cannot be reached any more.

The server is this kernel's own, in a network namespace behind a link that can be cut. It keeps the
file in a tmpfs. The guest's memory is a shared mapping of the file, so that what the guest has
written is on the server when the memory has been pushed out, and is read from there afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from bench_lib.deadline import Deadline
from bench_lib.errors import StorageFailed
from bench_lib.host.needs import NFS_MODULES
from bench_lib.network import link, outage, tcp
from bench_lib.network.outage import Mechanism
from bench_lib.ownership import Run
from bench_lib.process import in_network_namespace, run_tool
from bench_lib.storage import mounts, nfs_server, pageout
from bench_lib.storage.pageout import GuestFile
from bench_lib.storage.store import Store

FILE = "memory"

WRITE_SOON = {"dirty_expire_centisecs": 1, "dirty_writeback_centisecs": 10}
"""Sysctls that decide when the kernel writes a page, and their values in hundredths of a second: a
page may wait for 10 ms instead of 30 s, and the kernel looks for such pages ten times a second."""


class Options(StrEnum):
    """The options that decide what the client does while the server cannot be reached."""

    HARD = "hard,timeo=50,retrans=2"
    """It repeats its requests for ever."""
    SOFT = "soft,timeo=10,retrans=1"
    """It gives up after two seconds without a connection: a timeout of one second, and one
    repetition. A page fault tries twice, first reading ahead, then its page alone. While the
    connection lasts, the client does not give up (rpc_check_timeout() of net/sunrpc/clnt.c)."""


class NfsStore(Store):
    """A file on NFS, and the link to its server."""

    def __init__(
        self,
        run: Run,
        seq: int,
        size_mib: int,
        first: int,
        options: Options,
        mechanism: Mechanism,
        stack: AsyncExitStack,
    ) -> None:
        """Start the server, and mount its file system.

        :param seq: the number of the trial.
        :param size_mib: the size of the file.
        :param first: where in the file the part begins that is pushed out; see `GuestFile`.
        :param mechanism: how the link is cut.
        :param stack: the exit stack that unmounts the file system and ends the server.
        :raise StorageFailed: the kernel refused something.
        :raise ToolFailed: a module cannot be loaded, or a file system cannot be mounted.
        """
        self._run = run
        size = size_mib << 20
        self._how = mechanism
        self._options = options
        self.mechanism = mechanism.name
        self._is_cut = False
        run_tool(["modprobe", "--all", *NFS_MODULES])
        undo = stack.enter_context(ExitStack())
        self._link = undo.enter_context(link.joined(run, seq))
        client, server = self._link.ends
        work = run.folder / run.name(seq, "store")
        served, mounted = work / "served", work / "mounted"
        mounts.mount("tmpfs", "kickbench", served, undo, f"size={size_mib + 1}m")
        with (served / FILE).open("wb") as file:
            file.truncate(size)
        nfs_server.serve(served, server, client.address, work, undo)
        addresses = f"addr={server.address},clientaddr={client.address}"
        with in_network_namespace(client.fd):
            mounts.mount(
                "nfs4",
                f"{server.address}:/",
                mounted,
                undo,
                f"vers=4.2,proto=tcp,{addresses},{options}",
            )
        self.memory_file = str(mounted / FILE)
        self._file = GuestFile(self.memory_file, self.memory_file, size, first)
        self.description = f"file on NFS 4.2, mounted {options}"

    async def stall(self, pid: int, deadline: Deadline) -> None:
        async with pageout.stopped(pid, deadline) as guest:
            await guest.push_out_file(self._run, self._file, deadline)
            self._cut()
            if self._options is Options.SOFT:
                # Otherwise TCP would keep the connection for 15 minutes.
                tcp.reset(self._link, nfs_server.PORT)

    def _cut(self) -> None:
        self._is_cut = True
        outage.cut(self._link.ends, self._how)

    def release(self) -> None:
        if self._is_cut:
            outage.restore(self._link.ends, self._how)
            self._is_cut = False


class NfsWritebackStore(NfsStore):
    """The same, but the guest's memory stays in memory when the link is cut.

    The guest cannot write to a page that the kernel is writing to the server.
    """

    _usual: Mapping[str, str] = MappingProxyType({})

    async def stall(self, pid: int, deadline: Deadline) -> None:
        self._usual = {name: _sysctl(name).read_text() for name in WRITE_SOON}
        self._cut()
        for name, hundredths in WRITE_SOON.items():
            _set(name, str(hundredths))

    def release(self) -> None:
        super().release()
        for name, text in self._usual.items():
            _set(name, text)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys/vm", name)


def _set(name: str, text: str) -> None:
    """Set a sysctl of the kernel's memory management.

    :raise StorageFailed: the kernel refused it.
    """
    try:
        _sysctl(name).write_text(text)
    except OSError as error:
        raise StorageFailed(f"vm.{name} cannot be set: {error.strerror}.") from None
