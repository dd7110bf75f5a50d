# SPDX-License-Identifier: BSD-3-Clause
"""Find out why a coordinator cannot be reached."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from distributed.comm.core import connect
from distributed.security import Security

from bench_lib.errors import FleetError, FleetRefused, FleetUnreachable

LIMIT_S = 10.0
"""Seconds that a connection may take."""


async def check(url: str, security: Security, role: str) -> None:
    """Connect to a coordinator once, and disconnect.

    :param url: its address, as `address.url` returns it.
    :param role: the role of this end, in Dask's words: "worker" or "client".
    :raise FleetUnreachable: it cannot be reached.
    :raise FleetRefused: it is reached, but one end refuses the other's certificate.
    """
    try:
        connection = await connect(url, timeout=LIMIT_S, **security.get_connection_args(role))
    # ValueError: tornado raises it if the other end hangs up just before TLS begins.
    except (OSError, TimeoutError, ValueError) as error:
        raise explained(url, error) from None
    await connection.close()


def explained(url: str, error: BaseException) -> FleetError:
    """The error of kickbench for an error of Dask's connection."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ssl.SSLError):
            # Only errors that come from OpenSSL have these attributes.
            told = (getattr(each, name, None) for name in ("verify_message", "reason"))
            reason = next(filter(None, told), str(each))
            return FleetRefused(
                f"The coordinator at {url} and this host do not trust each other's certificates "
                f"({reason}); both have to be of the same fleet, and their clocks have to be right."
            )
    for each in chain:
        if isinstance(each, socket.gaierror):
            return FleetUnreachable(
                f"There is no host of the name in {url} ({each.strerror}); check the address."
            )
    # The innermost error is the system's, such as "Connection refused".
    reasons = [each.strerror for each in chain if isinstance(each, OSError) and each.strerror]
    why = reasons[-1] if reasons else f"no answer within {LIMIT_S:.0f} s"
    return FleetUnreachable(
        f"The coordinator at {url} cannot be reached ({why}); check that `kickbench fleet "
        "coordinator` runs there, and that no firewall is in between."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and the errors that it comes from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        # Tornado keeps the error of TLS beside the error that a connection is closed.
        found = found.__cause__ or getattr(found, "real_error", None) or found.__context__
