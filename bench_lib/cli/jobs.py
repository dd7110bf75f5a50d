# SPDX-License-Identifier: BSD-3-Clause
"""The option that says how many labs run at once."""

from __future__ import annotations

import dataclasses

import click

from bench_lib.settings import Settings

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Labs that run at once. Default: what CPUs and memory allow; 1 where KVM runs labs.",
)


def with_jobs(settings: Settings, jobs: int | None) -> Settings:
    """The settings, with the value of the option where it was given."""
    return settings if jobs is None else dataclasses.replace(settings, jobs=jobs)
