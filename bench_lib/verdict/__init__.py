# SPDX-License-Identifier: BSD-3-Clause
"""Statistics over records, and the gate: pure functions that start no process."""
