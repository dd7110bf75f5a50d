# SPDX-License-Identifier: BSD-3-Clause
"""Postcopy migration: its two sides, the commands that drive it, and the managers that run it."""

from bench_lib.migration.endpoint import Endpoint, Phase
from bench_lib.migration.manager import Manager, QemuManager
from bench_lib.migration.postcopy import PORT, Migration

__all__ = ["PORT", "Endpoint", "Manager", "Migration", "Phase", "QemuManager"]
