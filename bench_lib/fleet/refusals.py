# SPDX-License-Identifier: BSD-3-Clause
"""The connections that the coordinator refused."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bench_lib.fleet.status import Refusal

MOST = 100
"""How many refusals are remembered; then the oldest are forgotten."""

_ANOTHER_CA = "Its certificate is not of this fleet's CA."
_BY_VERIFY_CODE = {
    9: "Its certificate is not valid yet; a clock may be wrong.",
    10: "Its certificate has expired, or a clock is wrong.",
    18: _ANOTHER_CA,
    19: _ANOTHER_CA,
    20: _ANOTHER_CA,
    21: _ANOTHER_CA,
    26: "Its certificate is for another purpose.",
}
"""Sentences for OpenSSL's results of verifying a certificate, X509_V_ERR_*."""
_NO_TLS = "It did not speak TLS."
_BY_REASON = {
    "HTTP_REQUEST": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "It has no certificate.",
    "UNEXPECTED_EOF_WHILE_READING": "It broke off the TLS handshake.",
    "UNSUPPORTED_PROTOCOL": "It does not know TLS 1.3.",
}
"""Sentences for OpenSSL's reasons, SSL_R_*."""
_ALERTS = ("TLSV1_ALERT_", "SSLV3_ALERT_", "TLSV13_ALERT_")
"""How the reasons begin by which OpenSSL passes on that the other end broke off, and why."""


class Refusals(logging.Handler):
    """Remembers refusals, among them the failed TLS handshakes that Dask logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._found: dict[tuple[str, str], Refusal] = {}

    @contextmanager
    def collected(self) -> Iterator[Refusals]:
        """Take down what Dask logs meanwhile."""
        logger = logging.getLogger("distributed.comm.tcp")
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take down a failed handshake. Its parts are the arguments of the message."""
        if isinstance(record.args, tuple) and len(record.args) == 3 and "TLS" in str(record.msg):
            _, address, error = record.args
            self.add(str(address), _sentence(error))

    def add(self, address: str, reason: str) -> None:
        """Take down that a connection was refused.

        :param address: where it came from, with its port, which is left out.
        """
        key = address.removeprefix("tls://").rpartition(":")[0], reason
        before = self._found.pop(key, None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._found[key] = Refusal(*key, (before.times if before else 0) + 1, now)
        while len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def all(self) -> tuple[Refusal, ...]:
        """Return what was refused, the latest last."""
        return tuple(self._found.values())


def _sentence(error: object) -> str:
    """Why a TLS handshake failed. What OpenSSL seldom reports remains in its own words.

    :param error: the error, or a sentence of ours.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        words = error.verify_message
        return _BY_VERIFY_CODE.get(error.verify_code, f"Its certificate is refused: {words}.")
    if isinstance(error, ssl.SSLError) and error.reason:
        for start in _ALERTS:
            if error.reason.startswith(start):
                words = error.reason.removeprefix(start).lower().replace("_", " ")
                return f"It does not trust the coordinator's certificate: {words}."
        words = error.reason.lower().replace("_", " ")
        return _BY_REASON.get(error.reason, f"The TLS handshake failed: {words}.")
    return error if isinstance(error, str) else f"The TLS handshake failed: {error}."
