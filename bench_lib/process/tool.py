# SPDX-License-Identifier: BSD-3-Clause
"""Running commands that end at once, such as ip, tc and ss."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from bench_lib.deadline import Deadline
from bench_lib.errors import ToolFailed
from bench_lib.process.child import Child
from bench_lib.process.start import spawn

TOOL_LIMIT_S = 30.0
"""Seconds that a command may take. ip, tc and ss take milliseconds, under TCG tenths of a
second."""


def run_tool(argv: Sequence[str], *, stdin: str = "", deadline: Deadline | None = None) -> str:
    """Run a command that ends at once, and return what it printed.

    The command needs neither the mark of a run nor a SIGKILL when we die, because it ends by
    itself.

    :raise ToolFailed: the command failed, and the message has what it wrote; or it did not end.
    :raise ProgramMissing: there is no such program.
    """
    return run_tools([argv], stdin=[stdin], deadline=deadline)[0]


def run_tools(
    commands: Sequence[Sequence[str]], *, stdin: Sequence[str], deadline: Deadline | None = None
) -> list[str]:
    """Run several commands concurrently, and return what each printed.

    :param stdin: the input of each command, at most as much as a pipe holds (64 KiB).
    :raise ToolFailed: a command failed or did not end; by then all have ended or been killed.
    :raise ProgramMissing: there is no such program.
    """
    limit = deadline or Deadline.after(TOOL_LIMIT_S)
    limit_s = limit.remaining_s
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        started = []
        for argv, text in zip(commands, stdin, strict=True):
            popen = spawn(argv, argv[0], None, stdin=pipe, stdout=pipe, stderr=pipe)
            stack.callback(Child(popen).end)  # unlike Popen, it never waits without a limit
            # Write all input now: it fits into the pipe, and no command waits for another one.
            assert popen.stdin is not None
            with suppress(BrokenPipeError), popen.stdin as theirs:
                theirs.write(text.encode())
            popen.stdin = None
            started.append(popen)
        printed = []
        failures = []
        for argv, popen in zip(commands, started, strict=True):
            name = f"`{' '.join(argv)}`"
            try:
                output, errors = popen.communicate(timeout=limit.remaining_s)
            except subprocess.TimeoutExpired:
                failures.append(f"{name} did not end within {limit_s:.0f} s.")
                continue
            if popen.returncode != 0:
                text = " ".join((errors or output).decode(errors="replace").split())
                failures.append(f"{name} failed ({popen.returncode}): {text}")
            printed.append(output.decode(errors="replace"))
    if failures:
        raise ToolFailed(failures[0])
    return printed
