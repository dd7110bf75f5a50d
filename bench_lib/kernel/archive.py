# SPDX-License-Identifier: BSD-3-Clause
"""Unpack the wanted files of an archive with libarchive.

Packages are archives too. A .deb is an ar archive around a tar archive. An .rpm is a cpio archive
behind a header, which libarchive handles as a filter. The contents of an archive are not trusted:
only regular files are unpacked, symbolic links never are, and a name that leads out of the archive
is an error even if the file is not wanted.
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
"""A function that takes the bytes that have been processed so far, and the total."""

Place = Callable[[str], str | None]
"""A function that maps the name of a file in an archive to its name in the folder that the archive
is unpacked to, or to None if the file is not wanted."""

_DEB = b"!<arch>\n"
_FILTERS = ("gzip", "bzip2", "lzma", "xz", "zstd", "lz4", "rpm")
# mtree is left out, because such an archive can name files of this host to be read.
_FORMATS = ("tar", "cpio")

_BLOCK_BYTES = 1 << 16


def unpack(file: Path, into: Path, place: Place, on_bytes: OnBytes) -> None:
    """Unpack the wanted files of an archive.

    :param into: an existing folder.
    :raise ArchiveUnsafe: a name in the archive leads out of it.
    :raise FetchFailed: the archive is damaged, or libarchive cannot read its format.
    :raise ProgramMissing: libarchive is not installed.
    :raise OSError: the archive cannot be opened, or a file cannot be written.
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
    """The first line of each field of a Debian package's control file.

    :raise FetchFailed: the package is damaged.
    :raise ProgramMissing: libarchive is not installed.
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
    """The decompressed contents of a file such as a module, which may also be uncompressed.

    :raise FetchFailed: the file cannot be decompressed.
    :raise ProgramMissing: libarchive is not installed.
    """
    with _explained(file, "compressed file"), _reading(file, ("raw", "empty")) as reader:
        return b"".join(block for entry in reader for block in entry.get_blocks(_BLOCK_BYTES))


class _Damaged(Exception):  # _explained turns it into an error that names the archive
    """An archive contradicts itself."""


class _Unpacking:
    """The state of unpacking one archive."""

    def __init__(self, file: Path, into: Path, place: Place) -> None:
        self._file = file
        self._into = into
        self._place = place
        self._links: set[PurePosixPath] = set()

    def member(self, entry: Any) -> None:
        """Unpack a member if it is wanted.

        :raise ArchiveUnsafe: its name leads out of the archive.
        """
        name = self._inside(entry.pathname)
        wanted = self._place(str(name))
        if entry.issym:
            self._links.add(name)
            if wanted is not None:
                # A link is not unpacked. A link such as boot/vmlinuz is a second name of a member.
                self._inside(str(name.parent / os.fsdecode(entry.linkpath)))
        elif wanted is not None and (entry.isreg or entry.islnk):
            path = self._into / wanted
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if entry.islnk:
                path.hardlink_to(self._first(entry))
            # cpio stores the contents of a file with several names under the last name.
            if entry.isreg and (entry.size or not entry.islnk):
                with path.open("wb") as file:
                    file.writelines(entry.get_blocks(_BLOCK_BYTES))

    def _first(self, entry: Any) -> Path:
        """The unpacked file that a hard link refers to."""
        wanted = self._place(str(self._inside(entry.linkpath)))
        if wanted is None or not (self._into / wanted).is_file():
            raise _Damaged(f"{entry.pathname} is a link to {entry.linkpath}, which is not in it")
        return self._into / wanted

    def _inside(self, name: str | bytes) -> PurePosixPath:
        """A name as a normalized path in the archive.

        :raise ArchiveUnsafe: the name leads out of the archive, or through a symbolic link.
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
            f"{self._file} was refused, because the name {name!r} in it {why}. Packages of kernels "
            "have no such names; get the package from another source. Nothing of it is kept."
        )


@contextmanager
def _contents(file: Path, name: str, folder: Path) -> Iterator[Path]:
    """The archive to read: the file itself, or an inner archive of a Debian package.

    :param name: the beginning of the inner archive's name, without the compression's suffix.
    :param folder: the folder for the temporary file that holds the inner archive.
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
    """Open an archive with libarchive-c, and yield its ArchiveRead, which has the members."""
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
    """Import libarchive-c, which loads the library libarchive when it is imported.

    :raise ProgramMissing: libarchive is not installed.
    """
    # Its warnings, such as those about the encoding of a name, do not concern the user.
    logging.getLogger("libarchive").addHandler(logging.NullHandler())
    try:
        import libarchive
    except (AttributeError, OSError):  # AttributeError: it looks up functions without a library
        raise ProgramMissing(
            f"libarchive, which unpacks kernels, is not installed; {packages.advice('bsdtar')}."
        ) from None
    return libarchive


@contextmanager
def _explained(file: Path, kind: str = ".deb, .rpm, tar or cpio archive") -> Iterator[None]:
    """Turn an error of reading an archive into one that names the file.

    :param kind: the kind of file that was expected.
    :raise FetchFailed: the file is damaged, or of another kind.
    """
    loaded = library()
    try:
        yield
    except (loaded.ArchiveError, _Damaged) as error:
        raise FetchFailed(
            f"{file} cannot be unpacked: {error.args[0]}. It is damaged, or not a {kind}; get the "
            "file again."
        ) from None
