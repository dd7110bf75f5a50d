# SPDX-License-Identifier: BSD-3-Clause
"""The page Kernels of the site: the outcomes of requests under each kernel, and their trials."""
