# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import os
import platform
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench_lib.cli import main
from bench_lib.errors import FetchFailed, KernelUnusable, ProgramMissing
from bench_lib.kernel import image
from bench_lib.kernel.assembly import NEEDED
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable, Store
from bench_lib.lab import qemu
from bench_lib.lab.campaign import Campaign, schedule
from bench_lib.record import Host, Kernel, Record, RequestName, ScenarioName, Slot
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests import make
from tests.make import record


def test_the_release_of_a_kernel_is_read_from_its_image(tmp_path: Path) -> None:
    kernel = image.identity(make.vmlinuz(tmp_path / "vmlinuz"))
    assert kernel == Kernel(make.RELEASE, make.BANNER[make.BANNER.index("#") :])


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + b"\0" * 0x1000])
def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    with pytest.raises(KernelUnusable, match="not an x86 kernel image"):
        image.identity(path)


def test_a_kernel_without_the_modules_that_trials_need_is_refused_and_not_kept(
    tmp_path: Path,
) -> None:
    cache = Store(tmp_path / "cache")
    some = [name for name in NEEDED if name not in {"veth", "9p", "virtio_console"}]
    with pytest.raises(KernelUnusable, match=r"no 9p \(to mount this host's userland\), veth"):
        cache.add_image(
            make.vmlinuz(tmp_path / "vmlinuz"),
            make.modules(tmp_path / "modules" / make.RELEASE, some),
        )
    assert not list((tmp_path / "cache").iterdir())


def test_an_image_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelUnusable, match="modules are not in"):
        Store(tmp_path).add_image(make.vmlinuz(tmp_path / "vmlinuz"), tmp_path / "nowhere")


def test_a_build_is_kept_whole_and_found_again(tmp_path: Path) -> None:
    cache = Store(tmp_path / "cache")
    modules = make.modules(tmp_path / "modules" / make.RELEASE, [*NEEDED])
    added = cache.add_image(make.vmlinuz(tmp_path / "vmlinuz"), modules)
    again = cache.add_image(make.vmlinuz(tmp_path / "vmlinuz"), modules)
    assert cache.all() == [added] == [again]
    assert added.vmlinuz.is_file()
    assert (added.modules / "modules.dep").exists()
    assert cache.find(make.RELEASE) == added
    assert cache.find_build(added.build) == added


@pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
def test_modules_are_kept_in_one_place_whatever_the_packages_layout(
    tmp_path: Path, place: str
) -> None:
    root = tmp_path / "root"
    make.vmlinuz(root / "boot" / f"vmlinuz-{make.RELEASE}")
    make.modules(root / place / make.RELEASE)
    cache = Store(tmp_path / "cache")
    added = cache.add_archives([make.package(root)], "a package")
    assert cache.find(make.RELEASE) == added
    assert (added.folder / "lib" / "modules" / make.RELEASE / "modules.dep").is_file()
    assert added.modules == added.folder / "lib" / "modules" / make.RELEASE


def test_an_image_may_be_beside_its_modules_in_another_package(tmp_path: Path) -> None:
    image, modules = tmp_path / "image", tmp_path / "modules"
    make.vmlinuz(image / "usr" / "lib" / "modules" / make.RELEASE / "vmlinuz")
    make.modules(modules / "usr" / "lib" / "modules" / make.RELEASE)
    files = [make.package(image), make.package(modules)]
    added = Store(tmp_path / "cache").add_archives(files, "two packages")
    assert added.vmlinuz.is_file()
    assert (added.modules / "modules.dep").is_file()


