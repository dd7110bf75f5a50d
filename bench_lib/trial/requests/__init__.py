# SPDX-License-Identifier: BSD-3-Clause
"""What an operator asks of a guest, and how long each took.

A clock is read where a request leaves and where its answer arrives (`guest.request_line`,
`guest.gdbstub`, `guest.debugger`, `process`), because whatever lies between there and here would be
ours and not the host's.
"""
