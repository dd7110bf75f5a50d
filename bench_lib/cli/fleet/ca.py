# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet ca: make the certificates of a fleet, and list them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.table import Table

from bench_lib import present
from bench_lib.cli import options
from bench_lib.fleet.bundle import CA_DAYS, DAYS, Role, require_extra
from bench_lib.settings import CERTIFICATES


@click.command("ca")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--coordinator",
    "coordinators",
    multiple=True,
    metavar="NAME",
    help="A name or address of the coordinator. Repeatable.",
)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A host. Repeatable.")
@click.option("--user", "users", multiple=True, metavar="NAME", help="A user. Repeatable.")
@click.option(
    "--days",
    type=click.IntRange(1, CA_DAYS),
    metavar="N",
    default=DAYS,
    show_default=True,
    help="How long new certificates are valid.",
)
@click.option("--renew", is_flag=True, help="Replace the bundles that are named.")
@options.as_json()
def ca(
    folder: Path,
    coordinators: tuple[str, ...],
    hosts: tuple[str, ...],
    users: tuple[str, ...],
    days: int,
    renew: bool,
    as_json: bool,
) -> None:
    """Make the CA of a fleet, and certificates for its members.

    FOLDER is made if it is missing. Each name gets a bundle in it: a folder that is to be copied to
    /etc/kickbench/fleet of that machine, or elsewhere if KICKBENCH_CERTIFICATES names the place.
    Bundles that exist are kept, unless --renew is given. Without names, all bundles are listed.

    Whoever has a certificate of this CA is root on every host of the fleet: TLS checks the CA, not
    the name, and a certificate cannot be revoked. If a key was stolen, make a new CA. FOLDER has
    the CA's key, ca-key.pem: keep FOLDER on a machine that is not a part of the fleet, or move the
    key away until it is needed again.

    \b
    Examples:
      kickbench fleet ca ~/fleet --coordinator lab1 --host node1 --user anna
      kickbench fleet ca ~/fleet --host node2
      kickbench fleet ca ~/fleet --host node1 --days 90 --renew
      kickbench fleet ca ~/fleet

    Exits 66 if the CA cannot be used.
    """
    require_extra()
    from bench_lib.fleet import certificates

    wanted = [(Role.COORDINATOR, coordinators)] if coordinators else []
    wanted += [(Role.HOST, (name,)) for name in hosts] + [(Role.USER, (name,)) for name in users]
    if wanted:
        for role, names in wanted:
            certificates.check_names(role, names)
        with certificates.opened(folder) as authority:
            made = [authority.make(role, names, days, renew=renew) for role, names in wanted]
        bundles = [each.bundle for each in made]
        done = [each.done for each in made]
    else:
        bundles = certificates.bundles(folder)
        done = [""] * len(bundles)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(bundles), indent=2).decode())
        return
    table = Table.grid(padding=(0, 2), pad_edge=False)
    for word, each in zip(done, bundles, strict=True):
        until = f"valid until {each.expires:%Y-%m-%d}" if each.expires else "unusable"
        table.add_row(*([word] if word else []), each.role, each.name, until, each.folder)
    present.stdout().print(table)
    for each in bundles:
        if each.problem or each.warning:
            click.echo(f"kickbench: {each.problem or each.warning}", err=True)
    if set(done) & {"made", "renewed"}:
        click.echo(f"Copy the files of each folder to {CERTIFICATES} of its machine.")
    elif "kept" in done:
        click.echo("Bundles that exist were kept; --renew replaces them.")
