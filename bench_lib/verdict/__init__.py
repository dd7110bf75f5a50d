# SPDX-License-Identifier: BSD-3-Clause
"""What records say: pure functions over them, and nothing that starts a process."""
