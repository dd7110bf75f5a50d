# SPDX-License-Identifier: BSD-3-Clause
"""Unpack the QEMU of another Debian suite into a folder, to run trials or the lab with it.

    .venv/bin/python tools/unpack_qemu.py SUITE FOLDER

The tool downloads QEMU and every library that it needs from the Debian mirror that this host uses.
It installs nothing. FOLDER gets a program with QEMU's usual name that starts this QEMU, and the
tool prints its path. FOLDER cannot be moved; delete it when it is no longer needed.
"""

import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from bench_lib import architecture
from bench_lib.errors import FetchFailed, KickbenchError, UsageError
from bench_lib.kernel import apt
from bench_lib.kernel.suites import Suites
from bench_lib.process import run_tool
from bench_lib.settings import Settings

PACKAGE = "qemu-system-x86"

WRAPPER = """\
#!/bin/sh
# Starts QEMU of Debian {suite} with its own libraries; made by kickbench's tools/unpack_qemu.py.
# Without this, QEMU would look for its modules beside the program that the kernel executes, which
# is the loader.
export QEMU_MODULE_DIR={modules}
# exec, so that the process that the caller started becomes QEMU.
exec {loader} --library-path {libraries} {qemu} {data} "$@"
"""

DATA = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
"""The folders of the firmware of QEMU's machines in Debian's packages."""


@click.command()
@click.argument("suite")
@click.argument("folder", type=click.Path(path_type=Path))
def main(suite: str, folder: Path) -> None:
    """Unpack QEMU of the Debian SUITE into FOLDER, and print the program that starts it."""
    try:
        click.echo(_unpacked(suite, folder.absolute()))
    except KickbenchError as error:
        click.echo(f"unpack_qemu: {error}", err=True)
        sys.exit(error.exit_status)


def _unpacked(name: str, folder: Path) -> Path:
    """Unpack QEMU, and return the path of the program that starts it.

    :param name: the suite's name or alias.
    :raise UsageError: the folder exists, or the suite is unknown.
    :raise FetchFailed: QEMU could not be downloaded.
    :raise ToolFailed: QEMU's dependencies cannot be met, or a package cannot be unpacked.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists; name a folder that does not exist yet.")
    suites = Suites.of(Settings.from_environment())
    if suites.stale:
        suites.refresh(lambda _: None)
    readable = [each for each in suites.all if each.read]
    suite = next((each for each in readable if name in each.names), None)
    if suite is None:
        known = ", ".join(dict.fromkeys(each.names[0] for each in readable)) or "none"
        why = " ".join(suites.remarks())
        raise UsageError(f"No suite {name} can be read here; suites that can be: {known}. {why}")
    with tempfile.TemporaryDirectory() as packages:
        debs = _downloaded(suites.lists(suite.name), Path(packages))
        try:
            for deb in debs:
                run_tool(["dpkg-deb", "--extract", str(deb), str(folder)])
            return _wrapper(folder, suite.name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _downloaded(lists: apt.Apt, into: Path) -> list[Path]:
    """Download QEMU and all its dependencies, as for a system on which nothing is installed."""
    settings = str(lists.lists.parent / "apt.conf")
    command = ["apt-get", "-c", settings, "--simulate", "--no-install-recommends", "install"]
    output = run_tool([*command, PACKAGE])
    planned = re.findall(r"^Inst (\S+) \((\S+)", output, re.MULTILINE)
    wanted = [f"{name}={version}" for name, version in planned]
    click.echo(f"unpack_qemu: downloading {len(wanted)} packages", err=True)
    (failure,) = apt.finish(
        [lists.download(wanted, into)], PACKAGE, lambda: apt.bytes_in(into), lambda _: None
    )
    if failure:
        raise FetchFailed(f"{PACKAGE} could not be downloaded: {failure}.")
    return sorted(into.glob("*.deb"))


def _wrapper(folder: Path, suite: str) -> Path:
    """Write the program that starts QEMU with its own loader, and return its path."""
    name = architecture.for_trials().qemu
    qemu = folder / "usr" / "bin" / name
    with qemu.open("rb") as file:
        segments = ELFFile(file).iter_segments("PT_INTERP")
        interpreter = next(each for each in segments if isinstance(each, InterpSegment))
        loader_name = Path(interpreter.get_interp_name()).name
    # Not at the path in the program, because lib64 may be a link that leads out of the folder.
    (loader,) = {path.resolve() for path in folder.glob(f"**/lib/*/{loader_name}")}
    libraries = [folder / lib / loader.parent.name for lib in ("lib", "usr/lib")]
    # The kernel names the process after the file that it executes.
    start = folder / "loader" / name
    start.parent.mkdir()
    start.symlink_to(loader)
    data = [word for path in DATA for word in ("-L", str(folder / path))]
    wrapper = folder / name
    wrapper.write_text(
        WRAPPER.format(
            suite=suite,
            modules=shlex.quote(str(libraries[1] / "qemu")),
            loader=shlex.quote(str(start)),
            libraries=shlex.quote(":".join(map(str, libraries))),
            qemu=shlex.quote(str(qemu)),
            data=shlex.join(data),
        )
    )
    wrapper.chmod(0o755)
    return wrapper


if __name__ == "__main__":
    main()
