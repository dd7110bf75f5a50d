# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: what they need to run, and folders of their own."""

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
"""The start of the only reason to skip a test that CI accepts."""

HANG_S = 240
"""Seconds that a test waits for something that happens on every machine; only a hang takes as long.
It is below pytest's own limit (pyproject.toml), whose traceback is less clear."""

_unwelcome_skips: list[str] = []

# The first example is slow because it imports modules, and other work may slow the machine down.
hypothesis.settings.register_profile("kickbench", deadline=None)
hypothesis.settings.load_profile("kickbench")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests in host/ need KVM and root; those in fleet/ and install/ need root."""
    only_root = [CHECKOUT / "tests" / each for each in ("fleet", "install")]
    if any(map(item.path.is_relative_to, only_root)) and os.geteuid() != 0:
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
    """Fail in CI if a test was skipped for another reason than a missing KVM."""
    if os.environ.get("CI") == "true" and _unwelcome_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") == "true":
        for skip in _unwelcome_skips:
            terminalreporter.write_line(f"FAILED, because CI skips no test: {skip}")


@pytest.fixture(autouse=True)
def _no_setting_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of kickbench and of output from the environment of the tests."""
    for name in [*os.environ]:
        if name.startswith("KICKBENCH_") or name in {"COLUMNS", "FORCE_COLOR", "LANGUAGE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty history, which is the working directory."""
    shutil.copy(CHECKOUT / "asv.conf.json", tmp_path)
    (tmp_path / "kernels.json").write_text('{"schema": 1, "kernels": []}')
    shutil.copytree(CHECKOUT / "benchmarks", tmp_path / "benchmarks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder that only this test uses."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("KICKBENCH_RUNTIME", str(folder))
    return folder
