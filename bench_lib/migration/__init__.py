# SPDX-License-Identifier: BSD-3-Clause
"""A pair of guests, the states of a postcopy migration between them, and who runs them."""

from bench_lib.migration.endpoint import Endpoint, Phase
from bench_lib.migration.manager import Manager, QemuManager
from bench_lib.migration.postcopy import PORT, Migration

__all__ = ["PORT", "Endpoint", "Manager", "Migration", "Phase", "QemuManager"]
