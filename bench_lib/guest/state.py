# SPDX-License-Identifier: BSD-3-Clause
"""The saved state of a guest, from which other guests start where this one was.

QEMU itself writes and reads the state, as a migration. A state consists of two files: NAME.state
has what QEMU sent, and NAME.json describes it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from bench_lib import lock
from bench_lib.deadline import Deadline
from bench_lib.errors import GuestNotBooted, MigrationFailed
from bench_lib.guest.qemu import Guest

CHUNK = 1 << 20
"""How many bytes are read or written at once."""

LOOK_S = 0.005
"""Seconds between two queries of QEMU's state."""

CLOCK_S = 1.0
"""Seconds after which KVM has updated the clocks that it shares with a guest that was continued.

KVM updates them at once, and again 100 ms later (KVMCLOCK_UPDATE_DELAY in arch/x86/kvm/x86.c). If a
migration started before that, their page would be missing at the destination. It is not if a guest
has run for longer.
"""

DATA, DESCRIPTION = ".state", ".json"
"""The suffixes of the files of a state."""

UNFINISHED = ".new-"
"""The prefix of the names of files that are being written."""


@dataclass(frozen=True)
class State:
    """A saved state.

    :ivar of: describes the guest and the machine; the state fits only where this is the same.
    :ivar boot_ns: how long the guest took to boot, until its workload was up.
    :ivar size: how many bytes the state has.
    :ivar crc32: their checksum.
    """

    of: dict[str, str]
    boot_ns: int
    size: int
    crc32: int


def load(path: Path, of: Mapping[str, str]) -> State | None:
    """Read the description of a state, and check the state.

    :param path: the path of its files, without a suffix.
    :return: None if there is no such state, or if it is damaged or that of another guest.
    """
    try:
        state = msgspec.json.decode(_with(path, DESCRIPTION).read_bytes(), type=State)
        with data(path).open("rb") as file:
            whole = _checksum(file) == (state.size, state.crc32)
    except (OSError, msgspec.MsgspecError):
        return None
    return state if whole and state.of == of else None


def data(path: Path) -> Path:
    """Return the file that QEMU wrote.

    :param path: the path of the state's files, without a suffix.
    """
    return _with(path, DATA)


def _with(path: Path, suffix: str) -> Path:
    return path.parent / f"{path.name}{suffix}"


def _checksum(file: BinaryIO) -> tuple[int, int]:
    """Return how many bytes are left in a file, and their checksum."""
    size = crc32 = 0
    while data := file.read(CHUNK):
        size += len(data)
        crc32 = zlib.crc32(data, crc32)
    return size, crc32


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that gets its name, and replaces an older one, when the context is left.

    If there is an error, nothing of the file is left. What killed processes have left in the folder
    is deleted first.

    :raise OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is held, so that no other process deletes the file before it is locked.
    with lock.held(path.parent):
        _delete_unfinished(path.parent)
        made, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
        os.close(made)
        new = Path(name)
        fd = lock.take(new, os.O_RDWR, wait=True)
    assert fd is not None
    try:
        with open(fd, "wb+") as file:
            yield file
            file.flush()
            new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def _delete_unfinished(folder: Path) -> None:
    """Delete the unfinished files of processes that were killed. Call with the folder locked."""
    for each in folder.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # its process has just finished it
            fd = lock.take(each, os.O_RDONLY, wait=False)
            if fd is not None:
                try:
                    each.unlink()
                finally:
                    os.close(fd)


async def save(
    guest: Guest,
    path: Path,
    of: Mapping[str, str],
    boot_ns: int,
    address: Path,
    deadline: Deadline,
) -> State:
    """Stop a guest, and save its state. The guest cannot be used afterwards.

    :param path: the path of the state's files, without a suffix. They exist completely or not at
        all.
    :param address: the path of the socket over which QEMU sends the state; it is removed.
    :raise GuestNotBooted: the state could not be saved.
    """
    await guest.control.execute("stop", deadline=deadline)
    try:
        # The description is written before either file gets its name, and gets its name last.
        with (
            replacing(_with(path, DESCRIPTION)) as description,
            replacing(data(path)) as file,
        ):
            await guest.during(_receive(guest, file, address, deadline))
            file.seek(0)
            state = State(dict(of), boot_ns, *_checksum(file))
            description.write(msgspec.json.encode(state))
            description.flush()
    except OSError as error:
        raise GuestNotBooted(
            f"The state of the Linux guest cannot be saved in {path.parent} "
            f"({error.strerror or error}); free some space there, or set KICKBENCH_CACHE to "
            "another folder."
        ) from None
    return state


