# SPDX-License-Identifier: BSD-3-Clause
"""Kernel builds that can be booted: unpacked into a cache, each whole or not there.

A build is a folder with boot/vmlinuz-RELEASE and lib/modules/RELEASE, whatever the layout of what
it came from (see `layout`), and a build.json that says what it is and where it came from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib import architecture, lock
from bench_lib.errors import FetchFailed, KernelUnusable, ProgramMissing
from bench_lib.kernel import archive, btf, image, layout
from bench_lib.kernel.archive import OnBytes
from bench_lib.kernel.assembly import assemble
from bench_lib.kernel.ledger import Build, describe
from bench_lib.settings import Settings

MANIFEST = "build.json"
TOOL_LIMIT_S = 600.0
"""How long one of the tools that make a build bootable may take."""

_NEW = ".new-"


def _unwatched(read: int, total: int) -> None:
    """Nobody watches the progress."""


@dataclass(frozen=True)
class Bootable:
    """A build in the cache. :ivar source: where it came from, for people."""

    build: Build
    source: str
    folder: Path

    @property
    def vmlinuz(self) -> Path:
        return self.folder / "boot" / f"vmlinuz-{self.build.release}"

    @property
    def modules(self) -> Path:
        return self.folder / layout.MODULES / self.build.release

    @property
    def interruptible(self) -> btf.Interruptible:
        """Whether KVM's slow page fault is interruptible, by its types alone."""
        return btf.interruptible(self.modules, self.vmlinuz)

    @property
    def size_bytes(self) -> int:
        """Bytes of disk that its files take."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):  # a lab keeps files of its own here
                    total += Path(folder, name).lstat().st_blocks * 512
        return total


@dataclass(frozen=True)
class _Manifest:
    build: Build
    source: str


class Store:
    """The cache of builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, settings: Settings) -> Store:
        """The one that the settings name."""
        return cls(settings.cache / "kernels")

    def all(self) -> list[Bootable]:
        """Every build that is there.

        :raise KernelUnusable: one of them is damaged.
        """
        found = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if path.parent.name.startswith(_NEW):  # not yet what it is to be, or a dead process's
                continue
            try:
                manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
            except FileNotFoundError:  # removed meanwhile
                continue
            except msgspec.MsgspecError as error:
                raise KernelUnusable(
                    f"{path} is damaged ({error}); delete {path.parent}, and fetch it again."
                ) from None
            found.append(Bootable(manifest.build, manifest.source, path.parent))
        return found

    def find(self, release: str) -> Bootable | None:
        """The build of that release; of several the newest. None if there is none."""
        found = [each for each in self.all() if each.build.release == release]
        return max(found, key=lambda each: each.build.date, default=None)

    def find_build(self, build: Build) -> Bootable | None:
        """That very build, or None."""
        return self.find_id(build.id)

    def find_id(self, build_id: str) -> Bootable | None:
        """The build with that id, or None."""
        return next((each for each in self.all() if each.build.id == build_id), None)

    def add_archives(
        self, files: Sequence[Path], source: str, on_bytes: OnBytes = _unwatched
    ) -> Bootable:
        """Unpack the packages or archives that one kernel is in; nothing is installed.

        :param source: where it comes from, for people.
        :param on_bytes: called now and then with the bytes that are unpacked, and those in all.
        :raise KernelUnusable: they hold no kernel that the lab can boot, or several.
        :raise ArchiveUnsafe: a name in one of them leads out of it.
        :raise FetchFailed: they could not be unpacked.
        """

        def unpack(into: Path) -> None:
            sizes = [file.stat().st_size for file in files]
            for number, file in enumerate(files):

                def on_share(read: int, of: int, number: int = number) -> None:
                    share = sizes[number] * read // of if of else 0
                    on_bytes(sum(sizes[:number]) + share, sum(sizes))

                archive.unpack(file, into, layout.kept, on_share)

        return self._add(unpack, source, files)

    def add_image(self, vmlinuz: Path, modules: Path, on_bytes: OnBytes = _unwatched) -> Bootable:
        """Copy an image and its modules.

        :param modules: the folder lib/modules/RELEASE.
        :param on_bytes: called now and then with the bytes that are copied, and those in all.
        :raise KernelUnusable: the lab cannot boot what they contain.
        :raise FetchFailed: they could not be copied.
        """
        release = image.identity(vmlinuz).release
        if not modules.is_dir():
            raise KernelUnusable(
                f"{vmlinuz} is kernel {release}, whose modules are not in {modules}; "
                "give it with its lib/modules."
            )

        def copy(into: Path) -> None:
            _copy_image(vmlinuz, into)
            files = list(layout.kept_of_modules(modules))
            total = sum(path.stat().st_size for path, _ in files)
            done = 0
            for path, inside in files:
                to = into / layout.MODULES / modules.name / inside
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
                done += to.stat().st_size
                on_bytes(done, total)

        return self._add(copy, str(vmlinuz))

    def add_tree(self, tree: Path) -> Bootable:
        """Take image and modules out of a kernel tree that has been built.

        :raise UnknownArchitecture: the lab boots no kernels on this machine.
        :raise KernelUnusable: the lab cannot boot what they contain.
        :raise FetchFailed: they could not be copied.
        """
        built = built_image(tree)

        def install(into: Path) -> None:
            _copy_image(built, into)
            _run(["make", "-C", str(tree), "modules_install", f"INSTALL_MOD_PATH={into}"])
            for link in (into / layout.MODULES).glob("*/*"):
                if link.is_symlink():  # `build` and `source`, which lead back to the tree
                    link.unlink()

        return self._add(install, str(tree))

    def remove(self, found: Bootable) -> None:
        """Delete a build.

        :raise FetchFailed: the cache cannot be written.
        """
        with self.new_folder() as doomed:
            try:
                # So that there is at no time a build of which only a part is there.
                found.folder.rename(doomed / "build")
            except OSError as error:
                raise FetchFailed(
                    f"{found.folder} could not be removed ({error.strerror}); it is as it was."
                ) from None

    def _add(
        self, fill: Callable[[Path], None], source: str, files: Sequence[Path] = ()
    ) -> Bootable:
        """Fill a new folder, check it, and only then give it its name.

        What was there of the same build is replaced, as it may have fewer modules.

        :param files: the archives that it is filled from.
        """
        with self.new_folder() as new:
            try:
                fill(new)
                made = self._finished(new, source, files)
                if made.folder.exists():
                    self.remove(made)
                new.rename(made.folder)
            except (OSError, shutil.Error) as error:
                raise FetchFailed(
                    f"{source} could not be unpacked into {self.folder} ({error}); "
                    "nothing of it is kept."
                ) from None
            return made

    def _finished(self, new: Path, source: str, files: Sequence[Path]) -> Bootable:
        """The build that a folder of the cache holds, labelled, under the name it is to have."""
        build = describe(assemble(new, source, files))
        _run(["depmod", "-b", str(new), build.release])
        (new / MANIFEST).write_bytes(msgspec.json.encode(_Manifest(build, source)))
        return Bootable(build, source, self.folder / f"{build.release}_{build.id[:12]}")

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A folder in the cache that is gone again unless it was renamed.

        Such folders that killed processes have left are deleted first.

        :raise FetchFailed: the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Held, so that no folder is taken for a dead process's before it is locked.
            with lock.held(self.folder):
                for left in self.folder.glob(f"{_NEW}*"):
                    _delete_unless_locked(left)
                new = Path(tempfile.mkdtemp(dir=self.folder, prefix=_NEW))
                new_fd = lock.take(new, lock.FOLDER, wait=True)
                assert new_fd is not None
        except OSError as error:
            raise FetchFailed(
                f"The cache {self.folder} cannot be written ({error.strerror}); "
                "free some space, or set KICKBENCH_CACHE to a folder elsewhere."
            ) from None
        new.chmod(0o755)
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)
            os.close(new_fd)


def built_image(tree: Path) -> Path:
    """Where a kernel tree has its image once it is built.

    :raise UnknownArchitecture: the lab boots no kernels on this machine.
    """
    return tree / architecture.for_trials().kernel_image


def _copy_image(vmlinuz: Path, into: Path) -> None:
    (into / layout.IMAGES).mkdir()
    shutil.copyfile(vmlinuz, into / layout.IMAGES / vmlinuz.name)


def _delete_unless_locked(folder: Path) -> None:
    try:
        fd = lock.take(folder, lock.FOLDER, wait=False)
    except FileNotFoundError:  # gone meanwhile
        return
    if fd is None:  # in use
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(fd)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ProgramMissing(f"{command[0]} is not installed; `make bench` installs it.") from None
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"`{' '.join(command)}` did not end in time.") from None
    except subprocess.CalledProcessError as error:
        # The first line gives the cause and the last the end. Between them a tool may have one for
        # each file.
        said = str(error.stderr).strip().splitlines() or ["it gave no reason"]
        text = "; ".join(dict.fromkeys([said[0], said[-1]]))
        raise FetchFailed(f"`{' '.join(command)}` failed: {text}") from None
