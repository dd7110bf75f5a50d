# SPDX-License-Identifier: BSD-3-Clause
"""Kernels from packages and archives, which are made with the tools of distributions."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench_lib import ownership, present
from bench_lib.cli import adding, main
from bench_lib.errors import (
    ArchiveUnsafe,
    FetchFailed,
    HostBusy,
    KernelAmbiguous,
    KernelUnusable,
)
from bench_lib.kernel.assembly import NEEDED
from bench_lib.kernel.store import Bootable, Store
from bench_lib.lab.initramfs import Modules
from bench_lib.settings import Settings
from tests import make
from tests.make import RELEASE

OTHER = "6.1.0-42-amd64"
OTHER_BANNER = make.BANNER.replace(RELEASE, OTHER)
FEDORA = "6.8.5-301.fc40.x86_64"
FEDORA_BANNER = f"{FEDORA} (who@where) #1 SMP PREEMPT_DYNAMIC Thu Apr 11 20:00:10 UTC 2024"
EXTRA = ["9p", "veth"]


@pytest.fixture
def cache(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty cache, which the commands use too."""
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    return Store.of(Settings.from_environment())


def root(folder: Path, *, boot: bool = True, modules: str = "lib/modules") -> Path:
    """Make a system with one whole kernel.

    :param modules: the folder of its modules; "" for none.
    """
    if boot:
        make.vmlinuz(folder / "boot" / f"vmlinuz-{RELEASE}")
    if modules:
        make.modules(folder / modules / RELEASE)
    return folder


def add(*paths: Path) -> Result:
    return CliRunner().invoke(main, ["kernels", "add", *map(str, paths)])


def kept(cache: Store) -> list[str]:
    """The names of all files in the cache, including hidden ones."""
    return [path.name for path in cache.folder.iterdir()] if cache.folder.exists() else []


def _tar(folder: Path, name: str) -> Path:
    file = folder.with_name(name)
    subprocess.run(["tar", "-C", folder, "-caf", file, "."], check=True)
    return file


def _cpio(folder: Path) -> Path:
    file = folder.with_name("kernel.cpio")
    names = "".join(f"{path.relative_to(folder)}\n" for path in folder.rglob("*"))
    with file.open("wb") as out:
        subprocess.run(
            ["bsdcpio", "-o", "-H", "newc", "--quiet"],
            cwd=folder, input=names.encode(), stdout=out, check=True,
        )  # fmt: skip
    return file


