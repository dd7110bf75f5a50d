# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: one module per request."""
