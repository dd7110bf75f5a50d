# SPDX-License-Identifier: BSD-3-Clause
"""The cache of kernel builds that the lab can boot. A build is added completely or not at all.

A build is a folder with boot/vmlinuz-RELEASE, lib/modules/RELEASE, and a build.json that records
the build and where it came from. `layout` has the layouts of packages and trees.
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
from bench_lib.host import packages
from bench_lib.kernel import archive, btf, image, layout
from bench_lib.kernel.archive import OnBytes
from bench_lib.kernel.assembly import assemble
from bench_lib.kernel.ledger import Build, describe
from bench_lib.settings import Settings

MANIFEST = "build.json"
TOOL_LIMIT_S = 600.0
"""How long depmod or `make modules_install` may take."""

_NEW = ".new-"
"""The prefix of the names of temporary folders in the cache."""


def _ignored(done: int, total: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True)
class Bootable:
    """A build in the cache.

    :ivar source: a description of where the build came from.
    :ivar folder: the build's folder in the cache.
    """

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
        """Whether KVM's slow page fault is interruptible, according to BTF."""
        return btf.interruptible(self.modules, self.vmlinuz)

    @property
    def size_bytes(self) -> int:
        """The disk space that the build's files take, in bytes."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):  # labs create and rename files here
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
        """The cache that the settings name."""
        return cls(settings.cache / "kernels")

    def all(self) -> list[Bootable]:
        """Every build in the cache.

        :raise KernelUnusable: a build.json is damaged.
        """
        found = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if path.parent.name.startswith(_NEW):  # incomplete, or left by a killed process
                continue
            if (build := self.at(path.parent)) is not None:
                found.append(build)
        return found

    @staticmethod
    def at(folder: Path) -> Bootable | None:
        """The build in a folder; None if there is none, because another process has removed it.

        :raise KernelUnusable: its build.json is damaged.
        """
        path = folder / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
        except OSError:
            return None
        except msgspec.MsgspecError as error:
            raise KernelUnusable(
                f"{path} is damaged ({error}); delete {folder}, and fetch the kernel again."
            ) from None
        return Bootable(manifest.build, manifest.source, folder)

    def find(self, release: str) -> Bootable | None:
        """The newest build of this release, or None."""
        found = [each for each in self.all() if each.build.release == release]
        return max(found, key=lambda each: each.build.date, default=None)

    def find_build(self, build: Build) -> Bootable | None:
        """This exact build, or None."""
        return self.find_id(build.id)

    def find_id(self, build_id: str) -> Bootable | None:
        """The build with this id, or None."""
        return next((each for each in self.all() if each.build.id == build_id), None)

    def add_archives(
        self, files: Sequence[Path], source: str, on_bytes: OnBytes = _ignored
    ) -> Bootable:
        """Unpack the packages or archives of one kernel into the cache; nothing is installed.

        :param source: a description of where the kernel comes from.
        :param on_bytes: called repeatedly with the bytes that have been unpacked, and the total.
        :raise KernelUnusable: the files contain no kernel that the lab can boot, or several.
        :raise ArchiveUnsafe: a name in an archive leads out of it.
        :raise FetchFailed: the files could not be unpacked; the cache is unchanged.
        """

        def unpack(into: Path) -> None:
            sizes = [file.stat().st_size for file in files]
            for number, file in enumerate(files):

                def on_share(read: int, of: int, number: int = number) -> None:
                    share = sizes[number] * read // of if of else 0
                    on_bytes(sum(sizes[:number]) + share, sum(sizes))

                archive.unpack(file, into, layout.kept, on_share)

        return self._add(unpack, source, files)

    def add_image(self, vmlinuz: Path, modules: Path, on_bytes: OnBytes = _ignored) -> Bootable:
        """Copy an image and its modules into the cache.

        :param modules: the kernel's folder lib/modules/RELEASE.
        :param on_bytes: called repeatedly with the bytes that have been copied, and the total.
        :raise KernelUnusable: the lab cannot boot the kernel.
        :raise FetchFailed: the files could not be copied; the cache is unchanged.
        """
        release = image.identity(vmlinuz).release
        if not modules.is_dir():
            raise KernelUnusable(
                f"{vmlinuz} is kernel {release}, whose modules are not in {modules}; "
                "pass the image together with its lib/modules."
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
        """Install the image and the modules of a built kernel tree into the cache.

        :raise UnknownArchitecture: the lab cannot boot kernels on this CPU architecture.
        :raise KernelUnusable: the lab cannot boot the kernel.
        :raise FetchFailed: the files could not be installed; the cache is unchanged.
        :raise ProgramMissing: make or depmod is not installed.
        """
        built = built_image(tree)

        def install(into: Path) -> None:
            _copy_image(built, into)
            _run(["make", "-C", str(tree), "modules_install", f"INSTALL_MOD_PATH={into}"])
            for link in (into / layout.MODULES).glob("*/*"):
                if link.is_symlink():  # `build` and `source`, which point to the tree
                    link.unlink()

        return self._add(install, str(tree))

    def remove(self, found: Bootable) -> None:
        """Delete a build.

        :raise FetchFailed: the cache cannot be written.
        """
        with self.new_folder() as doomed:
            try:
                # The folder is renamed first, so that the cache never shows an incomplete build.
                found.folder.rename(doomed / "build")
            except OSError as error:
                raise FetchFailed(
                    f"{found.folder} could not be removed ({error.strerror}), so it is unchanged; "
                    "check the permissions of the cache."
                ) from None

    def _add(
        self, fill: Callable[[Path], None], source: str, files: Sequence[Path] = ()
    ) -> Bootable:
        """Fill a new folder, check it, and only then give it its name.

        A folder of the same build is replaced, because it may have fewer modules.

        :param files: the archives that the folder is filled from, if any.
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
                    f"{source} could not be unpacked into {self.folder} ({error}); nothing of it "
                    "is kept. Free some space, or set KICKBENCH_CACHE to another folder."
                ) from None
            return made

    def _finished(self, new: Path, source: str, files: Sequence[Path]) -> Bootable:
        """Check a filled folder, write its build.json, and return it under its future name."""
        build = describe(assemble(new, source, files))
        _run(["depmod", "-b", str(new), build.release])
        (new / MANIFEST).write_bytes(msgspec.json.encode(_Manifest(build, source)))
        return Bootable(build, source, self.folder / f"{build.release}_{build.id[:12]}")

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A temporary folder in the cache, which is deleted at the end unless it was renamed.

        Temporary folders that killed processes have left are deleted first.

        :raise FetchFailed: the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The lock is held, so that no other process deletes the new folder before it is locked.
            with lock.held(self.folder):
                for left in self.folder.glob(f"{_NEW}*"):
                    _delete_unless_locked(left)
                new = Path(tempfile.mkdtemp(dir=self.folder, prefix=_NEW))
                new_fd = lock.take(new, lock.FOLDER, wait=True)
                assert new_fd is not None
        except OSError as error:
            raise FetchFailed(
                f"The cache {self.folder} cannot be written ({error.strerror}); "
                "free some space, or set KICKBENCH_CACHE to another folder."
            ) from None
        new.chmod(0o755)
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)
            os.close(new_fd)


def built_image(tree: Path) -> Path:
    """The path of the image in a built kernel tree.

    :raise UnknownArchitecture: the lab cannot boot kernels on this CPU architecture.
    """
    return tree / architecture.for_trials().kernel_image


def _copy_image(vmlinuz: Path, into: Path) -> None:
    (into / layout.IMAGES).mkdir()
    shutil.copyfile(vmlinuz, into / layout.IMAGES / vmlinuz.name)


def _delete_unless_locked(folder: Path) -> None:
    try:
        fd = lock.take(folder, lock.FOLDER, wait=False)
    except FileNotFoundError:  # another process has just deleted it
        return
    if fd is None:  # a running process uses it
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
        raise ProgramMissing(
            f"{command[0]} is not installed; {packages.advice(command[0])}."
        ) from None
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"`{' '.join(command)}` did not end within {TOOL_LIMIT_S:g} s.") from None
    except subprocess.CalledProcessError as error:
        # The first line gives the cause, and the last the consequence. A tool may print a line for
        # each file between them.
        lines = str(error.stderr).strip().splitlines() or ["it gave no reason"]
        text = "; ".join(dict.fromkeys([lines[0], lines[-1]]))
        raise FetchFailed(f"`{' '.join(command)}` failed: {text}") from None
