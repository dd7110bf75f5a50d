# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet coordinator."""

from __future__ import annotations

from datetime import datetime

import click

from bench_lib import interrupt
from bench_lib.cli.fleet import options
from bench_lib.errors import Interrupted, UsageError
from bench_lib.fleet.address import DEFAULT_PORT, HIGHEST_PORT
from bench_lib.settings import Settings


@click.command("coordinator")
@click.option(
    "--listen",
    metavar="[HOST]:PORT",
    default=f":{DEFAULT_PORT}",
    show_default=True,
    help="Where hosts and users connect; without HOST, at all addresses of this machine.",
)
@options.certificates()
def coordinator(listen: str, settings: Settings) -> None:
    """Give the boots of campaigns to hosts, and keep their records.

    This runs until it is ended, and is best a service of systemd (docs/fleet.md). Its record file
    is that of its history, and it is the only process that may write there. After a restart, also
    after a crash, it goes on with all campaigns that have not ended.

    \b
    Examples:
      kickbench fleet coordinator
      kickbench fleet coordinator --listen lab1:8786 --certificates ca/coordinator

    Whoever has a certificate of the CA is root on every host. Let only hosts and users reach the
    port.
    """
    from bench_lib.fleet import coordinator as running

    host, port = _address(listen)
    try:
        interrupt.run(running.serve(settings, host, port, _print))
    except Interrupted:
        _print("The coordinator has ended. Campaigns go on when it is started again.")


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or "/" in host or not port.isdecimal() or int(port) > HIGHEST_PORT:
        raise UsageError(f"--listen has to be [HOST]:PORT, such as :{DEFAULT_PORT}, not {text!r}.")
    return host, int(port)


def _print(sentence: str) -> None:
    click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {sentence}", err=True)
