"""Kernels: the booted one, and the ledger of known builds."""
