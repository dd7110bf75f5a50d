# SPDX-License-Identifier: BSD-3-Clause
"""docs/reference: the generated parts are up to date, and the written ones are complete."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench_lib.settings import Settings
from tests import pages
from tests.pages import DOCS

# mypy checks this program under another name, so it cannot be imported as usual.
reference = importlib.import_module("tools.reference")

REFERENCE = DOCS / "reference"
AGAIN = "run .venv/bin/python tools/reference.py"


@pytest.mark.parametrize("name", reference.GENERATED)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    # In another process, because click keeps the options of commands that another test has run.
    code = f"from tools import reference; print(reference.GENERATED[{name!r}](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS.parent, capture_output=True, text=True, check=True
    )
    assert (REFERENCE / name).read_text() == made.stdout, AGAIN


def test_the_keys_and_types_of_a_record_are_those_of_the_code() -> None:
    page = (REFERENCE / "records.md").read_text()
    assert reference.with_types(page) == page, AGAIN


PARTS = {"Record", "FollowUp", "Shape", "Kernel", "Host", "Evidence", "Thread", "Stage", "Recovery",
         "Slot", "Setup"}  # fmt: skip
"""The types of a record that have keys."""


def test_every_key_of_a_record_is_explained() -> None:
    page = (REFERENCE / "records.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", page, re.MULTILINE)
    assert {"latency_ns", "cpu_ns", "mitigations"} <= {key for key, _ in rows}
    assert not [key for key, meaning in rows if not meaning.strip()]


def test_every_part_of_a_record_has_a_table() -> None:
    page = (REFERENCE / "records.md").read_text()
    assert set(re.findall(r"^<!-- type: (\w+) -->\n\| key \|", page, re.MULTILINE)) == PARTS


def test_every_type_of_a_key_has_a_section() -> None:
    linked = {each for each in pages.links(REFERENCE / "records.md") if each.startswith("#")}
    assert linked >= {f"#{name.lower()}" for name in PARTS - {"Record"}}
    assert {each.removeprefix("#") for each in linked} <= pages.anchors(REFERENCE / "records.md")


def test_a_key_that_is_new_in_the_code_appears_without_a_meaning() -> None:
    page = (
        "<!-- type: Kernel -->\n| key | type | meaning |\n|---|---|---|\n| `version` | | kept |\n"
    )
    assert reference.with_types(page).splitlines()[3:] == [
        "| `release` | string |  |",
        "| `version` | string | kept |",
    ]


class _Read(Mapping[str, str]):
    """An environment that has only HOME, and records the names that are read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        if name == "HOME":
            return "/home/user"
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_the_page_of_settings_has_every_variable_and_no_other() -> None:
    environment = _Read()
    Settings.from_environment(environment)
    read = {name for name in environment.names if name.startswith("KICKBENCH_")}
    listed = pages.first_column(REFERENCE / "settings.md", "variable")
    assert sorted(listed) == sorted(read)


def test_the_page_of_settings_has_the_defaults() -> None:
    text = (REFERENCE / "settings.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| .* \| `([^`|]+)` \|$", text, re.MULTILINE))
    settings = Settings.from_environment(_Read())
    # If a default depends on the host or the folder, its cell has more than a value.
    assert listed == {
        "KICKBENCH_TRIALS": str(settings.trials),
        "KICKBENCH_SET": "full" if settings.full else "core",
        "KICKBENCH_DEADLINE": f"{settings.deadline_s:g}",
        "KICKBENCH_STAGING": f"{settings.staging_s:g}",
        "KICKBENCH_QEMU": settings.qemu,
        "KICKBENCH_GUEST_KERNEL": settings.guest_kernel,
        "KICKBENCH_CACHE": str(settings.cache).replace(str(Path.home()), "~"),
        "KICKBENCH_LAB_MEMORY": str(settings.lab_memory_mib),
        "KICKBENCH_LAB_BOOT": f"{settings.lab_boot_s:g}",
        "KICKBENCH_CERTIFICATES": str(settings.certificates),
        "KICKBENCH_RUNTIME": str(settings.runtime),
    }
