# SPDX-License-Identifier: BSD-3-Clause
"""Make the page docs/what-obeys.md, in the checkout that is the working folder.

    .venv/bin/python -m tools.what_obeys [FILE ...]

A FILE has records (the record file, .jsonl) or one report (`kickbench probe --json`, .json); either
may be compressed (.xz). What the page uses of them replaces docs/sample/what-obeys, from which the
page is made. Without a FILE the page is made again from there.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from .cells import Input, read, store, used
from .predictions import PREDICTIONS, reasons
from .tables import made

PAGE = Path("docs/what-obeys.md")
INPUT = Path("docs/sample/what-obeys")


def main(paths: Sequence[str]) -> None:
    """Keep what the page needs of these files, and write the page."""
    all_reasons = reasons(PREDICTIONS)
    if paths:
        found = read(map(Path, paths))
        kept = used(found.records, all_reasons)
        if left := len(found.records) - len(kept):
            what = "1 record belongs" if left == 1 else f"{left} records belong"
            print(f"{what} to no row of the page.", file=sys.stderr)
        store(Input(kept, found.reports), INPUT)
    PAGE.write_text(made(PAGE.read_text(), read(sorted(INPUT.iterdir())), all_reasons))


if __name__ == "__main__":
    main(sys.argv[1:])
