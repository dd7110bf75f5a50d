# SPDX-License-Identifier: BSD-3-Clause
"""What a guest can be going through, each staged, stranded, released and recovered in its way."""
