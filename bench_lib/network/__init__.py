# SPDX-License-Identifier: BSD-3-Clause
"""The network between two guests: namespaces, a veth, and what goes wrong with it."""
