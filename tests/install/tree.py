# SPDX-License-Identifier: BSD-3-Clause
"""Fresh trees of Debian, and commands in them with the rights of a container or of a machine.

mmdebstrap makes a tree from the host's mirror. Commands have their own mounts, process ids and
devices, which are gone when the commands end. The commands end with the process that started them,
even if it is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench_lib.kernel.store import Store
from bench_lib.settings import Settings

PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The certificates that the host trusts; its network may have its own authority."""

THEIRS = "/etc/certificates-of-the-host.crt"

KERNELS = Store.of(Settings.from_environment()).folder
"""The host's cache, which all trees share so that a kernel is downloaded once. Each tree still asks
its own apt which kernels exist."""

PATIENCE = {"KICKBENCH_LAB_BOOT": "600", "KICKBENCH_STAGING": "90"}
"""Longer limits, because an emulated machine is several times slower beside other work."""

ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--pid", "--ipc", "--uts", "--mount-proc", "--kill-child", "--"),
)
"""Starts a command whose processes and mounts end with it."""

# `ip netns` needs a root that is a mount point.
INSIDE = """
mount --bind "$TREE" "$TREE"
cd "$TREE"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for name in $DEVICES; do
    [ -e /dev/$name ] || continue
    : >dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p root/.cache/kickbench/kernels
mount --bind "$KERNELS" root/.cache/kickbench/kernels
eval "$MORE"
exec chroot . "$@"
"""


@dataclass(frozen=True)
class Rights:
    """What root may do in a tree.

    :ivar devices: the devices in /dev, if the host has them.
    :ivar script: run in the tree's folder, just before the command.
    :ivar prefix: the start of every command line.
    """

    devices: tuple[str, ...]
    script: str
    prefix: tuple[str, ...]


MACHINE = Rights(
    devices=("null", "zero", "full", "random", "urandom", "tty", "kvm", "fuse", "userfaultfd"),
    script="",
    prefix=(),
)
"""The rights of root on the host itself, including its network."""

_CAPABILITIES = (
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod",
    "net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot",
)  # fmt: skip

CONTAINER = Rights(
    devices=("null", "zero", "full", "random", "urandom", "tty"),
    script="""
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -o remount,bind,ro sys
mount -t tmpfs tmpfs sys/module
for module in kvm_amd kvm_intel; do
    mkdir -p sys/module/$module/parameters
    echo Y >sys/module/$module/parameters/nested
done
""",
    prefix=(
        "setpriv",
        "--inh-caps=-all",
        "--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in _CAPABILITIES)]),
        "--",
    ),
)
"""The rights that Docker and Podman leave to root by default, on a host whose KVM nests: /sys shows
the modules, but there is no /dev/kvm."""


@dataclass(frozen=True)
class Tree:
    """A tree. :ivar variables: part of the environment of all commands."""

    root: Path
    rights: Rights
    variables: dict[str, str] = field(default_factory=dict)

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in /builds; its stdout has its stderr too."""
        inner = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        inner |= {"HOME": "/root", **self.variables, **(env or {})}
        words = [f"{name}={value}" for name, value in inner.items()]
        return subprocess.run(
            [
                *ISOLATED,
                *("sh", "-ec", INSIDE, "sh"),
                *self.rights.prefix,
                *("env", "-i", "--chdir=/builds", *words),
                *command,
            ],
            env={
                **os.environ,
                "TREE": str(self.root),
                "KERNELS": str(KERNELS),
                "DEVICES": " ".join(self.rights.devices),
                "MORE": self.rights.script,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def fresh(suite: str, folder: Path, rights: Rights) -> Iterator[Tree]:
    """Make a tree of a suite, like a container image, and delete it at the end.

    :param folder: where to make it; it does not exist yet.
    """
    sources = "".join(f"{line}\n" for line in _sources(suite))
    try:
        subprocess.run(
            [*ISOLATED, "mmdebstrap", "--quiet", "--variant=apt", suite, folder, "-"],
            input=sources,
            text=True,
            check=True,
        )
        (folder / "builds").mkdir()
        KERNELS.mkdir(parents=True, exist_ok=True)
        shutil.copy("/etc/resolv.conf", folder / "etc" / "resolv.conf")
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, f"{folder}{THEIRS}")
            variables |= {"PIP_CERT": THEIRS, "SSL_CERT_FILE": THEIRS}
        yield Tree(folder, rights, variables)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sources(suite: str) -> list[str]:
    """The host's apt sources, changed for another suite."""
    here = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    places = sorted({tuple(line.split()) for line in here.splitlines()})
    # bookworm, bookworm-updates, bookworm-security
    own = min((codename for _, codename in places), key=len)
    return [
        f"deb {uri} {codename.replace(own, suite, 1)} main"
        for uri, codename in places
        if codename in {own, f"{own}-updates", f"{own}-security"}
    ]
