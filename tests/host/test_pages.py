# SPDX-License-Identifier: BSD-3-Clause
"""Commands of the pages that need KVM: only their exit status is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import pages
from tests.pages import PAGES, Block

BLOCKS = [block for page in PAGES for block in pages.blocks(page) if block.kvm]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.page.name)
def test_a_command_works_as_its_page_shows_it(block: Block, clean_host: Path) -> None:
    done = pages.run(block, clean_host)
    assert done.returncode == block.exits, done.stdout


def test_there_are_commands_that_need_kvm() -> None:
    assert len(BLOCKS) == 2
