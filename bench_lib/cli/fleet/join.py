# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet join: make this host a part of a fleet."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bench_lib import interrupt
from bench_lib.errors import Interrupted, LeftoversRemain, UsageError
from bench_lib.fleet import address as addresses
from bench_lib.fleet import cpus, unit
from bench_lib.fleet.bundle import Role, require_extra
from bench_lib.fleet.work import Kind
from bench_lib.host import needs
from bench_lib.host.need import Need
from bench_lib.settings import Settings
from bench_lib.trial import leftovers


@click.command("join")
@click.argument("address")
@click.option(
    "--labs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Make only boots in labs, N at once. By default one boot is made at a time, in a lab or "
    "under the booted kernel.",
)
@click.option(
    "--cpu",
    type=click.IntRange(min=0),
    metavar="N",
    help="The CPU that the worker itself uses; by default the last. Trials use the others if there "
    "are two or more.",
)
@click.option(
    "--reboot",
    metavar="COMMAND",
    help="Let the fleet boot this host into other kernels: COMMAND is run with the release of the "
    "kernel as its last argument. It has to return before the host goes down.",
)
@click.option(
    "--certificates",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="FOLDER",
    help="The folder of this host's certificate; by default KICKBENCH_CERTIFICATES.",
)
@click.option(
    "--install",
    is_flag=True,
    help="Write a systemd unit that does this at each boot, show it, and start nothing.",
)
def join(
    address: str,
    labs: int | None,
    cpu: int | None,
    reboot: str | None,
    certificates: Path | None,
    install: bool,
) -> None:
    """Make this host a part of a fleet.

    It makes the boots that the coordinator at ADDRESS (HOST or HOST:PORT) gives to it, until it is
    ended. If the connection is lost, what runs is ended, and the host joins again as soon as it
    can. The host keeps no records: the coordinator has them.

    Whoever has a certificate of the fleet is root on this host.

    \b
    Examples:
      kickbench fleet join lab1.example.org:8786
      kickbench fleet join lab1.example.org:8786 --labs 4
      kickbench fleet join lab1.example.org:8786 --install
      kickbench fleet join lab1.example.org:8786 --reboot /root/boot-into

    Exits 0 after Ctrl-C or SIGTERM, once everything has ended.
    """
    require_extra()
    url = addresses.url(address)
    settings = Settings.from_environment()
    folder = certificates or settings.certificates
    if reboot is not None:
        _check_command(reboot)
    needs.check(Need.ROOT, settings)
    if install:
        arguments = unit.Arguments(address, labs, cpu, reboot, certificates)
        click.echo(unit.install(arguments, settings))
        return
    own, rest = cpus.pin(cpu)

    # Dask takes half a second to import, and is missing without the extra.
    from bench_lib.fleet import security, worker
    from bench_lib.fleet.performing import Offer

    security.check(folder, role=Role.HOST)
    kinds = (Kind.LAB,) if labs else (Kind.HOST, Kind.LAB)
    membership = worker.Membership(url, folder, Offer(kinds, labs or 1, rest, reboot))
    with worker.alone(settings.runtime):
        _end_leftovers(settings.runtime)
        _say(f"The worker uses CPU {own}, and trials use {', '.join(map(str, sorted(rest)))}.")
        try:
            interrupt.run(worker.serve(membership, settings, _say))
        except Interrupted:
            _say("This host has left the fleet.")


def _check_command(command: str) -> None:
    try:
        if shlex.split(command):
            return
        why = "it is empty"
    except ValueError as error:
        why = str(error)
    raise UsageError(f"--reboot {command!r} is not a command: {why}.")


def _end_leftovers(runtime: Path) -> None:
    """End what a worker that was killed has left, so that it does not disturb trials."""
    try:
        lines = leftovers.end(runtime).lines()
    except LeftoversRemain as error:
        _say(str(error))
        lines = list(error.ended)
    for line in lines:
        _say(f"ended {line}")


def _say(sentence: str) -> None:
    click.echo(f"kickbench: {sentence}", err=True)
