# SPDX-License-Identifier: BSD-3-Clause
"""File systems and devices that guests get their memory from, and their stalls."""
