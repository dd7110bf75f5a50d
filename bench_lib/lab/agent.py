# SPDX-License-Identifier: BSD-3-Clause
"""The lab's agent: process 1, which runs the commands that arrive over a virtio port.

init.sh executes the agent with this Python and the standard library alone. The agent imports as
few modules as possible, because under emulation an import takes up to a quarter of a second. It
sends and receives one message per line: a word, a space, and a body.

    to the host    ready RELEASE, VERSION, ACCELERATOR, and what is missing
                   out BYTES    err BYTES    exit STATUS    alive
    from the host  run DIRECTORY, ARGC, ARGV, and ENVIRONMENT

A body is base64. BYTES are the output of a command. Every other body consists of strings that each
end with a NUL. ENVIRONMENT has strings as in environ(7).
"""

import binascii
import fcntl
import os
import select
import sys

PORT = "kickbench.agent"
"""The name of the agent's virtio port."""
ALIVE_S = 5
"""Seconds without output after which the agent sends `alive`."""
CHUNK = 32768
FIONREAD = 0x541B
IGNORED_BY_PYTHON = (13, 25)  # SIGPIPE and SIGXFSZ; importing the module signal is slow
CANNOT_RUN = 127
"""The exit status of a command that cannot be started, as in a shell."""


def find_port() -> int:
    """Open the agent's virtio port, and return its descriptor."""
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
    """Join strings into a body; each ends with a NUL."""
    return b"".join(os.fsencode(each) + b"\0" for each in strings)


def accelerator() -> str:
    """The accelerator of this lab. Under TCG, QEMU names it in the CPU's model."""
    with open("/proc/cpuinfo") as file:
        return "tcg" if "QEMU TCG CPU" in file.read() else "kvm"


def missing() -> list[str]:
    """What trials need and this kernel does not provide."""
    lacks = [] if os.path.exists("/dev/kvm") else ["kvm (no /dev/kvm)"]
    if not os.path.exists("/sys/module/veth"):
        lacks.append("veth")
    return lacks


def start(strings: list[bytes], outputs: list[int]) -> int:
    """Start a command, and return its pid.

    :param strings: the body of a `run` message.
    :param outputs: the descriptors for the command's stdout and stderr.
    :raise OSError: the command cannot be started.
    """
    directory, argc, *rest = strings
    argv, environ = rest[: int(argc)], rest[int(argc) :]
    env = dict(each.split(b"=", 1) for each in environ)
    # posix_spawnp takes the working directory and the search path of this process.
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
    """The number of bytes that can be read without waiting."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def reap(command: int = 0) -> None:
    """Reap orphans, which became children of this process, but not the command itself.

    Orphans that died after the command may have to wait for the next call.

    :param command: the command's pid, or 0 once it has been reaped.
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
    """Run a command to its end, and send its output and signs of life.

    Only the exit of the command ends the run: closing its output does not, and a descendant that
    keeps the output open does not prolong it.

    :return: the exit status, negative for the signal that ended the command.
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
    # Send the output up to now; a descendant could write forever.
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
    """Serve the host until it closes the port. Then the kernel panics, because process 1 exits."""
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
