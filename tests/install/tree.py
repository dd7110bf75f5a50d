# SPDX-License-Identifier: BSD-3-Clause
"""Fresh trees of Debian, and commands in them with no more rights than a container has.

A tree is made with mmdebstrap from the host's own mirror. Commands have mounts, process ids and
devices of their own, which are gone when they end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CAPABILITIES = (
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod",
    "net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot",
)  # fmt: skip
"""What Docker and Podman leave to root unless told otherwise."""

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""What they give it. /dev/kvm is not among them."""

PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Those that the host trusts; its network may have an authority of its own."""

THEIRS = "/etc/certificates-of-the-host.crt"

INSIDE = """
cd "$TREE"
mount --make-rprivate /
mount --bind . .
cd "$TREE"
mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for name in $DEVICES; do : >dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs sys/module
for module in kvm_amd kvm_intel; do
    mkdir -p sys/module/$module/parameters
    echo Y >sys/module/$module/parameters/nested
done
exec chroot . setpriv --inh-caps=-all --bounding-set="$BOUNDS" -- "$@"
"""
"""A container on a host whose KVM nests: /sys shows the modules, and there is no device."""


@dataclass(frozen=True)
class Tree:
    """A tree. :ivar variables: the environment of all commands."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, in /builds; stdout and stderr come together."""
        bounds = ",".join(["-all", *(f"+{name}" for name in CAPABILITIES)])
        inner = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        inner |= {"HOME": "/root", **self.variables, **(env or {})}
        words = [f"{name}={value}" for name, value in inner.items()]
        return subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"),
                *("sh", "-ec", INSIDE, "sh"),
                *("env", "-i", "--chdir=/builds", *words),
                *command,
            ],
            env={
                **os.environ,
                "TREE": str(self.root),
                "DEVICES": " ".join(DEVICES),
                "BOUNDS": bounds,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def fresh(suite: str, folder: Path) -> Iterator[Tree]:
    """A tree of a suite, such as a container image is; deleted at the end.

    :param folder: is made.
    """
    sources = "".join(f"{line}\n" for line in _sources(suite))
    try:
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", suite, folder, "-"],
            input=sources,
            text=True,
            check=True,
        )
        (folder / "builds").mkdir()
        shutil.copy("/etc/resolv.conf", folder / "etc" / "resolv.conf")
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, f"{folder}{THEIRS}")
            variables |= {"PIP_CERT": THEIRS, "SSL_CERT_FILE": THEIRS}
        yield Tree(folder, variables)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sources(suite: str) -> list[str]:
    """The host's own sources, for another suite."""
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
