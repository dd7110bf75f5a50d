# SPDX-License-Identifier: BSD-3-Clause
"""Publish an invented history of many kernels, and time how fast a browser shows it.

    .venv/bin/python tools/scale_site.py [KERNELS [HOSTS]]

The history has KERNELS kernels (default: 1000) on each of HOSTS hosts (default: 1), with two trials
for each of 20 pairs of request and scenario. The tool prints the time to publish, the size of the
page Kernels, the times until the browser shows its first cells and all of its rows, and if there
are several hosts, the time to show the rows of one of them.
"""

import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from bench_lib import record
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import (
    Entry,
    Evidence,
    Host,
    Kernel,
    Outcome,
    Record,
    RequestName,
    Role,
    ScenarioName,
    Shape,
    Thread,
    WaitsFor,
)
from bench_lib.settings import CHECKOUT

COLUMNS = list(itertools.product(list(RequestName)[:5], list(ScenarioName)[:4]))
STACK = ("handle_userfault", "__get_user_pages", "get_user_pages_unlocked", "hva_to_pfn")
TRIALS = 2
FIRST_BUILD = datetime(2020, 1, 1, tzinfo=UTC)
"""The date of the first kernel; each later one is a day younger."""


CHOOSE_HOST = """
const started = performance.now();
const host = document.getElementById("host");
host.value = arguments[0];
host.dispatchEvent(new Event("change"));
document.body.getBoundingClientRect();
return [performance.now() - started, document.querySelectorAll("tbody tr").length];
"""
"""The script that chooses a host on the page. It returns the milliseconds that this takes, and the
number of rows that the page shows then."""


def kernel(number: int) -> Kernel:
    """One of the invented kernels.

    :param number: the kernel's number, from 0.
    """
    date = (FIRST_BUILD + timedelta(days=number)).date()
    version = f"6.{number // 200}.{number % 200}"
    return Kernel(f"{version}-amd64", f"#1 SMP PREEMPT_DYNAMIC Debian {version}-1 ({date})")


def trials(number: int, machine: str) -> list[Record]:
    """The records of one kernel on one host; on every seventh kernel, all trials hang."""
    chance = random.Random(number)  # noqa: S311  # no secret
    hangs = number % 7 == 0
    wchan, waits_for = "handle_userfault", WaitsFor.USERFAULT
    before = Thread(1, Role.VCPU, 0, "CPU 0/KVM", "S", wchan, STACK, Entry.GUP, waits_for)
    return [
        Record(
            run_id=f"{number:012x}",
            seq=seq,
            request=request,
            scenario=scenario,
            shape=Shape(),
            outcome=Outcome.ASLEEP if hangs else Outcome.RETURNED,
            deadline_ns=5_000_000_000,
            kernel=kernel(number),
            boot_id=f"{number}-{seq}",
            host=Host("native", "kvm", machine),
            started=FIRST_BUILD.isoformat(),
            latency_ns=None if hangs else round(chance.lognormvariate(13, 0.3)),
            evidence=Evidence((before,), ()),
        )
        for seq in range(1, TRIALS + 1)
        for request, scenario in COLUMNS
    ]


def machines(hosts: int) -> list[str]:
    """The names of this many hosts."""
    return ["nowhere", *(f"nowhere-{number}" for number in range(2, hosts + 1))]


def make_history(history: Path, kernels: int, hosts: int) -> None:
    """Write records, a ledger and asv's results for this many kernels and hosts.

    asv's results are those of the first host.
    """
    shutil.copy(CHECKOUT / "asv.conf.json", history)
    path = history / ".asv" / "records.jsonl"
    for number in range(kernels):
        record.append(path, *(each for name in machines(hosts) for each in trials(number, name)))
    builds = [describe(kernel(number)) for number in range(kernels)]
    ledger = {"schema": 1, "kernels": [dataclasses.asdict(each) for each in builds]}
    (history / "kernels.json").write_text(json.dumps(ledger, default=str))
    Ledger(history / "kernels.json")  # checks that the file is valid
    results = history / ".asv" / "results" / "nowhere"
    results.mkdir(parents=True)
    machine = {"arch": "", "cpu": "", "machine": "nowhere", "num_cpu": "", "os": "Linux", "ram": ""}
    (results / "machine.json").write_text(json.dumps({**machine, "version": 1}))
    names = [f"{request}.{scenario}.track_latency" for request, scenario in COLUMNS]
    benchmarks = {
        name: {"code": "", "name": name, "param_names": [], "params": [], "type": "track",
               "unit": "seconds", "version": "1"}
        for name in names
    }  # fmt: skip
    (results.parent / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
    for number, build in enumerate(builds):
        result = {
            "commit_hash": build.id, "env_name": "kernel-host", "date": 1_600_000_000_000 + number,
            "params": machine, "python": "kernel-host", "requirements": {}, "env_vars": {},
            "result_columns": ["result", "params", "version"], "durations": {}, "version": 2,
            "results": {name: [[0.001 + number / 1e6], [], "1"] for name in names},
        }  # fmt: skip
        (results / f"{build.id}-kernel-host.json").write_text(json.dumps(result))


def main(kernels: int, hosts: int) -> None:
    """Make a history, publish it, and open it in a browser."""
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder)
        make_history(history, kernels, hosts)
        started_s = time.monotonic()
        subprocess.run(
            [Path(sys.executable).parent / "asv", "publish"],
            cwd=history,
            env={**os.environ, "KICKBENCH_HISTORY": folder},
            check=True,
            capture_output=True,
        )
        print(f"publish: {time.monotonic() - started_s:.1f} s")
        site = history / ".asv" / "html"
        page = [site / name for name in ("index.html", "kernels.css", "kernels.js", "matrix.js")]
        size = sum(each.stat().st_size for each in page)
        largest = max(each.stat().st_size for each in (site / "trials").iterdir())
        print(f"page: {size / 1000:.0f} kB; trials of a row: at most {largest / 1000:.0f} kB")
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            for _ in range(3):
                driver.get((site / "index.html").as_uri())
                first = driver.execute_script(
                    "return performance.getEntriesByName('first cells')[0].startTime"
                )
                while True:
                    rows = driver.execute_script(
                        "return document.querySelectorAll('tbody tr').length"
                    )
                    now = driver.execute_script("return performance.now()")
                    if rows == kernels * hosts:
                        break
                print(f"first cells after {first:.0f} ms, all {rows} rows after {now:.0f} ms")
                if hosts > 1:
                    taken, rows = driver.execute_script(CHOOSE_HOST, machines(hosts)[-1])
                    print(f"one host: {rows} rows after {taken:.0f} ms")
        finally:
            driver.quit()


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1000,
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
