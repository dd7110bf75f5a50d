# SPDX-License-Identifier: BSD-3-Clause
"""Completion in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench_lib.cli import main
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import Kernel

BIN = Path(sys.executable).parent


def test_bash_completes_commands_and_names() -> None:
    """As at TAB: bash calls the function of the script with the words that were typed."""
    script = """
        eval "$(kickbench completion bash)"
        function=$(complete -p kickbench | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=(kickbench kern); COMP_CWORD=1; COMPREPLY=(); $function kickbench kern kickbench
        echo "${COMPREPLY[@]}"
        COMP_WORDS=(kickbench trial --scenario bl); COMP_CWORD=3; COMPREPLY=()
        $function kickbench bl --scenario
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert done.stdout.splitlines() == ["kernels", "blackhole blackhole-return"]


def test_kernels_are_completed_from_the_ledger(history: Path) -> None:
    Ledger(history / "kernels.json").add(
        describe(Kernel("6.1.0-55-amd64", "#1 SMP Debian 6.1.185-1 (2026-09-01)"))
    )

    def completed(typed: str) -> list[str]:
        done = subprocess.run(
            [BIN / "kickbench"],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "_KICKBENCH_COMPLETE": "bash_complete",
                "COMP_WORDS": f"kickbench gate {typed}",
                "COMP_CWORD": "2",
            },
        )
        return done.stdout.split()

    assert completed("6.1") == ["plain,6.1.0-55-amd64"]
    assert completed("debian/") == ["plain,debian/6.1"]
    (history / "kernels.json").write_text("not a ledger")
    assert completed("6.1") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_the_script(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).output
    assert f"_KICKBENCH_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
