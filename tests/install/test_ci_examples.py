# SPDX-License-Identifier: BSD-3-Clause
"""The examples of docs/ci, run unchanged in a fresh Debian tree with a container's rights."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from bench_lib import record
from bench_lib.trial.case import CORE_SCENARIOS
from tests.conftest import CHECKOUT
from tests.install import tree
from tests.install.tree import CONTAINER, Tree

pytestmark = pytest.mark.timeout(1800)

HANG_S = 1500
"""Seconds that a step may take: only a hang takes as long."""

SUITES = {"debian:12": "bookworm", "debian:13": "trixie"}
"""The suite of each container image."""

REPOSITORY = "repository.git"

CHOICES = {
    "BASE": "debian/6.12",
    "CANDIDATE": "debian/6.1",
    "BOOTS": "1",
    "KICKBENCH": f"file:///{REPOSITORY}",
}
"""The choices that the examples leave to their users. One boot per kernel settles nothing, but
runs everything."""

INCONCLUSIVE = 2

RUNNER = {**tree.PATIENCE, "KICKBENCH_JOBS": "2", "KICKBENCH_DEADLINE": "2"}
"""The settings of the runner: both kernels are booted at once, even on two CPUs, and a hang takes
only two seconds."""


@dataclass(frozen=True)
class Step:
    """A script for one shell. :ivar env: what it has beside the container's environment."""

    script: str
    env: dict[str, str]


@dataclass(frozen=True)
class Example:
    """An example.

    :ivar image: the image of its container.
    :ivar artifacts: the files that it keeps.
    """

    image: str
    steps: Sequence[Step]
    artifacts: Sequence[str]


def _gitlab() -> Example:
    """GitLab runs all lines of a job as one script, which ends at the first line that fails."""
    job = _read("gitlab.yml")["kernel gate"]
    assert set(job["variables"]) == set(CHOICES)
    kept = job["artifacts"]
    return Example(
        job["image"],
        [Step("\n".join(job["script"]), CHOICES)],
        [kept["reports"]["junit"], *kept["paths"]],
    )


def _github() -> Example:
    """GitHub runs each step in its own shell, after it has replaced what is in `${{ }}`."""
    job = _read("github.yml")["jobs"]["gate"]

    def replaced(text: str) -> str:
        return re.sub(r"\$\{\{ *\w+\.(\w+) *\}\}", lambda match: CHOICES[match[1].upper()], text)

    (kept,) = (step for step in job["steps"] if "uses" in step)
    steps = [
        Step(step["run"], {name: replaced(text) for name, text in step.get("env", {}).items()})
        for step in job["steps"]
        if "run" in step
    ]
    return Example(job["container"], steps, kept["with"]["path"].split())


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHECKOUT / "docs" / "ci" / name).read_text())
    return found


EXAMPLES = {"gitlab": _gitlab, "github": _github}


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One tree for all examples, like a runner that is used again."""
    (image,) = {example().image for example in EXAMPLES.values()}
    with tree.fresh(SUITES[image], tmp_path_factory.mktemp("ci") / "tree", CONTAINER) as made:
        subprocess.run(
            ["git", "clone", "--quiet", "--bare", CHECKOUT, made.root / REPOSITORY], check=True
        )
        yield made


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_judges_a_kernel_in_a_container(container: Tree, name: str) -> None:
    example = EXAMPLES[name]()
    folder = container.root / "builds" / name
    folder.mkdir()
    for step in example.steps:
        script = f"cd {name}\nset -e\n{step.script}"
        done = container.run("sh", "-c", script, env={**RUNNER, **step.env}, timeout_s=HANG_S)
        expected = INCONCLUSIVE if step is example.steps[-1] else 0
        assert done.returncode == expected, done.stdout

    junit, records = (folder / path for path in example.artifacts)
    cases = [*ElementTree.parse(junit).getroot().iter("testcase")]
    assert {case.attrib["classname"].rpartition(".")[2] for case in cases} == set(CORE_SCENARIOS)
    made, damaged = record.read(records)
    assert not damaged
    assert {each.kernel.release.split(".")[1] for each in made} == {"1", "12"}
    # /sys has the modules of a KVM that nests, but there is no device.
    assert {(each.host.kind, each.host.accelerator) for each in made} == {("lab", "tcg")}
