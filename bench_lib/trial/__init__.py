# SPDX-License-Identifier: BSD-3-Clause
"""Trials: a scenario is staged and proved, a request made and timed, all of it recorded."""
