# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's NFS server in a network namespace, without the programs that usually control it.

It serves version 4.2 only, which needs neither rpcbind nor mountd. What nfsd(7) and exports(5)
describe is written to the kernel directly: who the client is, and what it may mount.

A new server lets clients only reclaim their old files for at least ten seconds, unless user space
reports that there are no old clients. nfsdcld(8) does that over a pipe. Here a thread does, with
the messages of linux/nfsd/cld.h.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from bench_lib.errors import StorageFailed
from bench_lib.network.link import End
from bench_lib.process import in_network_namespace
from bench_lib.storage import mounts

PORT = 2049
THREADS = 2
"""Threads of the server. One might wait for the answer of `_ClientTracker` while another serves."""

VERSIONS = "-3 +4 -4.1 +4.2"

DOMAIN = "kickbench"
"""The name under which the server knows its only client."""

FLAGS = 0x2 | 0x10 | 0x400 | 0x2000
"""The export's flags, as in linux/nfsd/export.h: the client's port may be any, writing is
asynchronous, files are not looked up in their folders, and the export's id is given."""
NOBODY = 65534
EXPORT_ID = 0
"""The id of the export that a client of version 4 sees as the root."""
ID_IS_A_NUMBER = 1
"""FSID_NUM of fs/nfsd/nfsfh.h."""

LIFETIME_S = 86400
"""How many seconds the kernel remembers what it is told. A trial takes less."""

_HEADER = struct.Struct("=BBhI")
"""The start of struct cld_msg: version, command, status and number. A status of 0 means success."""
_GET_VERSION = 5
_VERSION = 1
"""The version of the messages with which the server asks whether there are old clients."""

POLL_S = 0.01


class _ClientTracker(threading.Thread):
    """Answers the server: there are no old clients, and a new one has been noted."""

    def __init__(self, pipe: Path) -> None:
        super().__init__(name="nfs-clients", daemon=True)
        self._pipe = pipe
        self._ends = threading.Event()

    def end(self) -> None:
        self._ends.set()
        self.join()

    def run(self) -> None:
        # The pipe exists while the server runs, and the server waits a second for its opening.
        while not self._ends.is_set():
            with suppress(FileNotFoundError):
                fd = os.open(self._pipe, os.O_RDWR | os.O_CLOEXEC)
                break
            time.sleep(POLL_S)
        else:
            return
        try:
            self._answer(fd)
        finally:
            os.close(fd)

    def _answer(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not self._ends.is_set():
            for _, events in poll.poll(POLL_S * 1000):
                if not events & select.POLLIN:
                    return
                message = bytearray(os.read(fd, 4096))
                _, command, _, number = _HEADER.unpack_from(message)
                _HEADER.pack_into(message, 0, message[0], command, 0, number)
                if command == _GET_VERSION:
                    message[_HEADER.size] = _VERSION
                os.write(fd, message)


def serve(folder: Path, end: End, client: str, work: Path, stack: ExitStack) -> None:
    """Serve a folder to one client, until the exit stack ends that.

    :param folder: the folder, on a file system of its own.
    :param end: the end of the link at the server.
    :param client: the client's address.
    :param work: a folder for the file systems with which the server is controlled.
    :raise StorageFailed: the kernel refused something.
    :raise ToolFailed: a file system cannot be mounted.
    """
    control, pipes = work / "nfsd", work / "pipes"
    with in_network_namespace(end.fd):
        # What these file systems control depends on the namespace in which they are mounted.
        mounts.mount("rpc_pipefs", "rpc_pipefs", pipes, stack)
        mounts.mount("nfsd", "nfsd", control, stack)
        listening = socket.create_server((end.address, PORT))
        caches = Path("/proc/thread-self/net/rpc")
        until = int(time.time()) + LIFETIME_S
        for name, line in (
            ("auth.unix.ip", f"nfsd {client} {until} {DOMAIN}"),
            ("nfsd.export", f"{DOMAIN} {folder} {until} {FLAGS} {NOBODY} {NOBODY} {EXPORT_ID}"),
            ("nfsd.fh", f"{DOMAIN} {ID_IS_A_NUMBER} \\x00000000 {until} {folder}"),
        ):
            _tell(caches / name / "channel", line)
    tracker = _ClientTracker(pipes / "nfsd" / "cld")
    tracker.start()
    stack.callback(tracker.end)
    with listening:
        _tell(control / "versions", VERSIONS)
        _tell(control / "portlist", str(listening.fileno()))
    stack.callback(mounts.quietly, lambda: _tell(control / "threads", "0"))
    _tell(control / "threads", str(THREADS))


def _tell(path: Path, line: str) -> None:
    """Write a line to the kernel.

    :raise StorageFailed: the kernel refused it.
    """
    try:
        path.write_text(f"{line}\n")
    except OSError as error:
        raise StorageFailed(
            f"The kernel's NFS server refused `{line}` in {path.name}: {error.strerror}."
        ) from None
