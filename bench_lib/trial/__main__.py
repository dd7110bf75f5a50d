# SPDX-License-Identifier: BSD-3-Clause
"""Runs trials for a host outside: how a lab is told what to do, and answers.

    python -m bench_lib.trial FILE

FILE holds cases as `case.to_json` gives them. One trial each, in this order; a record a line on
stdout, as each is made.
"""

import sys
from pathlib import Path

from bench_lib import record
from bench_lib.errors import KickbenchError
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.batch import NativeRunner


def main() -> int:
    """Exit as the command line does, but do not count lost trials: the records tell."""
    try:
        NativeRunner(Settings.from_environment()).run(
            case.from_json(Path(sys.argv[1]).read_text()),
            on_record=lambda made: print(record.to_line(made), flush=True),  # noqa: T201
        )
    except KickbenchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
