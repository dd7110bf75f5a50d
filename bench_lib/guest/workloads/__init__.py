# SPDX-License-Identifier: BSD-3-Clause
"""What runs in a guest, and how one sees that it is up, dirty and undamaged."""
