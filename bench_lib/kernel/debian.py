# SPDX-License-Identifier: BSD-3-Clause
"""Debian's kernels: list what the suites offer, and fetch one with apt, which checks signatures."""

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
    """A kernel that a suite offers.

    :ivar id: "", because the build's id is known only once it is in the cache.
    """

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
        """The size of the packages to download."""
        return sum(each.size for each in self.kernel.packages)

    def made(self, build: Bootable) -> bool:
        """Whether a build in the cache is this kernel, and not another build of its release."""
        found = build.build
        return found.release == self.release and f" {self.kernel.version} " in f"{found.version} "


def offers(suites: Suites) -> list[Offer]:
    """The kernels of all suites, oldest first; of several builds of a release, only the newest."""
    found: dict[str, Offer] = {}
    for suite in suites.all:
        for kernel in suite.kernels:
            other = found.get(kernel.release)
            if other is None or version_key(other.kernel.version) < version_key(kernel.version):
                found[kernel.release] = Offer(kernel, suite.name)
    return sorted(found.values(), key=lambda each: version_key(each.release))


def find(store: Store, offer: Offer) -> Bootable | None:
    """The offered kernel, if it is in the cache."""
    return next((each for each in store.all() if offer.made(each)), None)


def fetch(
    store: Store, suites: Suites, offer: Offer, on_bytes: Callable[[int, int], None]
) -> Bootable:
    """Download the packages of a kernel and unpack them into the cache.

    :param on_bytes: called repeatedly with the bytes that were received, and the total.
    :raise FetchFailed: the kernel could not be downloaded or unpacked; the cache is unchanged.
    :raise KernelUnusable: the lab cannot run trials under this kernel.
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
            lambda received: on_bytes(received, offer.bytes),
        )
        files = sorted(folder.glob("*.deb"))
        if failure or len(files) != len(kernel.packages):
            raise FetchFailed(
                f"linux-image-{kernel.release} of {offer.suite} could not be downloaded: "
                f"{failure or 'apt gave no reason'}. Debian may have dropped this build; "
                "`kickbench kernels list --refresh` lists the builds that it has now."
            )
        on_bytes(offer.bytes, offer.bytes)
        return store.add_archives(files, f"Debian {offer.suite}")


def _wanted(package: Package) -> str:
    return f"{package.name}={package.version}"
