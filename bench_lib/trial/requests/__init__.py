# SPDX-License-Identifier: BSD-3-Clause
"""The requests that an operator makes, and how to make each.

The clock is read where a request leaves and where its answer arrives (`guest.request_line`,
`guest.gdbstub`, `guest.debugger`, `process`). Read here, it would include time that kickbench
spends and not the host.
"""
