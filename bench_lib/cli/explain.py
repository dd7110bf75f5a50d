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
"""Seconds from one look to the next with --watch."""


@click.command("explain")
@click.argument("guest", required=False, metavar="[PID|NAME]")
@options.as_json()
@click.option("--watch", is_flag=True, help="Repeat every second, until Ctrl-C.")
def explain(guest: str | None, as_json: bool, watch: bool) -> None:
    """Show what a running guest is stuck in, and what frees it.

    The guest is a process that runs vCPUs with KVM, of QEMU or of another program. NAME is the one
    given to QEMU with -name. Without an argument, every guest is explained.

    This command only reads /proc: it does not attach to the process, signal it or use its monitor.
    Only root sees kernel stacks; for other users it prints what it could not see.

    State S does not prove that a signal ends the wait. The output names the requests that get no
    answer.

    \b
    Examples:
      kickbench explain
      kickbench explain 4711
      kickbench explain my-guest --watch
      kickbench explain --json | jq '.vmms[].threads[] | select(.role == "vcpu")'

    \b
    JSON: {"vmms": [VMM, ...], "not_seen": [sentence, ...]}
      VMM      pid, name (null: none, or not readable), program, uid, pending
               (signals of the process), files (path, kind, device; those on
               FUSE and NFS), hidden (what could not be seen), threads, meanings
      threads  tid, role (vcpu, main, iothread, other), vcpu, name, state, wchan,
               stack (innermost first) and entry (null: only root can see them),
               waits_for, signals, called (a signal or a tracer waits for the
               thread), still (asleep in one place for 0.1 s), cpu_share,
               awake_share (it ran, or waited for a CPU)
      meanings tids, who, sentence, hangs, works, free, avoid
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
    click.echo("\n\n".join(blocks) or "No process on this host runs a KVM vCPU.")
    for sentence in missed:
        click.echo(f"kickbench: {sentence}", err=True)


def _look(guest: str | None) -> tuple[list[Vmm], list[str]]:
    if guest is None:
        return find.all_of_them()
    return [find.by_pid(int(guest)) if guest.isdecimal() else find.by_name(guest)], []
