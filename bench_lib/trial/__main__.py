# SPDX-License-Identifier: BSD-3-Clause
"""Runs trials inside a lab, for the host of the lab.

    python -m bench_lib.trial FILE

FILE holds cases, as `case.to_json` encodes them. This makes one trial per case, in that order, and
writes each record as a line to stdout when it is made.
"""

import sys
from pathlib import Path

from bench_lib import record
from bench_lib.errors import KickbenchError
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.batch import NativeRunner


def main() -> int:
    """Run the trials.

    :return: the exit status of an error, as for the command line; 0 even if trials were lost,
        because the records have that.
    """
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
