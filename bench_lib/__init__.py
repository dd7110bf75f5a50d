# SPDX-License-Identifier: BSD-3-Clause
"""kickbench: when a guest is stuck, does the host still obey its operator?"""

__version__ = "0.1.0"
