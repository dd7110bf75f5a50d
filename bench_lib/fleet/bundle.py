# SPDX-License-Identifier: BSD-3-Clause
"""The folder in which a coordinator, a host or a user keeps its certificate."""

from __future__ import annotations

import importlib.util
from enum import StrEnum

from bench_lib.errors import FleetMissing

CA = "ca.pem"
"""The certificate of the fleet's CA."""
CERTIFICATE = "cert.pem"
KEY = "key.pem"
"""The private key of the certificate."""

CA_DAYS = 3650
"""For how many days a CA is valid, so no certificate is valid for longer."""
DAYS = 365
"""For how many days a certificate is valid, if nothing else is asked for."""


class Role(StrEnum):
    """What a certificate is for."""

    COORDINATOR = "coordinator"
    HOST = "host"
    USER = "user"
    """It may only connect. A coordinator or a host needs another one."""


def require_extra() -> None:
    """Check that kickbench was installed with what a fleet needs.

    :raise FleetMissing: it was not.
    """
    for package in ("cryptography", "distributed"):
        if importlib.util.find_spec(package) is None:
            raise FleetMissing(
                f"A fleet needs the Python package {package}; "
                "install it with `pip install 'kickbench[fleet]'`."
            )
