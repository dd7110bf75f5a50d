"""A file on a file system that answers no more, so that who asks it for something stays in it."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# See linux/fuse.h.
OPEN, INIT = 14, 26
INIT_ANSWER = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 4096, 1, 0, 0, 0)

MNT_DETACH = 2
PATIENCE_S = 60

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class File:
    """The only file of the file system. :ivar path: where it is."""

    def __init__(self, fd: int, path: Path) -> None:
        """:param fd: of /dev/fuse, which is closed by `abort`."""
        self._fd = fd
        self.path = path

    def take(self, wanted: int) -> int:
        """Wait for a request; from then on not even SIGKILL takes it back.

        :param wanted: which it is.
        :return: its number, for an answer.
        """
        assert select.select([self._fd], [], [], PATIENCE_S)[0]
        _, opcode, unique = struct.unpack_from("<IIQ", os.read(self._fd, 1 << 17))
        assert opcode == wanted
        return int(unique)

    def answer(self, unique: int, answer: bytes) -> None:
        os.write(self._fd, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)

    def abort(self) -> None:
        """End the file system: every request is answered with an error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def mounted(path: Path) -> Iterator[File]:
    """Mount it; it ends when the context is left."""
    path.touch()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    file = File(fd, path)
    with ExitStack() as stack:
        stack.callback(file.abort)
        options = f"fd={fd},rootmode=100000,user_id=0,group_id=0".encode()
        _check(_libc.mount(b"kickbench-test", bytes(path), b"fuse", 0, options))
        stack.callback(lambda: _check(_libc.umount2(bytes(path), MNT_DETACH)))
        file.answer(file.take(INIT), INIT_ANSWER)
        yield file
