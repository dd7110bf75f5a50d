"""Runs inside the lab: prepares it, and runs the commands that come in over a virtio port.

Started by path, with nothing but the standard library and as little of that as will do: under
emulation every import is a tenth of a second. Speaks JSON, a message a line:

    to the host    {"ready": {...}}   {"out": base64}   {"err": base64}   {"exit": status}
                   {"alive": true}    {"fatal": why}
    from the host  {"run": argv, "cwd": path, "env": {...}}
"""

import base64
import ctypes
import fcntl
import json
import os
import select
import subprocess
import sys

PORT = "kickbench.agent"
ROOT = "/run/kickbench-lab"
ALIVE_S = 5
CHUNK = 32768
KVM_CREATE_VM = 0xAE01
FIONREAD = 0x541B
MS_RDONLY, MS_BIND, MS_REC = 1, 4096, 16384
NINE_P = "trans=virtio,version=9p2000.L,msize=524288,access=any"

libc = ctypes.CDLL(None, use_errno=True)


def mount_on(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Make the target and mount there."""
    os.makedirs(target, exist_ok=True)
    words = [word.encode() for word in (source, target, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount of {source} on {target}: {os.strerror(code)}")


def hold_virtual_machine() -> int | None:
    """Make a virtual machine that stays for as long as we do; None without KVM.

    With its first virtual machine KVM patches the scheduler, and back after its last
    (preempt_notifier_key). With one that stays, trials patch nothing; see start_other_cpus().
    """
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR)
        return fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    except OSError:
        return None


def start_other_cpus() -> None:
    """Start the CPUs that the kernel was told to leave alone while it boots.

    A kernel patches its own code as it comes up. Under emulation on several CPUs, one of them now
    and then still runs the breakpoint of such a patch when it is done, and the kernel panics in
    an int3 that nobody knows. So what patches is done before there is a second CPU.
    """
    base = "/sys/devices/system/cpu"
    for name in os.listdir(base):
        path = f"{base}/{name}/online"
        if name.startswith("cpu") and os.path.exists(path):
            with open(path, "w") as file:
                file.write("1")


def find_port() -> int:
    """The device of our port. udev would name it; asking the kernel is quicker."""
    base = "/sys/class/virtio-ports"
    for name in os.listdir(base):
        with open(f"{base}/{name}/name") as file:
            if file.read().strip() == PORT:
                return os.open(f"/dev/{name}", os.O_RDWR)
    raise OSError(f"there is no virtio port {PORT}")


def send(port: int, message: dict[str, object]) -> None:
    """One message to the host."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def prepare(share: str) -> None:
    """Load modules, and build the root that commands run in.

    It is this userland once more, but cached (virtme-ng's own mount of it is not, so every start
    of a program reads it again) and with a layer of memory over it, so that all of it can be
    written and none of it is.
    """
    with open("/proc/cpuinfo") as file:
        kvm = "kvm-amd" if " svm " in file.read() else "kvm-intel"
    modules = ["overlay", "veth", "sch_netem", kvm]
    subprocess.run(["modprobe", "--all", "--quiet", *modules], check=False)
    mount_on("kickbench-root", f"{ROOT}/lower", "9p", MS_RDONLY, f"{NINE_P},cache=loose")
    mount_on("tmpfs", f"{ROOT}/layer", "tmpfs")
    for name in ("upper", "work"):
        os.mkdir(f"{ROOT}/layer/{name}")
    layers = f"lowerdir={ROOT}/lower,upperdir={ROOT}/layer/upper,workdir={ROOT}/layer/work"
    mount_on("overlay", f"{ROOT}/root", "overlay", 0, layers)
    for name in ("proc", "sys", "dev", "run"):
        mount_on(f"/{name}", f"{ROOT}/root/{name}", "none", MS_BIND | MS_REC)
    mount_on("kickbench-share", f"{ROOT}/root{share}", "9p", 0, NINE_P)


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


def enter(cwd: str) -> None:
    """Into the root that `prepare` has built."""
    os.chroot(f"{ROOT}/root")
    os.chdir(cwd)


def written(fd: int) -> int:
    """How many bytes there are to read."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def run(port: int, request: dict[str, object]) -> int:
    """Run a command and send on what it writes, and that it lives; its exit status.

    It is over when it has ended: not before, if it has closed its output, and not later, if
    something that it has started keeps that open.
    """
    argv, env, cwd = request["run"], request["env"], str(request["cwd"])
    assert isinstance(argv, list)
    assert isinstance(env, dict)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=lambda: enter(cwd),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
    end = os.pidfd_open(process.pid)

    def send_on(fd: int, size: int) -> int:
        data = os.read(fd, size)
        if data:
            send(port, {streams[fd]: base64.b64encode(data).decode()})
        return len(data)

    while True:
        ready, _, _ = select.select([*streams, end], [], [], ALIVE_S)
        if not ready:
            send(port, {"alive": True})
        if end in ready:
            break
        for fd in ready:
            if not send_on(fd, CHUNK):
                del streams[fd]
    # What was written until then, and no more.
    for fd in streams:
        left = written(fd)
        while left > 0:
            left -= send_on(fd, min(left, CHUNK))
    os.close(end)
    process.stdout.close()
    process.stderr.close()
    return process.wait()


def main(share: str) -> None:
    """Serve the host until it hangs up."""
    port = find_port()
    try:
        prepare(share)
    except OSError as error:
        send(port, {"fatal": str(error)})
        return
    hold_virtual_machine()
    start_other_cpus()
    uname = os.uname()
    send(
        port,
        {
            "ready": {
                "release": uname.release,
                "version": uname.version,
                "accelerator": accelerator(),
                "missing": missing(),
            }
        },
    )
    pending = b""
    while True:
        data = os.read(port, 65536)
        if not data:  # the host has hung up
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            try:
                status = run(port, json.loads(line))
            except (OSError, subprocess.SubprocessError) as error:
                send(port, {"err": base64.b64encode(f"{error}\n".encode()).decode()})
                status = 127
            send(port, {"exit": status})


if __name__ == "__main__":
    main(sys.argv[1])
