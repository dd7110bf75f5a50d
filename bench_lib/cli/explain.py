# SPDX-License-Identifier: BSD-3-Clause
"""kickbench explain: what the threads of running guests wait for."""

from __future__ import annotations

import sys
import time

import click

from bench_lib.cli import options
from bench_lib.explain import find, show
from bench_lib.explain.vmm import Vmm

EVERY_S = 1.0
"""Seconds between two looks with --watch."""


@click.command("explain")
@click.argument("guest", required=False, metavar="[PID|NAME]")
@options.as_json()
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
def explain(guest: str | None, as_json: bool, watch: bool) -> None:
    """Tell what a running guest is stuck in, what still works, and what frees it.

    For any process that runs vCPUs of KVM, QEMU or another; for all of them without an argument.
    NAME is that of QEMU's -name. Only looks: nothing is attached to, signalled or asked. As root it
    sees kernel stacks; without, it says what it could not see.

    State S does not prove that a signal gets through; the sentences say where it does not.

    \b
    Examples:
      kickbench explain
      kickbench explain 4711
      kickbench explain my-guest --watch
      kickbench explain --json | jq '.vmms[].threads[] | select(.role == "vcpu")'

    \b
    JSON: {"vmms": [VMM, ...], "not_seen": [sentence, ...]}
      VMM      pid, name (null: none, or not readable), program, uid, pending (signals of the
               process), files (path, kind, device; those on FUSE and NFS), hidden (what could not
               be seen), threads, meanings
      threads  tid, role (vcpu, main, iothread, other), vcpu, name, state, wchan, stack (innermost
               first) and entry (null: only root may see), waits_for, signals, called (a signal or a
               tracer waits for it), still (asleep in one place for 0.1 s), cpu_share
      meanings tids, who, sentence, hangs, works, free
    """
    if not watch:
        _once(guest, as_json=as_json)
        return
    try:
        while True:
            if sys.stdout.isatty() and not as_json:
                click.clear()
            _once(guest, as_json=as_json)
            click.echo()
            sys.stdout.flush()
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return


def _once(guest: str | None, *, as_json: bool) -> None:
    found, missed = _look(guest)
    if as_json:
        click.echo(show.as_json(found, missed))
        return
    blocks = ["\n".join(show.lines(each)) for each in found]
    click.echo("\n\n".join(blocks) or "No process here runs a vCPU of KVM.")
    for sentence in missed:
        click.echo(f"kickbench: {sentence}", err=True)


def _look(guest: str | None) -> tuple[list[Vmm], list[str]]:
    if guest is None:
        return find.all_of_them()
    return [find.by_pid(int(guest)) if guest.isdecimal() else find.by_name(guest)], []
