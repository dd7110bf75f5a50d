# SPDX-License-Identifier: BSD-3-Clause
"""A file system on /dev/fuse with one file, `memory`, whose server can be told not to answer.

    python fuse_server.py FOLDER SIZE

After a line `hold` on stdin the server keeps all requests to open, read or write the file. After
`answer` it answers them and all later ones. `kept` waits until a request is kept, whose sender not
even SIGKILL ends from then on. The server repeats each word on stdout once it is done. At the end
of stdin it answers the requests that it keeps, unmounts the file system and ends.
"""

from __future__ import annotations

import ctypes
import os
import select
import stat
import struct
import sys
from collections.abc import Callable

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE = 1, 2, 3, 4, 14, 15, 16
RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR, BATCH_FORGET = 18, 25, 26, 27, 29, 42
"""Requests; see linux/fuse.h."""

ENOENT, ENOSYS = 2, 38
ASYNC_READ = 1
ROOT, FILE = 1, 2
MNT_DETACH = 2
REQUEST = struct.Struct("<IIQQIIII")
ANSWER = struct.Struct("<IiQ")
WHERE = struct.Struct("<QQI")
OPENED = struct.pack("<QII", 0, 0, 0)
FOR_EVER_S = 3600

libc = ctypes.CDLL(None, use_errno=True)


class Server:
    """The file system.

    :ivar kept: the requests that wait for an answer; None while the server answers.
    :ivar asked: whether to print `kept` once there is one.
    """

    def __init__(self, folder: str, size: int) -> None:
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"kickbench-test", folder.encode(), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        self._data = bytearray(size)
        self.kept: list[tuple[Callable[[int, bytes], None], int, bytes]] | None = None
        self.asked = False

    def serve(self) -> None:
        """Answer one request, or keep it."""
        request = os.read(self.fd, 1 << 20)
        length, kind, unique, node, *_ = REQUEST.unpack_from(request)
        body = request[REQUEST.size : length]
        if kind in {OPEN, READ, WRITE}:
            work = {OPEN: self._open, READ: self._read, WRITE: self._write}[kind]
            if self.kept is None:
                work(unique, body)
            else:
                self.kept.append((work, unique, body))
                self._tell_if_asked()
        elif kind not in {FORGET, BATCH_FORGET}:
            self._answer(unique, *self._simple(kind, node, body))

    def obey(self, word: str) -> None:
        """Do what a word on stdin says, and repeat the word once it is done."""
        if word == "kept":
            self.asked = True
            self._tell_if_asked()
            return
        {"hold": self.hold, "answer": self.answer}[word]()
        print(word, flush=True)

    def hold(self) -> None:
        self.kept = []

    def answer(self) -> None:
        kept, self.kept = self.kept or [], None
        for work, unique, body in kept:
            work(unique, body)

    def _tell_if_asked(self) -> None:
        if self.asked and self.kept:
            self.asked = False
            print("kept", flush=True)

    def _simple(self, kind: int, node: int, body: bytes) -> tuple[bytes, int]:
        if kind == INIT:
            limits = (131072, ASYNC_READ, 1000, 1000, 131072, 1, 32)
            return struct.pack("<IIIIHHIIHH32x", 7, 31, *limits, 0), 0
        if kind == LOOKUP:
            if body.rstrip(b"\0") != b"memory":
                return b"", ENOENT
            head = struct.pack("<QQQQII", FILE, 0, FOR_EVER_S, FOR_EVER_S, 0, 0)
            return head + self._attributes(FILE), 0
        if kind in {GETATTR, SETATTR}:
            return struct.pack("<QII", FOR_EVER_S, 0, 0) + self._attributes(node), 0
        if kind == OPENDIR:
            return OPENED, 0
        return b"", 0 if kind in {RELEASE, RELEASEDIR, FLUSH} else ENOSYS

    def _attributes(self, node: int) -> bytes:
        folder = node == ROOT
        size = 0 if folder else len(self._data)
        mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o600
        return struct.pack("<QQQ24x12xIIIIII4x", node, size, size // 512, mode, 1, 0, 0, 0, 4096)

    def _answer(self, unique: int, payload: bytes = b"", error: int = 0) -> None:
        os.write(self.fd, ANSWER.pack(ANSWER.size + len(payload), -error, unique) + payload)

    def _open(self, unique: int, body: bytes) -> None:
        self._answer(unique, OPENED)

    def _read(self, unique: int, body: bytes) -> None:
        _, offset, count = WHERE.unpack_from(body)
        self._answer(unique, bytes(self._data[offset : offset + count]))

    def _write(self, unique: int, body: bytes) -> None:
        _, offset, count = WHERE.unpack_from(body)
        self._data[offset : offset + count] = body[40 : 40 + count]
        self._answer(unique, struct.pack("<II", count, 0))


def main(folder: str, size: int) -> None:
    """Serve until the end of stdin."""
    server = Server(folder, size)
    try:
        serve(server)
    finally:
        libc.umount2(folder.encode(), MNT_DETACH)


def serve(server: Server) -> None:
    """Answer requests, and do what the words on stdin say."""
    poll = select.poll()
    for fd in (server.fd, 0):
        poll.register(fd, select.POLLIN)
    print("up", flush=True)
    while True:
        for ready, _ in poll.poll():
            if ready == server.fd:
                server.serve()
                continue
            words = os.read(0, 100).decode().split()
            for word in words:
                server.obey(word)
            if not words:
                server.answer()
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
