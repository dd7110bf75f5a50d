# SPDX-License-Identifier: BSD-3-Clause
"""The first process of a lab: runs the commands that come in over a virtio port.

init.sh turns into it, with this Python and nothing but the standard library. It imports as little
of that as will do, because under emulation an import takes up to a quarter of a second. It sends
and receives one message per line: a word, a space, and a body.

    to the host    ready RELEASE, VERSION, ACCELERATOR, and what is missing
                   out BYTES    err BYTES    exit STATUS    alive
    from the host  run DIRECTORY, ARGC, ARGV, and ENVIRONMENT

A body is base64. BYTES is what a command has written; all other bodies are strings, each of which
ends with a NUL. ENVIRONMENT is strings as in environ(7).
"""

import binascii
import fcntl
import os
import select
import sys

PORT = "kickbench.agent"
ALIVE_S = 5
CHUNK = 32768
FIONREAD = 0x541B
IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE and SIGXFSZ; the module signal is slow to import
CANNOT_RUN = 127
"""Exit status of a command that cannot be started, as in a shell."""


def find_port() -> int:
    """Open our port."""
    base = "/sys/class/virtio-ports"
    for name in os.listdir(base):
        with open(f"{base}/{name}/name") as file:
            if file.read().strip() == PORT:
                return os.open(f"/dev/{name}", os.O_RDWR)
    raise OSError(f"there is no virtio port {PORT}")


def send(port: int, word: str, body: bytes = b"") -> None:
    """Send one message to the host."""
    data = word.encode() + b" " + binascii.b2a_base64(body)
    while data:
        data = data[os.write(port, data) :]


def joined(strings: list[str]) -> bytes:
    """A body of strings."""
    return b"".join(os.fsencode(each) + b"\0" for each in strings)


def accelerator() -> str:
    """What this machine runs on: TCG names itself as the processor."""
    with open("/proc/cpuinfo") as file:
        return "tcg" if "QEMU TCG CPU" in file.read() else "kvm"


def missing() -> list[str]:
    """What trials need and this kernel has not given."""
    lacks = [] if os.path.exists("/dev/kvm") else ["kvm (no /dev/kvm)"]
    if not os.path.exists("/sys/module/veth"):
        lacks.append("veth")
    return lacks


def start(strings: list[bytes], outputs: list[int]) -> int:
    """Start a command; its pid.

    :param strings: the body of a `run` message.
    :param outputs: its stdout and stderr.
    """
    directory, argc, *rest = strings
    argv, environ = rest[: int(argc)], rest[int(argc) :]
    env = dict(each.split(b"=", 1) for each in environ)
    # posix_spawn offers neither a directory nor another search path than ours.
    try:
        os.chdir(directory)
    except OSError as error:
        where = os.fsdecode(directory)
        raise OSError(error.errno, f"the lab cannot go to {where} ({error.strerror})") from None
    os.environb[b"PATH"] = env.get(b"PATH", os.fsencode(os.defpath))
    files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    dups = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(outputs, 1)]
    return os.posix_spawnp(
        argv[0], argv, env, file_actions=[*files, *dups], setsigdef=IGNORED_BY_PYTHON
    )


def written(fd: int) -> int:
    """How many bytes there are to read."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def reap(command: int = 0) -> None:
    """Reap what a command has left behind, which became ours, and leave the command itself.

    What has died after the command may have to wait for the next call.

    :param command: 0 once it has been reaped.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == command:
            return
        os.waitpid(found.si_pid, 0)


def run(port: int, strings: list[bytes]) -> int:
    """Run a command, and send what it writes and that it lives; its exit status.

    It is over when the command has ended: not before, if it has closed its output, and not later,
    if something that it has started keeps that open.

    :return: negative for the signal that ended it.
    """
    pipes = {"out": os.pipe(), "err": os.pipe()}
    names = {reading: name for name, (reading, _) in pipes.items()}
    try:
        pid = start(strings, [writing for _, writing in pipes.values()])
    except OSError as error:
        name = os.fsdecode(strings[2])
        send(port, "err", f"{name} cannot be started: {error.strerror}\n".encode())
        for fd in names:
            os.close(fd)
        return CANNOT_RUN
    finally:
        for _, writing in pipes.values():
            os.close(writing)
    end = os.pidfd_open(pid)

    def send_on(fd: int, size: int) -> int:
        data = os.read(fd, size)
        if data:
            send(port, names[fd], data)
        return len(data)

    streams = list(names)
    while True:
        ready, _, _ = select.select([*streams, end], [], [], ALIVE_S)
        if not ready:
            send(port, "alive")
        reap(pid)
        if end in ready:
            break
        for fd in ready:
            if not send_on(fd, CHUNK):
                streams.remove(fd)
    # What was written until then, and no more.
    for fd in streams:
        left = written(fd)
        while left > 0:
            left -= send_on(fd, min(left, CHUNK))
    for fd in (end, *names):
        os.close(fd)
    status = os.waitpid(pid, 0)[1]
    reap()
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Serve the host until it hangs up; then the kernel panics, as without its first process."""
    port = find_port()
    uname = os.uname()
    send(port, "ready", joined([uname.release, uname.version, accelerator(), *missing()]))
    pending = b""
    while data := os.read(port, 65536):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            _, _, body = line.partition(b" ")
            status = run(port, binascii.a2b_base64(body).split(b"\0")[:-1])
            send(port, "exit", joined([str(status)]))


if __name__ == "__main__":
    main()