async def _receive(guest: Guest, file: BinaryIO, address: Path, deadline: Deadline) -> None:
    """Let QEMU send its state, and write it to a file.

    :raise OSError: the file cannot be written.
    :raise GuestNotBooted: QEMU did not send its whole state.
    """
    loop = asyncio.get_running_loop()

    async def receive() -> None:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            while part := await loop.sock_recv(connection, CHUNK):
                file.write(part)
        file.flush()

    with socket.socket(socket.AF_UNIX) as listener, _short(address) as short:
        listener.setblocking(False)
        listener.bind(short)
        listener.listen()
        await guest.control.execute(
            "migrate-set-parameters", {"max-bandwidth": 0}, deadline=deadline
        )
        await guest.control.execute("migrate", {"uri": f"unix:{short}"}, deadline=deadline)
        await deadline.wait_for(receive(), "The state of the Linux guest")
    if (status := await _migration(guest, deadline)) != "completed":
        raise GuestNotBooted(
            f"QEMU could not save the state of the Linux guest: its migration is {status}."
        )


@contextmanager
def _short(address: Path) -> Iterator[str]:
    """Return another path of a socket, and remove the socket at the end.

    The path of a socket has at most 107 bytes (unix(7)). This one is short whatever its folder is.
    """
    folder = os.open(address.parent, lock.FOLDER)
    try:
        yield f"/proc/{os.getpid()}/fd/{folder}/{address.name}"
    finally:
        address.unlink(missing_ok=True)
        os.close(folder)


async def _migration(guest: Guest, deadline: Deadline) -> str:
    """Return the state in which a migration ends, by QEMU's name."""
    while True:
        found = await guest.control.execute("query-migrate", deadline=deadline)
        if (status := str(found.get("status"))) not in {"setup", "active", "device"}:
            return status
        await asyncio.sleep(LOOK_S)


async def restore(guest: Guest, path: Path, address: Path, deadline: Deadline) -> None:
    """Start a guest that waits for a migration (`-incoming defer`) from a saved state.

    :param path: the file that QEMU wrote.
    :param address: the path of the socket over which QEMU gets the state; it is removed.
    :raise MigrationFailed: QEMU does not take the state, or the file cannot be read.
    """
    with _short(address) as short:
        await guest.control.execute("migrate-incoming", {"uri": f"unix:{short}"}, deadline=deadline)
        try:
            with path.open("rb") as file, socket.socket(socket.AF_UNIX) as connection:
                connection.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, short)
                sent = loop.sock_sendfile(connection, file)
                await deadline.wait_for(sent, f"The state of {guest.name}")
        except (BrokenPipeError, ConnectionResetError):
            pass  # QEMU does not take the state. It ends, and its last words are the reason.
        except OSError as error:
            raise MigrationFailed(
                f"The saved state of {guest.name} cannot be sent to QEMU ({error.strerror})."
            ) from None
    while (await _status(guest, deadline)) == "inmigrate":  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(LOOK_S)
    await guest.control.execute("cont", deadline=deadline)
    await asyncio.sleep(CLOCK_S)


async def _status(guest: Guest, deadline: Deadline) -> str:
    return str((await guest.control.execute("query-status", deadline=deadline))["status"])


def delete_unfinished(folder: Path) -> None:
    """Delete the files that killed processes have left in a folder, as far as that is possible."""
    with suppress(OSError), lock.held(folder):
        _delete_unfinished(folder)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest states in a folder, and files that a killed process has left.

    A file that cannot be deleted is left.
    """
    delete_unfinished(folder)
    for each in sorted(folder.glob(f"*{DATA}"), key=_written_ns, reverse=True)[keep:]:
        with suppress(OSError):
            each.unlink()
    for each in folder.glob(f"*{DESCRIPTION}"):
        with suppress(OSError):
            if not each.with_suffix(DATA).exists():
                each.unlink()


def _written_ns(path: Path) -> int:
    """Return when a file was written; 0 if another process has deleted it."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