def test_a_package_may_lack_lists_of_its_modules(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make.vmlinuz(root / "boot" / f"vmlinuz-{make.RELEASE}")
    modules = make.modules(root / "usr" / "lib" / "modules" / make.RELEASE)
    (modules / "modules.order").unlink()
    (modules / "modules.builtin").unlink()
    added = Store(tmp_path / "cache").add_archives([make.package(root)], "a package")
    assert (added.modules / "modules.dep").is_file()


def test_a_package_without_modules_is_refused_and_not_kept(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make.vmlinuz(root / "boot" / f"vmlinuz-{make.RELEASE}")
    with pytest.raises(KernelUnusable, match=r"no lib/modules/.* and no usr/lib/modules/"):
        Store(tmp_path / "cache").add_archives([make.package(root)], "a package")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
def test_modules_are_found_beside_an_image(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    vmlinuz = make.vmlinuz(tmp_path / "root" / "boot" / "vmlinuz")
    make.modules(tmp_path / "root" / place / make.RELEASE)
    done = CliRunner().invoke(main, ["kernels", "add", str(vmlinuz)])
    assert done.exit_code == 0, done.output
    assert Store.of(Settings.from_environment()).find(make.RELEASE)


def test_a_package_that_cannot_be_unpacked_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    package = tmp_path / "broken.deb"
    package.write_bytes(b"!<arch>\nbroken")
    with pytest.raises(FetchFailed, match=r"broken\.deb cannot be unpacked"):
        Store(tmp_path / "cache").add_archives([package], "broken.deb")
    assert not list((tmp_path / "cache").iterdir())


def test_modules_are_not_kept_if_depmod_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depmod = tmp_path / "bin" / "depmod"
    depmod.parent.mkdir()
    # Like tar on a full disk: one line per file.
    depmod.write_text("#!/bin/sh\necho no room >&2; seq 9000 >&2; echo gave up >&2; exit 1\n")
    depmod.chmod(0o755)
    monkeypatch.setenv("PATH", str(depmod.parent), prepend=os.pathsep)
    modules = make.modules(tmp_path / "modules" / make.RELEASE, [*NEEDED])
    with pytest.raises(FetchFailed, match=r"depmod.* failed: no room; gave up$"):
        Store(tmp_path / "cache").add_image(make.vmlinuz(tmp_path / "vmlinuz"), modules)
    assert not list((tmp_path / "cache").iterdir())


def test_a_missing_depmod_is_reported_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    modules = make.modules(tmp_path / "modules" / make.RELEASE, [*NEEDED])
    vmlinuz = make.vmlinuz(tmp_path / "vmlinuz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match=r"depmod is not installed; .* kmod"):
        Store(tmp_path / "cache").add_image(vmlinuz, modules)


def test_boots_are_interleaved() -> None:
    assert "".join(schedule("AB", 4)) == "ABBABAAB"
    assert "".join(schedule("ABC", 2)) == "ABCCBA"


def _campaign(boots: int = 2, name: str = "") -> Campaign:
    kernels = [
        Bootable(describe(Kernel(release, make.BANNER)), "", Path("/nowhere"))
        for release in ("6.1.0", "6.12.0")
    ]
    return Campaign(kernels, boots, [Case(ScenarioName.IDLE, RequestName.STOP)], name)


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "accelerator", lambda: "tcg")


def _made_here(slot: Slot | None) -> Record:
    return dataclasses.replace(record(), slot=slot, host=Host("lab", "tcg", platform.node()))


def test_a_campaign_continues_with_its_missing_boots() -> None:
    campaign = _campaign()
    assert [number for number, _ in campaign.missing([])] == [0, 1, 2, 3]
    kept = [
        _made_here(Slot(campaign.id, 0)),
        _made_here(Slot(campaign.id, 2)),
        _made_here(Slot("another", 1)),
        _made_here(None),
    ]
    left = campaign.missing(kept)
    assert [number for number, _ in left] == [1, 3]
    assert [kernel.build.release for _, kernel in left] == ["6.12.0", "6.1.0"]


def test_boots_of_another_host_do_not_count_for_this_hosts_campaign() -> None:
    campaign = _campaign()
    here = _made_here(Slot(campaign.id, 0))
    others = [
        dataclasses.replace(here, slot=Slot(campaign.id, 1), host=host)
        for host in (Host("lab", "tcg", "another"), Host("lab", "kvm", here.host.machine))
    ]
    assert campaign.made([here, *others]) == [here]
    assert [number for number, _ in campaign.missing([here, *others])] == [1, 2, 3]


def test_the_same_campaign_has_the_same_id() -> None:
    assert _campaign().id == _campaign().id
    assert len({_campaign().id, _campaign(3).id, _campaign(name="again").id}) == 3
