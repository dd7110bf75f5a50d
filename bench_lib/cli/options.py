# SPDX-License-Identifier: BSD-3-Clause
"""The options that several commands have, each defined once with one help text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import click

from bench_lib import deadline as deadlines
from bench_lib.cli.names import Named, completing, completing_kernels, named
from bench_lib.errors import KickbenchError, UnknownRequest, UnknownScenario
from bench_lib.guest.workloads.description import WORKLOADS, shape_of
from bench_lib.record import Backing, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import case

Command = TypeVar("Command", bound=Callable[..., Any])


def scenario(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """The option --scenario.

    :param names: the name of the parameter that takes the value, if it is not `scenario`.
    :param attributes: what differs between commands, such as `multiple` and `default`.
    """
    return _member("--scenario", ScenarioName, UnknownScenario, names, attributes)


def request(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """The option --request, with the parameters of `scenario`."""
    return _member("--request", RequestName, UnknownRequest, names, attributes)


def then() -> Callable[[Command], Command]:
    """The option --then."""
    text = "A second request, made after the first one was answered or had hung."
    return _option(
        "--then",
        metavar="NAME",
        type=lambda value: named(RequestName, value, UnknownRequest),
        shell_complete=completing(RequestName),
        help=text,
    )


def image(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """The option --image, with the parameters of `scenario`."""
    text = f"Guest image: {', '.join(WORKLOADS)}. Only gup tests FOLL_INTERRUPTIBLE."
    return _option(
        "--image",
        *names,
        metavar="NAME",
        shell_complete=completing(WORKLOADS),
        help=text,
        **attributes,
    )


def shape(work: str = "--work") -> Callable[[Command], Command]:
    """The options that make up the shape of guests; a command takes them as one parameter, `shape`.

    The shape has the workload's own values for options that are not given.

    :param work: the name of the option for what the guest does.
    """
    usual = Shape()
    memory = [str(WORKLOADS[usual.image].usual_memory_mib)] + [
        f"{each.usual_memory_mib} for {name}"
        for name, each in WORKLOADS.items()
        if each.usual_memory_mib != WORKLOADS[usual.image].usual_memory_mib
    ]
    works = {name: each.works for name, each in WORKLOADS.items() if each.works}
    offered = "".join(f" {name}: {', '.join(each)}." for name, each in works.items())
    parts = {
        "vcpus": _option(
            "--vcpus", type=int, metavar="N", default=usual.vcpus, help="vCPUs of the guest."
        ),
        "memory_mib": _option(
            "--memory",
            "memory_mib",
            type=int,
            metavar="MIB",
            show_default="; ".join(memory),
            help="Memory of the guest.",
        ),
        "backing": _option(
            "--backing",
            type=click.Choice([each.value for each in Backing]),
            default=usual.backing.value,
            callback=lambda context, parameter, value: Backing(value),
            help="What the guest's memory is on the host.",
        ),
        "preempt": _option(
            "--preempt",
            is_flag=True,
            show_default=False,
            help="Migrate with the capability postcopy-preempt.",
        ),
        "image": image(default=usual.image),
        "cpu": _option(
            "--cpu",
            metavar="MODEL[,FEATURE=off...]",
            show_default="that of the image",
            help="CPU of the guest, as QEMU's -cpu takes it.",
        ),
        "work": _option(
            work,
            "work",
            metavar="NAME",
            shell_complete=completing([name for each in works.values() for name in each]),
            show_default=False,
            help=f"What the guest does, if its image has a choice.{offered}",
        ),
    }

    def with_shape(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            chosen = {name: given.pop(name) for name in parts}
            return command(**given, shape=shape_of(**chosen))

        for option in reversed(parts.values()):
            run = option(run)
        return cast(Command, run)

    return with_shape


def kernel(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """The option --kernel, with the parameters of `scenario`."""
    return _option(
        "--kernel",
        *names,
        metavar="NAME",
        shell_complete=completing_kernels,
        help="Kernel: `booted`, or a name that `kickbench kernels --help` describes.",
        **attributes,
    )


def manager() -> Callable[[Command], Command]:
    """The option --manager."""
    return _option(
        "--manager",
        type=click.Choice([each.value for each in ManagerName]),
        default=ManagerName.QEMU.value,
        callback=lambda context, parameter, value: ManagerName(value),
        help="What runs the guests: QEMU by itself, or libvirt.",
    )


def count(default: int, most: int | None = case.MOST) -> Callable[[Command], Command]:
    """The option -n. :param most: the highest value that is accepted."""
    return _option(
        "-n",
        "count",
        metavar="N",
        type=click.IntRange(1, most),
        default=default,
        help="How often to measure each case, per kernel and boot.",
    )


def deadline(default: str | None = None) -> Callable[[Command], Command]:
    """The option --deadline. :param default: seconds; None stands for the setting."""
    return _option(
        "--deadline",
        "limit",
        metavar="SECONDS",
        default=default,
        show_default=default is not None or "KICKBENCH_DEADLINE, or 5; 60 for virt-*",
        help="How long to wait for an answer.",
    )


def jobs() -> Callable[[Command], Command]:
    """The option --jobs."""
    return _option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="what CPUs and memory allow; 1 where KVM runs labs",
        help="How many labs run at once.",
    )


def as_json() -> Callable[[Command], Command]:
    """The option --json."""
    return _option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def _member(
    option: str,
    kind: type[Named],
    error: type[KickbenchError],
    names: Sequence[str],
    attributes: Mapping[str, Any],
) -> Callable[[Command], Command]:
    """Make an option whose value is a member of an enum.

    click's own type for that, `Choice`, has one exit status for the unknown names of all enums.

    :param error: the error for a name that the enum does not have.
    """

    def convert(text: str) -> Named:
        return named(kind, text, error)

    return _option(
        option,
        *names,
        metavar="NAME",
        type=convert,
        shell_complete=completing(kind),
        help=f"{option.strip('-').capitalize()}: {', '.join(kind)}.",
        **attributes,
    )


def _option(*names: str, help: str, **attributes: Any) -> Callable[[Command], Command]:  # noqa: A002
    """Make an option that shows its default, and that it may be repeated."""
    text = f"{help} Repeatable." if attributes.get("multiple") else help
    return click.option(*names, **{"show_default": True, **attributes, "help": text})


def with_jobs(settings: Settings, value: int | None) -> Settings:
    """The settings, with the value of --jobs if it was given."""
    return settings if value is None else dataclasses.replace(settings, jobs=value)


def with_deadline(settings: Settings, value: str | None) -> Settings:
    """The settings, with the value of --deadline if it was given.

    :raise BadDeadline: the value is not a positive number of seconds.
    """
    if value is None:
        return settings
    limit_s = deadlines.seconds(value)
    return dataclasses.replace(settings, deadline_s=limit_s, deadline_given=True)
