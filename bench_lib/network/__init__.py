# SPDX-License-Identifier: BSD-3-Clause
"""The network between two guests: namespaces, a veth, its outages, and TCP over it."""
