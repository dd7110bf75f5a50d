# SPDX-License-Identifier: BSD-3-Clause
"""A guest: its image, QEMU's command line and process, monitors, serial ports and debuggers."""
