# SPDX-License-Identifier: BSD-3-Clause
"""Mounting and unmounting file systems, of which some may not answer.

Programs do that, which can be left behind if they do not end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench_lib.errors import StorageFailed, ToolFailed
from bench_lib.process import run_tool

_log = logging.getLogger(__name__)


def mount(
    kind: str, source: str, folder: Path, stack: ExitStack, options: str = "defaults"
) -> None:
    """Mount a file system on a new folder, until the exit stack unmounts it.

    :param options: the options as in mount(8).
    :raise ToolFailed: mount(8) failed, or did not end.
    """
    folder.mkdir(parents=True)
    # -i starts no helper for the file system, which may not be installed.
    run_tool(["mount", "-i", "-t", kind, "-o", options, source, str(folder)])
    stack.callback(_unmount, folder)


def _unmount(folder: Path) -> None:
    """Unmount a file system; if that does not work, only take it out of the tree of folders."""
    if not quietly(lambda: run_tool(["umount", "-i", str(folder)])):
        quietly(lambda: run_tool(["umount", "-i", "-l", str(folder)]))


def quietly(undo: Callable[[], object]) -> bool:
    """Undo a part of a trial whose result is known. Log an error, and return whether it worked."""
    try:
        undo()
    except (StorageFailed, ToolFailed) as error:
        _log.warning("%s", error)
        return False
    return True
