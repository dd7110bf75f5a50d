# SPDX-License-Identifier: BSD-3-Clause
"""The systemd unit that makes a host a part of a fleet at each boot."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import FleetError
from bench_lib.fleet import cpus
from bench_lib.guest import state
from bench_lib.settings import CHECKOUT, Settings

PATH = Path("/etc/systemd/system/kickbench-fleet.service")

STOP_S = 120
"""Seconds that systemd gives the worker to end what runs, before it kills everything."""

VERIFY_LIMIT_S = 60.0
"""Seconds that systemd may take to check the unit."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of `kickbench fleet join`, as they were given."""

    address: str
    labs: int | None = None
    cpu: int | None = None
    reboot: str | None = None
    certificates: Path | None = None

    def words(self) -> list[str]:
        """The arguments as a command has them."""
        options = {
            "--labs": self.labs,
            "--cpu": self.cpu,
            "--reboot": self.reboot,
            "--certificates": self.certificates,
        }
        given = [(name, str(value)) for name, value in options.items() if value is not None]
        return [self.address, *(word for pair in given for word in pair)]


def text(arguments: Arguments, cpu: int, environ: Mapping[str, str]) -> str:
    """The unit.

    :param cpu: the CPU of the worker.
    :param environ: the variables that it has, beside those of systemd.
    """
    command = [sys.executable, "-m", "bench_lib.cli", "fleet", "join", *arguments.words()]
    lines = [
        "# Written by `kickbench fleet join --install`.",
        "[Unit]",
        f"Description=Make boots for the fleet of kickbench at {_value(arguments.address)}",
        "Wants=network-online.target",
        "After=network-online.target",
        "# Try again for ever.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(map(_argument, command))}",
        f"WorkingDirectory={_value(str(CHECKOUT))}",
        *(f"Environment={_word(f'{name}={value}')}" for name, value in sorted(environ.items())),
        "Restart=always",
        "RestartSec=10",
        "# The worker alone: it gives the other CPUs to trials.",
        f"CPUAffinity={cpu}",
        "# The worker ends trials in order, and systemd kills what is left after it.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_S}",
        "# If the kernel kills a guest, only its trial is lost.",
        "OOMPolicy=continue",
        "TasksMax=infinity",
        "# Trials need all devices, mounts, cgroups and rights of root, so no more can be taken",
        "# from them than this.",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def install(arguments: Arguments, settings: Settings) -> str:
    """Have systemd check the unit, and write it; start nothing.

    :param settings: the settings of this process, which the unit keeps.
    :return: the unit, and what to do next.
    :raise FleetError: systemd refuses it, or it cannot be written.
    :raise UsageError: the worker cannot run on the CPU that was named.
    """
    cpu = cpus.choose(arguments.cpu, os.sched_getaffinity(0))
    ours = {name: value for name, value in os.environ.items() if name.startswith("KICKBENCH_")}
    # Paths in `exported` are absolute, and do not depend on the home of the user.
    unit = text(arguments, cpu, {**ours, **settings.exported()})
    verify(unit)
    try:
        with state.replacing(PATH) as file:
            file.write(unit.encode())
        PATH.chmod(0o644)
    except OSError as error:
        raise FleetError(f"{PATH} cannot be written: {error.strerror}.") from None
    return (
        f"{unit}\nsystemd has checked the unit, and it was written to {PATH}. To start it, now and "
        f"at each boot:\n  systemctl daemon-reload\n  systemctl enable --now {PATH.name}"
    )


def verify(unit: str) -> None:
    """Have systemd check a unit.

    :raise FleetError: systemd refuses the unit or ignores a part of it, or is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PATH.name
        path.write_text(unit)
        try:
            done = subprocess.run(
                ["systemd-analyze", "verify", str(path)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VERIFY_LIMIT_S,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise FleetError(
                "systemd-analyze is not installed, so this host has no systemd that could run a "
                "unit; have its init system run `kickbench fleet join`."
            ) from None
        except subprocess.TimeoutExpired:
            raise FleetError(
                f"`systemd-analyze verify` did not end within {VERIFY_LIMIT_S:.0f} s."
            ) from None
    # It prints a warning if it ignores a line, and warnings about other units as well.
    ours = [each for each in done.stderr.splitlines() if PATH.name in each]
    if done.returncode or ours:
        why = "; ".join(ours) or done.stderr.strip() or f"status {done.returncode}"
        raise FleetError(f"systemd refuses the unit, so it was not written: {why}")


def _argument(word: str) -> str:
    """A word of a command; see systemd.service(5)."""
    return _word(word.replace("$", "$$"))


def _word(word: str) -> str:
    """A word of another setting; see systemd.syntax(7)."""
    escaped = _value(word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
    return escaped if shlex.quote(word) == word else f'"{escaped}"'


def _value(value: str) -> str:
    """The whole value of a setting, in which a % would begin a specifier; see systemd.unit(5)."""
    return value.replace("%", "%%")
