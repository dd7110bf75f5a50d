# SPDX-License-Identifier: BSD-3-Clause
"""Explain what the threads of running guests wait for, to an operator in the middle of an outage.

It only reads /proc: it does not attach, trace, send a signal or query a monitor.
"""
