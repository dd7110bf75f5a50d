# SPDX-License-Identifier: BSD-3-Clause
"""Two network namespaces joined by a veth, from which nothing else can be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import NamespacesUnavailable, ToolFailed
from bench_lib.ownership import Run
from bench_lib.process import in_network_namespace, run_tool, run_tools

INTERFACE = "veth0"
"""The name of the interface in both namespaces."""

NAMESPACES = Path("/run/netns")
"""The folder in which ip-netns(8) keeps named namespaces."""


@dataclass(frozen=True)
class End:
    """One namespace and its end of the veth.

    :ivar fd: a descriptor of the namespace.
    :ivar address: the IPv4 address, from 192.0.2.0/24, which RFC 5737 reserves for documentation.
    """

    namespace: str
    fd: int
    address: str

    def udp_socket(self) -> socket.socket:
        """Make a non-blocking UDP socket in the namespace, bound to the address."""
        with in_network_namespace(self.fd):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        made.bind((self.address, 0))
        return made

    def set(self, name: str, value: int) -> None:
        """Set a sysctl of the namespace.

        :param name: the name as in sysctl(8), such as net.ipv4.tcp_retries2.
        """
        with in_network_namespace(self.fd):
            Path("/proc/sys", *name.split(".")).write_text(str(value))


@dataclass(frozen=True)
class Link:
    """A link between the two sides of a migration."""

    source: End
    destination: End

    @property
    def ends(self) -> tuple[End, End]:
        return self.source, self.destination


@contextmanager
def joined(run: Run, seq: int) -> Iterator[Link]:
    """Make the namespaces and the veth of trial `seq`, and delete them when the context is left.

    :raise NamespacesUnavailable: they cannot be made here.
    """
    names = run.name(seq, "source"), run.name(seq, "destination")
    addresses = "192.0.2.1", "192.0.2.2"
    with ExitStack() as stack:
        stack.callback(delete, *names)
        try:
            run_tool(
                ["ip", "-batch", "-"],
                stdin="".join(f"netns add {name}\n" for name in names)
                + f"link add {INTERFACE} netns {names[0]} type veth "
                + f"peer name {INTERFACE} netns {names[1]}\n",
            )
            run_tools(
                [["ip", "-netns", name, "-batch", "-"] for name in names],
                stdin=[
                    f"address add {address}/30 dev {INTERFACE}\n"
                    f"link set {INTERFACE} up\nlink set lo up\n"
                    for address in addresses
                ],
            )
        except ToolFailed as error:
            raise NamespacesUnavailable(
                "Network namespaces joined by a veth cannot be made here: "
                f"{str(error).rstrip('.')}. {_advice(str(error))}"
            ) from None
        fds = []
        for name in names:
            fd = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fds.append(fd)
        yield Link(End(names[0], fds[0], addresses[0]), End(names[1], fds[1], addresses[1]))


def _advice(error: str) -> str:
    """Return what to do about an error of ip(8)."""
    # ip-netns(8) makes all mounts of its mount namespace slaves.
    if "--make-rslave /" in error:
        return "In a chroot, `/` has to be a mount point: `mount --bind` its folder on itself."
    if os.geteuid() != 0:
        return "Run kickbench as root."
    return "The kernel needs network namespaces and veth, and root the right to make them."


def delete(*names: str) -> None:
    """Delete those of the named namespaces that exist, with the interfaces in them."""
    there = [name for name in names if (NAMESPACES / name).exists()]
    if there:
        with suppress(ToolFailed):
            # -force: go on with the next namespace if one cannot be deleted.
            run_tool(
                ["ip", "-force", "-batch", "-"],
                stdin="".join(f"netns delete {name}\n" for name in there),
            )


def existing() -> list[str]:
    """Return the names of all named network namespaces on this machine, not only of kickbench's."""
    return sorted(path.name for path in NAMESPACES.iterdir()) if NAMESPACES.is_dir() else []
