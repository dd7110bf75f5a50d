# SPDX-License-Identifier: BSD-3-Clause
"""`tools/lint-pages` finds faults in the scripts and the style sheet of the page Kernels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench_lib.settings import CHECKOUT

MISSING = [each for each in ("node", "tsc", "eslint") if shutil.which(each) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)}: `tools/set-up --lint` installs it"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `tools/lint-pages` reads."""
    shutil.copytree(CHECKOUT / "bench_lib" / "pages", tmp_path / "bench_lib" / "pages")
    (tmp_path / "tools").mkdir()
    for name in ("tools/lint-pages", "tools/check_css.js", "tsconfig.json", ".eslintrc.json"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    done = subprocess.run(
        [checkout / "tools" / "lint-pages"], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_pages_have_no_faults(checkout: Path) -> None:
    assert lint(checkout) == (0, "")


@pytest.mark.parametrize(
    "name, fault, message",
    [
        ("plots.js", "const height = parts.count('1', 2);", "error TS2345"),
        ("plots.js", "const nothing = parts.nothing;", "error TS2339"),
        ("kernels.js", "if (kickbench == null) throw new Error();", "eqeqeq"),
        ("kernels.js", "document.body.innerHTML = '';", "Text must enter the page as text"),
        ("kernels.css", "p { colour: red; }", "Unknown property `colour`."),
        ("kernels.css", "p { margin: 1rem 2; }", 'margin cannot have the value "1rem 2".'),
        ("kernels.css", "p { color: var(--nothing); }", "The variable --nothing is not defined."),
        ("kernels.css", "p { color red; }", "Colon is expected."),
        ("kernels.css", "p { top: 0; top: 1px; }", "top is set twice."),
    ],
)
def test_a_fault_is_found_at_its_place(checkout: Path, name: str, fault: str, message: str) -> None:
    path = checkout / "bench_lib" / "pages" / name
    line = len(path.read_text().splitlines()) + 1
    path.write_text(f"{path.read_text()}{fault}\n")
    status, output = lint(checkout)
    assert status == 1
    (found,) = [each for each in output.splitlines() if message in each]
    assert name in found
    assert f":{line}:" in found or f"({line}," in found
