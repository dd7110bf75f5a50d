# SPDX-License-Identifier: BSD-3-Clause
"""A browser without a network, and a published site."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from bench_lib import record
from bench_lib.record import Host, Kernel, Outcome, Record, ScenarioName
from tests.conftest import HANG_S
from tests.make import record as make

ASV = Path(sys.executable).parent / "asv"
PROGRAMS = ("chromium", "chromedriver")

EVIL = "<img src=x onerror=window.hacked=1>'\"`</script><script>window.hacked=1</script>&amp;"
"""A hostile name of a kernel, a host or QEMU."""

KERNELS = (
    Kernel("6.1.0-55-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.190-1 (2026-10-01)"),
    Kernel("6.12.115+deb12-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.115-1~deb12u1 (2026-10-20)"),
    Kernel(f"6.13-{EVIL}", EVIL),
)

LOST = f"The guest was never stuck: {EVIL}"


def records() -> list[Record]:
    """Two boots of each kernel: 6.1 hangs, 6.12 does not, and the last has a hostile name."""
    made = []
    for number, kernel in enumerate(KERNELS):
        for boot in range(2):
            for scenario in (ScenarioName.IDLE, ScenarioName.BLACKHOLE):
                hangs = number == 0 and scenario is not ScenarioName.IDLE
                for seq in (1, 2):
                    trial = make(
                        Outcome.ASLEEP if hangs else Outcome.RETURNED,
                        1.0 + seq + 0.1 * boot,
                        scenario=scenario,
                        kernel=kernel,
                        seq=seq,
                    )
                    machine = EVIL if number == 2 else "somewhere"
                    made.append(
                        dataclasses.replace(
                            trial,
                            boot_id=f"{number}-{boot}",
                            host=Host("native", "kvm", machine),
                            qemu=EVIL,
                        )
                    )
    lost = make(Outcome.LOST, kernel=KERNELS[1], reason=LOST)
    return [*made, dataclasses.replace(lost, boot_id="1-1")]


Publish = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def publish(history: Path) -> Publish:
    """Runs `asv publish` in the history."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ASV, "publish", *arguments],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    return run


@pytest.fixture
def site(history: Path, publish: Publish) -> Path:
    """The site of `records()` and of the results that asv would have of them."""
    record.append(history / ".asv" / "records.jsonl", *records())
    add_asv_results(history, KERNELS[:2])
    done = publish()
    assert done.returncode == 0, done.stdout + done.stderr
    return history / ".asv" / "html"


def add_asv_results(history: Path, kernels: Sequence[Kernel]) -> None:
    """Write what `asv run` leaves: its benchmarks, a machine, and a result per kernel."""
    from bench_lib.kernel.ledger import Ledger, describe

    ledger = Ledger(history / "kernels.json")
    results = history / ".asv" / "results"
    (results / "somewhere").mkdir(parents=True)
    name = "vm_stop.Stop.track_latency"
    params = [["'idle'", "'blackhole'"]]
    benchmark = {
        "code": "", "name": name, "param_names": ["scenario"], "params": params, "type": "track",
        "unit": "seconds", "version": "1",
    }  # fmt: skip
    (results / "benchmarks.json").write_text(json.dumps({name: benchmark, "version": 2}))
    machine = {"arch": "x86_64", "cpu": "", "machine": "somewhere", "num_cpu": "2", "os": "Linux",
               "ram": ""}  # fmt: skip
    text = json.dumps({**machine, "version": 1})
    (results / "somewhere" / "machine.json").write_text(text)
    # The second kernel was measured natively, the first only in the lab.
    environments = ["kernel-lab-tcg", "kernel-host"]
    for number, kernel in enumerate(kernels):
        build = describe(kernel)
        ledger.add(build)
        result = {
            "commit_hash": build.id, "env_name": "kernel-host", "date": 1760000000000 + number,
            "params": {**machine, "environment": environments[number]}, "python": "3.11",
            "requirements": {}, "env_vars": {},
            "result_columns": ["result", "params", "version"],
            "results": {name: [[0.001, 5.0 if number == 0 else 0.002], params, "1"]},
            "durations": {}, "version": 2,
        }  # fmt: skip
        path = results / "somewhere" / f"{build.id}-kernel-host.json"
        path.write_text(json.dumps(result))


class Browser:
    """Chromium, with the errors and requests that it logs."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def size(self, width: int, height: int = 900) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def requests(self) -> list[str]:
        """The addresses that were requested since the last call."""
        return [
            message["params"]["request"]["url"]
            for message in self._messages()
            if message["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """The errors and warnings of the console since the last call."""
        return [str(entry) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def _messages(self) -> Iterator[dict[str, Any]]:
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            assert message["method"] != "Network.loadingFailed", message
            yield message


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """One Chromium for all tests, because it takes a second to start."""
    paths = {name: shutil.which(name) for name in PROGRAMS}
    if missing := [name for name, path in paths.items() if path is None]:
        pytest.skip(f"needs {', '.join(missing)}: `tools/set-up --tests` installs it")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-component-update",
        "--disable-background-networking",
        # Only this machine can be reached.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[Browser]:
    """The browser. The test must leave no error in its console, and no request to another host."""
    browser = Browser(chromium)
    browser.size(1280)
    yield browser
    assert browser.complaints() == []
    for url in browser.requests():
        assert url.startswith(("file:", "data:", "http://127.0.0.1:")), url
    chromium.get("about:blank")
