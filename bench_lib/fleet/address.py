# SPDX-License-Identifier: BSD-3-Clause
"""The address of a coordinator."""

from __future__ import annotations

import re

from bench_lib.errors import UsageError

SCHEME = "tls://"

DEFAULT_PORT = 8786
"""The port of a coordinator, which is that of Dask's schedulers."""

_ADDRESS = re.compile(
    r"(?:tls://)?(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\s/:\[\]]+)(?::(?P<port>\d{1,5}))?"
)

HIGHEST_PORT = 65535


def url(text: str) -> str:
    """The address of a coordinator as Dask takes it: tls://HOST:PORT.

    :param text: HOST or HOST:PORT, with an IPv6 address in brackets.
    :raise UsageError: it is not an address.
    """
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match is not None else 0
    if match is None or not 0 < port <= HIGHEST_PORT:
        raise UsageError(
            f"The address of a coordinator is HOST or HOST:PORT, such as fleet.example.org or "
            f"[2001:db8::1]:{DEFAULT_PORT}, not {text!r}."
        )
    return f"{SCHEME}{match['host']}:{port}"
