# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: where they may run, and that they leave nothing behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

from bench_lib.errors import HostError
from bench_lib.host import device

CHECKOUT = Path(__file__).resolve().parent.parent
NO_KVM = "no usable KVM"
"""How the one reason to skip that CI accepts begins."""

HANG_S = 240
"""Seconds that a test waits for what comes sooner or later on every machine: only a hang takes as
long. It is below pytest's own limit (pyproject.toml), whose traceback says less."""

_unwelcome_skips: list[str] = []

# The first example imports what the others have; and machines are shared.
hypothesis.settings.register_profile("kickbench", deadline=None)
hypothesis.settings.load_profile("kickbench")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests in host/ need KVM and root; those in install/ need root."""
    if item.path.is_relative_to(CHECKOUT / "tests" / "install") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.path.is_relative_to(CHECKOUT / "tests" / "host"):
        try:
            device.check()
        except HostError as error:
            pytest.skip(f"{NO_KVM}: {error}")
        if os.geteuid() != 0:
            pytest.skip("needs root")
        if shutil.which("qemu-system-x86_64") is None:
            pytest.skip("needs qemu-system-x86_64")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and NO_KVM not in report.longrepr[2]:
        _unwelcome_skips.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything runs: a test that was skipped for want of anything but KVM has failed."""
    if os.environ.get("CI") == "true" and _unwelcome_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") == "true":
        for skip in _unwelcome_skips:
            terminalreporter.write_line(f"FAILED, for CI skips nothing: {skip}")


@pytest.fixture(autouse=True)
def _no_setting_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither kickbench's settings nor those of output, from whoever runs the tests."""
    for name in [*os.environ]:
        if name.startswith("KICKBENCH_") or name in {"COLUMNS", "FORCE_COLOR", "LANGUAGE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty history, which is the working folder."""
    shutil.copy(CHECKOUT / "asv.conf.json", tmp_path)
    (tmp_path / "kernels.json").write_text('{"schema": 1, "kernels": []}')
    shutil.copytree(CHECKOUT / "benchmarks", tmp_path / "benchmarks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("KICKBENCH_RUNTIME", str(folder))
    return folder
