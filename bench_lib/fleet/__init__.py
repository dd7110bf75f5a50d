# SPDX-License-Identifier: BSD-3-Clause
"""Many hosts: a coordinator gives boots to them, by Dask.distributed, and keeps their records."""
