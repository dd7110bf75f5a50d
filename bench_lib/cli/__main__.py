# SPDX-License-Identifier: BSD-3-Clause
"""The command line without an installed command: `python -m bench_lib.cli`."""

from bench_lib.cli import main

main(prog_name="kickbench")
