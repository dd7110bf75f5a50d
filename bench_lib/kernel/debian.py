# SPDX-License-Identifier: BSD-3-Clause
"""Debian's kernels: which the suites offer, and getting one with apt, which checks signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench_lib.errors import FetchFailed
from bench_lib.kernel import apt
from bench_lib.kernel.ledger import version_key
from bench_lib.kernel.packages import Package, PackagedKernel
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suites
from bench_lib.kernel.version import debian_stream


@dataclass(frozen=True)
class Offer:
    """A kernel that a suite has. :ivar id: "", because the build is not here yet."""

    kernel: PackagedKernel
    suite: str
    id: str = ""

    @property
    def release(self) -> str:
        return self.kernel.release

    @property
    def stream(self) -> str:
        return debian_stream(self.release)

    @property
    def bytes(self) -> int:
        """What there is to download."""
        return sum(each.size for each in self.kernel.packages)

    def made(self, build: Bootable) -> bool:
        """Whether a build in the cache is this kernel, and not another build of its release."""
        said = build.build
        return said.release == self.release and f" {self.kernel.version} " in f"{said.version} "


def offers(suites: Suites) -> list[Offer]:
    """The kernels of all suites, oldest first; of several builds of a release the newest."""
    found: dict[str, Offer] = {}
    for suite in suites.all:
        for kernel in suite.kernels:
            there = found.get(kernel.release)
            if there is None or version_key(there.kernel.version) < version_key(kernel.version):
                found[kernel.release] = Offer(kernel, suite.name)
    return sorted(found.values(), key=lambda each: version_key(each.release))


def find(store: Store, offer: Offer) -> Bootable | None:
    """The offered kernel, if it is in the cache."""
    return next((each for each in store.all() if offer.made(each)), None)


def fetch(
    store: Store, suites: Suites, offer: Offer, on_bytes: Callable[[int, int], None]
) -> Bootable:
    """Download the packages of a kernel and unpack them into the cache.

    :param on_bytes: called now and then with the bytes that are there and those to come.
    :raise FetchFailed: it could not be had; the cache is as it was.
    """
    kernel = offer.kernel
    with store.new_folder() as folder:
        (failure,) = apt.finish(
            [
                suites.lists(offer.suite).download(
                    [_wanted(each) for each in kernel.packages], folder
                )
            ],
            f"linux-image-{kernel.release}",
            lambda: apt.bytes_in(folder),
            lambda there: on_bytes(there, offer.bytes),
        )
        files = sorted(folder.glob("*.deb"))
        if failure or len(files) != len(kernel.packages):
            raise FetchFailed(
                f"linux-image-{kernel.release} of {offer.suite} could not be downloaded: "
                f"{failure or 'apt gave no reason'}. If the archive has dropped it, "
                "`kickbench kernels list --refresh` shows what there is."
            )
        on_bytes(offer.bytes, offer.bytes)
        return store.add_archives(files, f"Debian {offer.suite}")


def _wanted(package: Package) -> str:
    return f"{package.name}={package.version}"
