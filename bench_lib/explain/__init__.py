# SPDX-License-Identifier: BSD-3-Clause
"""What the threads of running guests wait for, for an operator in the middle of an outage.

Read-only: nothing is attached to, traced, signalled or asked.
"""
