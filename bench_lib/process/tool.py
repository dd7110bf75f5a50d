# SPDX-License-Identifier: BSD-3-Clause
"""Commands that answer at once, such as ip, tc and ss."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from bench_lib.deadline import Deadline
from bench_lib.errors import ToolFailed
from bench_lib.process.child import Child
from bench_lib.process.start import spawn

TOOL_LIMIT_S = 30.0
"""How long ip, tc or ss may take. They answer in milliseconds; under TCG in tenths."""


def run_tool(argv: Sequence[str], *, stdin: str = "", deadline: Deadline | None = None) -> str:
    """Run a command that answers at once (ip, tc, ss) and give what it printed.

    It ends by itself, so it needs no mark and no signal when we die.

    :raise ToolFailed: it exited with an error, whose text is in the message, or did not exit.
    :raise ProgramMissing: there is no such program.
    """
    return run_tools([argv], stdin=[stdin], deadline=deadline)[0]


def run_tools(
    commands: Sequence[Sequence[str]], *, stdin: Sequence[str], deadline: Deadline | None = None
) -> list[str]:
    """Run several such commands side by side; what each printed.

    :param stdin: of each; no more than a pipe holds, which is 64 KiB.
    :raise ToolFailed: one exited with an error, or did not exit; all have ended then.
    :raise ProgramMissing: there is no such program.
    """
    limit = deadline or Deadline.after(TOOL_LIMIT_S)
    limit_s = limit.remaining_s
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        started = []
        for argv, text in zip(commands, stdin, strict=True):
            popen = spawn(argv, argv[0], None, stdin=pipe, stdout=pipe, stderr=pipe)
            stack.callback(Child(popen).end)  # never waits without a limit
            # At once, so that none waits for the one before it. It fits into the pipe.
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
