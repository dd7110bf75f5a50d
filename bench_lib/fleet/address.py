# SPDX-License-Identifier: BSD-3-Clause
"""The address of a coordinator."""

from __future__ import annotations

import re

from bench_lib.errors import UsageError

SCHEME = "tls://"

_ADDRESS = re.compile(
    r"(?:tls://)?(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\s/:\[\]]+):(?P<port>\d{1,5})"
)

HIGHEST_PORT = 65535


def url(text: str) -> str:
    """The address of a coordinator as Dask takes it: tls://HOST:PORT.

    :param text: HOST:PORT, with an IPv6 address in brackets.
    :raise UsageError: it has no port, or is not an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= HIGHEST_PORT:
        raise UsageError(
            f"The address of a coordinator is HOST:PORT, such as fleet.example.org:8786 or "
            f"[2001:db8::1]:8786, not {text!r}."
        )
    return f"{SCHEME}{match['host']}:{match['port']}"
