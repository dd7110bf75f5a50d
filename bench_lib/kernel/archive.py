# SPDX-License-Identifier: BSD-3-Clause
"""Archives of any format, read with libarchive: what a caller wants of them, and nothing else.

Packages are archives too. A .deb is an ar archive around a tar archive; an .rpm is a cpio archive
behind a header, which libarchive takes for a filter. What is in an archive was written by others:
only regular files are unpacked, links never are, and a name that leads out of the archive is an
error wherever it stands.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from bench_lib.errors import ArchiveUnsafe, FetchFailed, ProgramMissing
from bench_lib.host import packages

OnBytes = Callable[[int, int], None]
"""Called now and then with the bytes that have been read, and those in all."""

Place = Callable[[str], str | None]
"""Where a file goes in the folder that an archive is unpacked to, by its name in the archive; None
if the file is not wanted."""

_DEB = b"!<arch>\n"
_FILTERS = ("gzip", "bzip2", "lzma", "xz", "zstd", "lz4", "rpm")
# mtree is not among the formats: such an archive may name files of this host to be read.
_FORMATS = ("tar", "cpio")

_BLOCK_BYTES = 1 << 16


def unpack(file: Path, into: Path, place: Place, on_bytes: OnBytes) -> None:
    """Unpack what is wanted of an archive.

    :param into: a folder, which exists.
    :raise ArchiveUnsafe: a name in there leads out of the archive.
    :raise FetchFailed: the archive is damaged, or not one that libarchive reads.
    :raise OSError: it cannot be opened, or a file cannot be written.
    """
    with _explained(file), _contents(file, "data.tar", into) as contents:
        total = contents.stat().st_size
        unpacking = _Unpacking(file, into, place)
        with _reading(contents, _FORMATS) as reader:
            for entry in reader:
                unpacking.member(entry)
                on_bytes(reader.bytes_read, total)


def is_deb(file: Path) -> bool:
    """Whether a file is a Debian package."""
    with file.open("rb") as opened:
        return opened.read(len(_DEB)) == _DEB


def control(deb: Path) -> dict[str, str]:
    """The fields of a Debian package's control file, each as far as its first line goes.

    :raise FetchFailed: the package is damaged.
    """
    with (
        _explained(deb),
        tempfile.TemporaryDirectory() as folder,
        _contents(deb, "control.tar", Path(folder)) as contents,
        _reading(contents, _FORMATS) as reader,
    ):
        for entry in reader:
            if PurePosixPath(os.fsdecode(entry.pathname)).name == "control":
                lines = b"".join(entry.get_blocks()).decode(errors="replace").splitlines()
                fields = [line.partition(":") for line in lines if line and not line[0].isspace()]
                return {name: value.strip() for name, _, value in fields}
        raise _Damaged("it has no control file")


def decompressed(file: Path) -> bytes:
    """The contents of a compressed file, such as a module; those of one that is not compressed.

    :raise FetchFailed: they cannot be read.
    """
    with _explained(file, "compressed file"), _reading(file, ("raw", "empty")) as reader:
        return b"".join(block for entry in reader for block in entry.get_blocks(_BLOCK_BYTES))


class _Damaged(Exception):  # becomes an error of ours where the archive's name is known
    """An archive contradicts itself."""


class _Unpacking:
    """What is being unpacked of one archive."""

    def __init__(self, file: Path, into: Path, place: Place) -> None:
        self._file = file
        self._into = into
        self._place = place
        self._links: set[PurePosixPath] = set()

    def member(self, entry: Any) -> None:
        """Unpack a member if it is wanted; refuse it if its name is a trap."""
        name = self._inside(entry.pathname)
        wanted = self._place(str(name))
        if entry.issym:
            self._links.add(name)
            if wanted is not None:
                # One such as boot/vmlinuz is only another name of what is in there as well.
                self._inside(str(name.parent / os.fsdecode(entry.linkpath)))
        elif wanted is not None and (entry.isreg or entry.islnk):
            path = self._into / wanted
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if entry.islnk:
                path.hardlink_to(self._first(entry))
            # Of several names of one file, cpio has the contents with the last.
            if entry.isreg and (entry.size or not entry.islnk):
                with path.open("wb") as file:
                    file.writelines(entry.get_blocks(_BLOCK_BYTES))

    def _first(self, entry: Any) -> Path:
        """The file that a member is another name of."""
        wanted = self._place(str(self._inside(entry.linkpath)))
        if wanted is None or not (self._into / wanted).is_file():
            raise _Damaged(f"{entry.pathname} is a link to {entry.linkpath}, which is not in it")
        return self._into / wanted

    def _inside(self, name: str | bytes) -> PurePosixPath:
        """A name as a path in the archive.

        :raise ArchiveUnsafe: it leads out of there.
        """
        text = os.fsdecode(name)
        path = PurePosixPath(os.path.normpath(text))
        if path.is_absolute() or path.parts[:1] == ("..",):
            raise self._unsafe(text, "leads out of the archive")
        if link := next((each for each in path.parents if each in self._links), None):
            raise self._unsafe(text, f"goes through {link}, which is a link")
        return path

    def _unsafe(self, name: str, why: str) -> ArchiveUnsafe:
        return ArchiveUnsafe(
            f"{self._file} is refused, because {name!r} in it {why}. Packages of kernels have no "
            "such names; get it from another place. Nothing of it is kept."
        )


@contextmanager
def _contents(file: Path, name: str, folder: Path) -> Iterator[Path]:
    """The archive that is to be read: of a Debian package one in it, else the file itself.

    :param name: how the name of the archive in a Debian package begins.
    :param folder: where it is unpacked meanwhile.
    """
    if not is_deb(file):
        yield file
        return
    with (
        _reading(file, ("ar",)) as reader,
        tempfile.NamedTemporaryFile(dir=folder, prefix=".contents-") as contents,
    ):
        for entry in reader:
            if os.fsdecode(entry.pathname).startswith(name):
                contents.writelines(entry.get_blocks(_BLOCK_BYTES))
                contents.flush()
                yield Path(contents.name)
                return
        raise _Damaged(f"it is a Debian package without a {name}")


@contextmanager
def _reading(file: Path, formats: Sequence[str]) -> Iterator[Any]:
    """The members of an archive, as libarchive-c's ArchiveRead."""
    loaded = library()
    pointer = loaded.ffi.read_new()
    try:
        for name in _FILTERS:
            loaded.ffi.get_read_filter_function(name)(pointer)
        for name in formats:
            loaded.ffi.get_read_format_function(name)(pointer)
        loaded.ffi.read_open_filename_w(pointer, str(file), _BLOCK_BYTES)
        yield loaded.read.ArchiveRead(pointer)
    finally:
        loaded.ffi.read_free(pointer)


def library() -> Any:
    """libarchive-c, which is loaded when it is needed: it looks for the library as it is imported.

    :raise ProgramMissing: the library is not there.
    """
    # What it warns of, such as a name in another encoding, is of no interest.
    logging.getLogger("libarchive").addHandler(logging.NullHandler())
    try:
        import libarchive
    except (AttributeError, OSError):  # it looks for a function where it has found no library
        raise ProgramMissing(
            f"libarchive, which unpacks kernels, is not installed; {packages.advice('bsdtar')}."
        ) from None
    return libarchive


@contextmanager
def _explained(file: Path, kind: str = ".deb, .rpm, tar or cpio archive") -> Iterator[None]:
    """Name the file that something is wrong with.

    :param kind: what it should be.
    :raise FetchFailed: what it is.
    """
    loaded = library()
    try:
        yield
    except (loaded.ArchiveError, _Damaged) as error:
        raise FetchFailed(
            f"{file} cannot be unpacked: {error.args[0]}. It has to be a whole {kind}."
        ) from None
