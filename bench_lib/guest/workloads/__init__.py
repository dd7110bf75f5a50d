# SPDX-License-Identifier: BSD-3-Clause
"""What runs in a guest, and how to see that it is up, dirties its memory, and finds it whole."""
