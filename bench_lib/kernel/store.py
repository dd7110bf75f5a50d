"""Kernel builds that can be booted: unpacked into a cache, each whole or not there.

A build is a folder laid out as a Debian package is, boot/vmlinuz-RELEASE beside
lib/modules/RELEASE, with a build.json that says what it is and where it came from. What a package
has in usr/lib/modules instead, as those of Debian 13 do, is moved there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib import architecture
from bench_lib.errors import FetchFailed, KernelUnusable, ProgramMissing
from bench_lib.kernel import btf, image
from bench_lib.kernel.ledger import Build, describe
from bench_lib.settings import Settings

LABEL = "build.json"
TOOL_LIMIT_S = 600.0
"""How long one of the tools that make a build bootable may take."""

NEEDED = {
    "9p": "to see this userland",
    "9pnet_virtio": "to see this userland",
    "overlay": "to write over it without changing it",
    "virtio_console": "to be talked to",
    "kvm": "to run guests",
    "veth": "to join them",
}
"""Modules that a kernel needs to run trials in the lab, and for what."""


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
        return self.folder / "lib" / "modules" / self.build.release

    @property
    def label(self) -> btf.Label:
        """Whether KVM's slow page fault is interruptible, by its types alone."""
        return btf.label(self.modules)


@dataclass(frozen=True)
class _Label:
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
        for path in sorted(self.folder.glob(f"*/{LABEL}")):
            try:
                label = msgspec.json.decode(path.read_bytes(), type=_Label)
            except msgspec.MsgspecError as error:
                raise KernelUnusable(
                    f"{path} is damaged ({error}); delete {path.parent}, and fetch it again."
                ) from None
            found.append(Bootable(label.build, label.source, path.parent))
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

    def add_package(self, package: Path, source: str) -> Bootable:
        """Unpack a Debian package; it is never installed.

        :raise KernelUnusable: it holds no kernel that the lab can boot.
        :raise FetchFailed: it could not be unpacked.
        """

        def unpack(into: Path) -> None:
            _run(["dpkg-deb", "--extract", str(package), str(into)])
            # Documentation, and where usr is merged nothing else.
            shutil.rmtree(into / "usr" / "share", ignore_errors=True)

        return self._add(unpack, source)

    def add_image(self, vmlinuz: Path, modules: Path) -> Bootable:
        """Copy an image and its modules.

        :param modules: the folder lib/modules/RELEASE.
        """
        release = image.identity(vmlinuz).release
        if not modules.is_dir():
            raise KernelUnusable(
                f"{vmlinuz} is kernel {release}, whose modules are not in {modules}; "
                "give it with its lib/modules."
            )

        def copy(into: Path) -> None:
            (into / "boot").mkdir()
            shutil.copyfile(vmlinuz, into / "boot" / f"vmlinuz-{release}")
            shutil.copytree(
                modules,
                into / "lib" / "modules" / release,
                symlinks=True,
                ignore=shutil.ignore_patterns("build", "source"),
            )

        return self._add(copy, str(vmlinuz))

    def add_tree(self, tree: Path) -> Bootable:
        """Take image and modules out of a kernel tree that has been built.

        :raise UnknownArchitecture: the lab boots no kernels on this machine.
        """
        built = tree / architecture.for_trials().kernel_image
        release = image.identity(built).release

        def install(into: Path) -> None:
            (into / "boot").mkdir()
            shutil.copyfile(built, into / "boot" / f"vmlinuz-{release}")
            _run(["make", "-C", str(tree), "modules_install", f"INSTALL_MOD_PATH={into}"])

        return self._add(install, str(tree))

    def _add(self, fill: Callable[[Path], None], source: str) -> Bootable:
        """Fill a new folder, check it, and only then give it its name."""
        with self.new_folder() as new:
            try:
                fill(new)
                _move_modules(new)
                made = self._checked(new, source)
                if not made.folder.exists():
                    new.rename(made.folder)
            except (OSError, shutil.Error) as error:
                raise FetchFailed(
                    f"{source} could not be unpacked into {self.folder} ({error}); "
                    "nothing of it is kept."
                ) from None
            return made

    def _checked(self, new: Path, source: str) -> Bootable:
        """The build that a folder of the cache holds, labelled, under the name it is to have."""
        images = sorted((new / "boot").glob("vmlinuz-*"))
        if len(images) != 1:
            raise KernelUnusable(f"{source} holds {len(images)} kernel images instead of one.")
        kernel = image.identity(images[0])
        build = describe(kernel)
        _check_modules(new / "lib" / "modules" / kernel.release, kernel.release)
        _run(["depmod", "-b", str(new), kernel.release])
        (new / LABEL).write_bytes(msgspec.json.encode(_Label(build, source)))
        return Bootable(build, source, self.folder / f"{build.release}_{build.id[:12]}")

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A folder in the cache that is gone again unless it was renamed.

        :raise FetchFailed: the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
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


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=TOOL_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ProgramMissing(f"{command[0]} is not installed; `make bench` installs it.") from None
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"`{' '.join(command)}` did not end in time.") from None
    except subprocess.CalledProcessError as error:
        # The first line gives the cause and the last the end. Between them tar, on a full disk, has
        # one for each file.
        said = str(error.stderr).strip().splitlines() or ["it gave no reason"]
        text = "; ".join(dict.fromkeys([said[0], said[-1]]))
        raise FetchFailed(f"`{' '.join(command)}` failed: {text}") from None


def _move_modules(new: Path) -> None:
    """Have modules in lib/modules, where Debian 13 and later have usr/lib/modules."""
    for packaged in (new / "usr" / "lib" / "modules").glob("*"):
        kept = new / "lib" / "modules" / packaged.name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            packaged.rename(kept)


def _check_modules(folder: Path, release: str) -> None:
    """Refuse a build that cannot run trials, before it is kept."""
    if not folder.is_dir():
        raise KernelUnusable(
            f"Kernel {release} comes without modules: it has no lib/modules/{release} and no "
            f"usr/lib/modules/{release}; take the package or the tree that has both."
        )
    names = {path.name.split(".ko")[0].replace("-", "_") for path in folder.rglob("*.ko*")}
    builtin = folder / "modules.builtin"
    if builtin.exists():
        names |= {
            Path(line).name.removesuffix(".ko").replace("-", "_")
            for line in builtin.read_text().split()
        }
    if missing := [name for name in NEEDED if name not in names]:
        reasons = ", ".join(f"{name} ({NEEDED[name]})" for name in missing)
        raise KernelUnusable(f"Kernel {release} cannot run trials in the lab: it has no {reasons}.")
