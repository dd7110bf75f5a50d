# SPDX-License-Identifier: BSD-3-Clause
"""The options of `kickbench fleet` that several of its commands have."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from bench_lib.errors import UsageError
from bench_lib.fleet.bundle import require_extra
from bench_lib.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def certificates() -> Callable[[Command], Command]:
    """The option --certificates. The command gets `settings` with it, and needs the extra."""

    def with_certificates(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            require_extra()
            folder = given.pop("certificates")
            settings = Settings.from_environment()
            if folder is not None:
                settings = dataclasses.replace(settings, certificates=folder)
            return command(settings=settings, **given)

        option = click.option(
            "--certificates",
            metavar="FOLDER",
            type=click.Path(path_type=Path),
            show_default="KICKBENCH_CERTIFICATES, or /etc/kickbench/fleet",
            help="The folder of the certificate: a bundle that `kickbench fleet ca` has made.",
        )
        return cast(Command, option(run))

    return with_certificates


def coordinator() -> Callable[[Command], Command]:
    """The options --fleet and --certificates of a command that asks the coordinator.

    The command gets `settings` with both, whose `fleet` is never None.
    """

    def with_coordinator(command: Command) -> Command:
        @functools.wraps(command)
        def run(settings: Settings, address: str | None, **given: Any) -> Any:
            address = address or settings.fleet
            if address is None:
                raise UsageError(
                    "The address of the coordinator is not known; give --fleet, or set "
                    "KICKBENCH_FLEET."
                )
            return command(settings=dataclasses.replace(settings, fleet=address), **given)

        option = click.option(
            "--fleet",
            "address",
            metavar="HOST[:PORT]",
            show_default="KICKBENCH_FLEET",
            help="The address of the coordinator.",
        )
        return cast(Command, certificates()(option(run)))

    return with_coordinator
