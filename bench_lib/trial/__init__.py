# SPDX-License-Identifier: BSD-3-Clause
"""Trials: stage and prove a scenario, make and time a request, and record all of it."""
