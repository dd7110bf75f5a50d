# SPDX-License-Identifier: BSD-3-Clause
"""The page Kernels of the site: what each kernel did with each request, and its trials."""