PACKED: dict[str, Callable[[Path], Path]] = {
    "deb.xz": lambda folder: make.package(folder),
    "deb.zst": lambda folder: make.package(folder, packed="zstd"),
    "deb.gz": lambda folder: make.package(folder, packed="gzip"),
    "rpm.zst": lambda folder: make.rpm(folder, "kernel"),
    "rpm.xz": lambda folder: make.rpm(folder, "kernel", "w2.xzdio"),
    "tar": lambda folder: _tar(folder, "kernel.tar"),
    "tar.gz": lambda folder: _tar(folder, "kernel.tar.gz"),
    "tar.xz": lambda folder: _tar(folder, "kernel.tar.xz"),
    "tar.zst": lambda folder: _tar(folder, "kernel.tar.zst"),
    "cpio": _cpio,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
def test_every_archive_gives_the_same_build(
    cache: Store, tmp_path: Path, packed: str, place: str
) -> None:
    file = PACKED[packed](root(tmp_path / "root", modules=place))
    done = add(file)
    assert done.exit_code == 0, done.output
    (added,) = cache.all()
    assert added.build.release == RELEASE
    assert added.vmlinuz.read_bytes() == make.vmlinuz(tmp_path / "again").read_bytes()
    assert (added.modules / "modules.dep").is_file()
    assert sorted(path.name for path in added.folder.iterdir()) == ["boot", "build.json", "lib"]
    assert f"{RELEASE} #1 SMP" in done.output
    assert "interruptible page fault of KVM, according to its BTF: unknown" in done.output
    assert [
        each["release"] for each in json.loads(Path("kernels.json").read_text())["kernels"]
    ] == [RELEASE]


def _split(tmp_path: Path) -> list[Path]:
    """Make a kernel in three packages, as Ubuntu does."""
    depends = f"kmod, linux-base (>= 4.5), linux-modules-{RELEASE}"
    image = make.package(
        root(tmp_path / "image", modules=""),
        name=f"linux-image-unsigned-{RELEASE}",
        depends=depends,
    )
    base = tmp_path / "base"
    make.modules(base / "lib/modules" / RELEASE, [each for each in NEEDED if each not in EXTRA])
    extra = tmp_path / "extra"
    folder = make.modules(extra / "lib/modules" / RELEASE, EXTRA)
    (folder / "modules.order").unlink()
    (folder / "modules.builtin").unlink()
    return [
        image,
        make.package(base, name=f"linux-modules-{RELEASE}"),
        make.package(extra, name=f"linux-modules-extra-{RELEASE}"),
    ]


def test_a_kernel_in_several_packages_is_one_build(cache: Store, tmp_path: Path) -> None:
    done = add(*_split(tmp_path))
    assert done.exit_code == 0, done.output
    (added,) = cache.all()
    assert {path.name for path in added.modules.glob("*.ko")} >= {"kvm.ko", "veth.ko"}


@pytest.mark.parametrize(
    "passed, sentence",
    [
        ([0], f"comes without modules: .* Pass linux-modules-{RELEASE} as well"),
        ([0, 1], f"it has no 9p .*, veth .* Pass linux-modules-extra-{RELEASE} as well"),
        ([0, 2], f"it has no .*kvm .* Pass linux-modules-{RELEASE} as well"),
        ([1, 2], f"has modules of {RELEASE}, but no kernel image .* linux-image-{RELEASE} or "),
    ],
)
def test_the_missing_package_is_named(
    cache: Store, tmp_path: Path, passed: list[int], sentence: str
) -> None:
    files = _split(tmp_path)
    with pytest.raises(KernelUnusable, match=sentence):
        cache.add_archives([files[each] for each in passed], "packages")
    assert not kept(cache)


def test_a_package_that_only_depends_on_others_names_them(cache: Store, tmp_path: Path) -> None:
    """As linux-image-RELEASE does in Debian 14."""
    parts = [f"linux-{part}-{RELEASE}" for part in ("base", "binary", "modules")]
    depends = ", ".join(["kmod", *(f"{part} (= 1)" for part in parts)])
    (tmp_path / "empty").mkdir()
    file = make.package(tmp_path / "empty", depends=depends)
    with pytest.raises(
        KernelUnusable,
        match=f"contains no modules and no kernel image.* Pass {' and '.join(parts)}",
    ):
        cache.add_archives([file], "a package")


def test_a_missing_list_of_built_in_modules_is_named(cache: Store, tmp_path: Path) -> None:
    """As in Debian 14, if linux-base-RELEASE is not passed."""
    image = make.package(
        root(tmp_path / "image", modules=""),
        name=f"linux-binary-{RELEASE}",
        depends=f"linux-base-{RELEASE} (= 1)",
    )
    modules = make.modules(
        tmp_path / "modules/usr/lib/modules" / RELEASE, set(NEEDED) - {"virtio_console"}
    )
    (modules / "modules.builtin").unlink()
    files = [image, make.package(tmp_path / "modules", name=f"linux-modules-{RELEASE}")]
    with pytest.raises(
        KernelUnusable,
        match=rf"no virtio_console .* also has no modules\.builtin.* Pass linux-base-{RELEASE} as",
    ):
        cache.add_archives(files, "packages")
    assert not kept(cache)


def _fedora(tmp_path: Path) -> list[Path]:
    core, modules = tmp_path / "core", tmp_path / "modules"
    make.vmlinuz(core / "lib/modules" / FEDORA / "vmlinuz", FEDORA_BANNER)
    (core / "lib/modules" / FEDORA / "build").symlink_to(f"/usr/src/kernels/{FEDORA}")
    make.modules(modules / "lib/modules" / FEDORA)
    return [make.rpm(core, "kernel-core"), make.rpm(modules, "kernel-modules-core")]


def test_fedora_has_the_image_beside_the_modules(cache: Store, tmp_path: Path) -> None:
    core, modules = _fedora(tmp_path)
    with pytest.raises(KernelUnusable, match=f"Pass kernel-modules-core-{FEDORA} as well"):
        cache.add_archives([core], "kernel-core")
    with pytest.raises(KernelUnusable, match=f"Pass kernel-core-{FEDORA} as well"):
        cache.add_archives([modules], "kernel-modules-core")
    done = add(core, modules)
    assert done.exit_code == 0, done.output
    (added,) = cache.all()
    assert added.vmlinuz.is_file()
    assert not [path for path in added.folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("packed", ["xz", "zst", "gz"])
def test_modules_may_be_compressed(cache: Store, tmp_path: Path, packed: str) -> None:
    folder = root(tmp_path / "root")
    tools = {"xz": ["xz"], "gz": ["gzip"], "zst": ["zstd", "-q", "--rm"]}
    modules = folder / "lib/modules" / RELEASE
    (modules / "kvm.ko").write_bytes(b"what is in the module")
    subprocess.run([*tools[packed], *modules.glob("*.ko")], check=True)
    added = cache.add_archives([make.package(folder)], "a package")
    if packed == "xz":  # every kmod reads it
        assert (added.modules / "kvm.ko.xz").is_file()
    else:
        assert (added.modules / "kvm.ko").read_bytes() == b"what is in the module"
        assert not list(added.modules.glob(f"*.{packed}"))


def test_adding_a_build_again_replaces_it(cache: Store, tmp_path: Path) -> None:
    folder = root(tmp_path / "root")
    cache.add_archives([_tar(folder, "first.tar")], "first")
    (folder / "lib/modules" / RELEASE / "sch_netem.ko").touch()
    added = cache.add_archives([_tar(folder, "second.tar")], "second")
    assert cache.all() == [added]
    assert added.source == "second"
    assert (added.modules / "sch_netem.ko").is_file()


# Archives that do not hold exactly one kernel.


def test_a_package_of_something_else_is_refused(cache: Store, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "usr" / "bin"
    folder.mkdir(parents=True)
    (folder / "tool").touch()
    done = add(make.rpm(tmp_path / "root", "tool"))
    assert done.exit_code == KernelUnusable.exit_status
    assert "contains no modules and no kernel image" in done.output
    assert not kept(cache)


def test_modules_of_another_release_are_refused(cache: Store, tmp_path: Path) -> None:
    folder = root(tmp_path / "root", modules="")
    make.modules(folder / "lib/modules" / OTHER)
    with pytest.raises(
        KernelUnusable, match=f"is kernel {RELEASE}, but the modules are of {OTHER}"
    ):
        cache.add_archives([_tar(folder, "kernel.tar")], "kernel.tar")
    assert not kept(cache)


def test_two_kernels_in_one_archive_are_refused(cache: Store, tmp_path: Path) -> None:
    folder = root(tmp_path / "root")
    make.vmlinuz(folder / "boot" / f"vmlinuz-{OTHER}", OTHER_BANNER)
    make.modules(folder / "lib/modules" / OTHER)
    with pytest.raises(KernelUnusable, match=f"contains 2 kernels: {RELEASE} .*, {OTHER} "):
        cache.add_archives([_tar(folder, "kernel.tar")], "kernel.tar")
    assert not kept(cache)


def test_an_image_cannot_name_a_file_outside(cache: Store, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    make.vmlinuz(folder / "boot/vmlinuz", make.BANNER.replace(RELEASE, "../../../witness"))
    make.modules(folder / "lib/modules" / RELEASE)
    with pytest.raises(KernelUnusable, match=r"boot/vmlinuz of a tar has no kernel version"):
        cache.add_archives([_tar(folder, "kernel.tar")], "a tar")
    assert not kept(cache)


# Archives that are meant to do harm.


def _member(name: str, data: bytes = b"", link: str = "", kind: bytes = b"") -> tuple[object, ...]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if kind:
        info.type, info.linkname = kind, link
    return info, data


HOSTILE = {
    "upwards": [_member(f"lib/modules/{RELEASE}/../../../../witness.ko", b"x")],
    "upwards and unwanted": [_member("../witness", b"x")],
    "absolute": [_member("{tmp}/witness", b"x")],
    "through a link": [
        _member(f"lib/modules/{RELEASE}/extra", kind=tarfile.SYMTYPE, link="{tmp}"),
        _member(f"lib/modules/{RELEASE}/extra/witness.ko", b"x"),
    ],
    "a link to a secret": [
        _member(f"lib/modules/{RELEASE}/extra.ko", kind=tarfile.SYMTYPE, link="/etc/shadow")
    ],
    "a link upwards": [
        _member(f"lib/modules/{RELEASE}/extra.ko", kind=tarfile.SYMTYPE, link="../../../../secret")
    ],
    "a hard link to a secret": [
        _member(f"lib/modules/{RELEASE}/extra.ko", kind=tarfile.LNKTYPE, link="/etc/shadow")
    ],
}


@pytest.mark.parametrize("trap", HOSTILE)
def test_names_that_lead_out_of_the_archive_are_refused(
    cache: Store, tmp_path: Path, trap: str
) -> None:
    file = _tar(root(tmp_path / "root"), "kernel.tar")
    with tarfile.open(file, "a") as opened:
        for info, data in HOSTILE[trap]:
            assert isinstance(info, tarfile.TarInfo)
            assert isinstance(data, bytes)
            info = info.replace(
                name=info.name.format(tmp=tmp_path), linkname=info.linkname.format(tmp=tmp_path)
            )
            opened.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    done = add(file)
    assert done.exit_code == ArchiveUnsafe.exit_status
    assert "was refused, because" in done.output
    assert not kept(cache)
    assert sorted(each for each in tmp_path.rglob("*") if cache.folder.parent not in each.parents
                  and each != cache.folder.parent) == before  # fmt: skip


def test_links_within_the_archive_are_harmless(cache: Store, tmp_path: Path) -> None:
    folder = root(tmp_path / "root")
    modules = folder / "lib/modules" / RELEASE
    (modules / "build").symlink_to("/usr/src/linux")
    (folder / "boot/vmlinuz").symlink_to(f"vmlinuz-{RELEASE}")
    (modules / "kvm.ko").write_bytes(b"what is in the module")
    (modules / "kvm-again.ko").hardlink_to(modules / "kvm.ko")
    added = cache.add_archives([_tar(folder, "kernel.tar")], "a tar")
    for name in ("kvm.ko", "kvm-again.ko"):
        assert (added.modules / name).read_bytes() == b"what is in the module"
    assert not [path for path in added.folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("packed", ["deb.xz", "rpm.zst", "tar.zst", "cpio"])
def test_an_archive_that_is_cut_short_is_not_kept(
    cache: Store, tmp_path: Path, packed: str
) -> None:
    folder = root(tmp_path / "root")
    noise = bytes(range(256)) * 4096
    (folder / "lib/modules" / RELEASE / "noise.ko").write_bytes(noise)
    file = PACKED[packed](folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = add(file)
    assert done.exit_code == FetchFailed.exit_status, done.output
    assert "cannot be unpacked" in done.output
    assert not kept(cache)


def test_a_signal_while_something_is_unpacked_leaves_nothing(
    cache: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def download(console: object, what: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda read, total: signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(present, "download", download)
    done = add(make.rpm(root(tmp_path / "root"), "kernel"))
    assert done.exit_code == 128 + signal.SIGTERM
    assert not kept(cache)


def test_what_a_killed_process_left_is_removed_by_the_next(cache: Store, tmp_path: Path) -> None:
    with cache.new_folder() as alive:
        left = shutil.copytree(root(tmp_path / "root"), cache.folder / ".new-left")
        cache.add_archives([_tar(tmp_path / "root", "kernel.tar")], "a tar")
        assert not left.exists()
        assert alive.exists()


# Kernels of this host, and their removal.


def test_a_build_has_to_be_whole_to_be_found(
    cache: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be adding it, or may have been killed while it did."""
    seen: list[Bootable] = []

    def finished(*arguments: Any) -> Bootable:
        made = ready(*arguments)
        seen.extend(cache.all())
        return made

    ready = cache._finished
    monkeypatch.setattr(cache, "_finished", finished)
    made = cache.add_archives([_tar(root(tmp_path / "root"), "kernel.tar")], "kernel.tar")
    assert seen == []
    assert cache.all() == [made]


def test_a_build_that_is_removed_during_the_listing_is_not_found(
    cache: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache.add_archives([_tar(root(tmp_path / "root"), "kernel.tar")], "kernel.tar")
    listed = list(Path.glob(cache.folder, "*/build.json"))
    cache.remove(made)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(listed))
    assert cache.all() == []


def test_installed_kernels_are_added_and_the_unusable_ones_named(
    cache: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = root(tmp_path / "system")
    (system / "boot/vmlinuz").symlink_to(f"vmlinuz-{RELEASE}")
    make.vmlinuz(system / "boot" / f"vmlinuz-{OTHER}", OTHER_BANNER)
    make.vmlinuz(system / "usr/lib/modules" / FEDORA / "vmlinuz", FEDORA_BANNER)
    shutil.copytree(
        system / "lib/modules" / RELEASE, system / "usr/lib/modules" / FEDORA, dirs_exist_ok=True
    )
    monkeypatch.setattr(adding, "ROOT", system)
    done = CliRunner().invoke(main, ["kernels", "add", "--installed"])
    assert done.exit_code == 0, done.output
    assert {each.build.release for each in cache.all()} == {RELEASE, FEDORA}
    assert f"left out: {system}/boot/vmlinuz-{OTHER} is kernel {OTHER}, but" in done.output


def test_a_host_without_kernels(
    cache: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "ROOT", tmp_path)
    done = CliRunner().invoke(main, ["kernels", "add", "--installed"])
    assert done.exit_code == KernelUnusable.exit_status
    assert "There is no image in /boot" in done.output


@pytest.mark.parametrize("words", [[], ["--installed", "/etc"], ["/etc", "/usr"]])
def test_arguments_that_cannot_be_a_kernel_are_bad_usage(cache: Store, words: list[str]) -> None:
    assert CliRunner().invoke(main, ["kernels", "add", *words]).exit_code == 2


def test_an_image_and_the_folder_of_its_modules(cache: Store, tmp_path: Path) -> None:
    vmlinuz = make.vmlinuz(tmp_path / "image" / "vmlinuz")
    done = add(vmlinuz, make.modules(tmp_path / "elsewhere" / RELEASE))
    assert done.exit_code == 0, done.output
    done = add(vmlinuz, make.modules(tmp_path / "elsewhere" / OTHER))
    assert done.exit_code == KernelUnusable.exit_status
    assert f"has no lib/modules/{RELEASE}" in done.output


def test_a_kernel_tree_that_was_built(cache: Store, tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    make.vmlinuz(tree / "arch/x86/boot/bzImage")
    modules = make.modules(tmp_path / "made" / RELEASE)
    to = f"$(INSTALL_MOD_PATH)/lib/modules/{RELEASE}"
    (tree / "Makefile").write_text(
        f"modules_install:\n\tmkdir -p {to}\n\tcp -r {modules}/. {to}\n\tln -s {tree} {to}/build\n"
    )
    done = add(tree)
    assert done.exit_code == 0, done.output
    (added,) = cache.all()
    assert (added.modules / "kvm.ko").is_file()
    assert not (added.modules / "build").is_symlink()


def test_a_folder_that_is_not_a_built_kernel_tree_is_refused_with_what_to_do(
    cache: Store, tmp_path: Path
) -> None:
    done = add(tmp_path)
    assert done.exit_code == KernelUnusable.exit_status
    assert "run `make` in it first" in done.output


def test_the_cache_has_a_size_and_a_removed_kernel_is_gone(
    cache: Store, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian's kernels do not matter here, and their lists take a while to read.
    monkeypatch.setattr("bench_lib.cli.kernels._refresh", lambda suites, *, always=False: None)
    folder = root(tmp_path / "root")
    (folder / "lib/modules" / RELEASE / "large.ko").write_bytes(bytes(3 << 20))
    add(_tar(folder, "kernel.tar"))
    listed = CliRunner().invoke(main, ["kernels", "list", "--json"])
    (row,) = [each for each in json.loads(listed.stdout) if each["fetched"]]
    assert 3 << 20 <= row["size_bytes"] < 4 << 20
    assert "The cache takes 3 MiB in" in CliRunner().invoke(main, ["kernels", "list"]).output
    done = CliRunner().invoke(main, ["kernels", "remove", RELEASE])
    assert done.output == f"removed {RELEASE}, 3 MiB\n"
    assert not kept(cache)
    again = CliRunner().invoke(main, ["kernels", "remove", RELEASE])
    assert again.exit_code == 43


def test_a_kernel_is_not_removed_while_a_lab_may_read_it(
    cache: Store, tmp_path: Path, runtime: Path
) -> None:
    add(_tar(root(tmp_path / "root"), "kernel.tar"))
    with ownership.measuring(runtime):
        done = CliRunner().invoke(main, ["kernels", "remove", RELEASE])
    assert done.exit_code == HostBusy.exit_status
    assert cache.find(RELEASE)


def test_a_name_of_two_builds_removes_neither(cache: Store, tmp_path: Path, runtime: Path) -> None:
    for number, banner in enumerate([make.BANNER, make.BANNER.replace("158", "159")]):
        folder = tmp_path / str(number)
        make.vmlinuz(folder / "boot/vmlinuz", banner)
        make.modules(folder / "lib/modules" / RELEASE)
        cache.add_archives([_tar(folder, f"{number}.tar")], "a tar")
    first, second = cache.all()
    done = CliRunner().invoke(main, ["kernels", "remove", RELEASE])
    assert done.exit_code == KernelAmbiguous.exit_status
    assert first.build.id[:12] in done.output
    assert cache.all() == [first, second]
    done = CliRunner().invoke(main, ["kernels", "remove", first.build.id[:12]])
    assert done.exit_code == 0, done.output
    assert cache.all() == [second]


def test_a_file_that_cannot_be_read_is_named(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    # Like a file of another user, which root could read.
    done = CliRunner().invoke(main, ["kernels", "add", "/proc/self/mem"])
    assert done.exit_code == FetchFailed.exit_status
    assert "mem could not be unpacked" in done.output


@pytest.mark.parametrize("name", [b"modules.builtin", b"caf\xe9.ko"])
def test_names_of_modules_may_be_in_any_encoding(cache: Store, tmp_path: Path, name: bytes) -> None:
    """depmod prints that the second is not an ELF file."""
    folder = root(tmp_path / "root")
    file = Path(os.fsdecode(os.fsencode(folder / "lib/modules" / RELEASE) + b"/" + name))
    file.write_bytes(b"kernel/caf\xe9.ko\n")
    done = add(_tar(folder, "kernel.tar"))
    assert done.exit_code == 0, done.output
    added = cache.find(RELEASE)
    assert added is not None
    assert Modules(added.modules).in_order(["9p"])
