# SPDX-License-Identifier: BSD-3-Clause
"""Check the certificate of this coordinator, host or user, and make Dask use it."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from distributed.security import Security

from bench_lib.errors import CertificateUnusable
from bench_lib.fleet.bundle import CA, CERTIFICATE, KEY, Role

NEW_CA = "make a new CA with `kickbench fleet ca`, and new bundles for all of the fleet"
WARN_DAYS = 30
"""The operator is warned if a certificate is valid for fewer days."""


def load(folder: Path, *, role: Role) -> Security:
    """Check a bundle, and return what makes Dask use it, with TLS 1.3 and for nothing else.

    :raise CertificateUnusable: the bundle cannot be used in this role, here and now.
    """
    check(folder, role=role)
    certificate, key = str(folder / CERTIFICATE), str(folder / KEY)
    # Everything is named, because Dask would take the rest from its configuration files.
    security = Security(
        require_encryption=True,
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        tls_max_version=None,
        tls_ciphers=None,
        tls_ca_file=str(folder / CA),
        tls_client_cert=certificate,
        tls_client_key=key,
        tls_scheduler_cert=certificate,
        tls_scheduler_key=key,
        tls_worker_cert=certificate,
        tls_worker_key=key,
    )
    _try_out(security, folder, role)
    return security


def check(folder: Path, *, role: Role, now: datetime | None = None) -> None:
    """Check a bundle.

    :param now: the present time, with a time zone; by default that of the clock.
    :raise CertificateUnusable: the bundle cannot be used in this role, here and now.
    """
    authorities = _certificates(folder / CA)
    certificate = _certificates(folder / CERTIFICATE)[0]
    key = _read(folder / KEY)
    mode = stat.S_IMODE((folder / KEY).stat().st_mode)
    if mode & 0o077:
        raise CertificateUnusable(
            f"Other users of this machine may use the key {folder / KEY}, whose mode is "
            f"{mode:04o}; run `chmod 600 {folder / KEY}`."
        )
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise CertificateUnusable(
            f"{folder / KEY} is not a private key without a password; copy the whole bundle "
            "from the folder of `kickbench fleet ca` again."
        ) from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise CertificateUnusable(
            f"{folder / CERTIFICATE} and {folder / KEY} do not belong together; copy the whole "
            "bundle from the folder of `kickbench fleet ca` again."
        )
    issuer = _issuer(certificate, authorities)
    if issuer is None:
        raise CertificateUnusable(
            f"{folder / CERTIFICATE} was not signed by the CA in {folder / CA}; copy the whole "
            "bundle from the folder of `kickbench fleet ca` of this fleet."
        )
    now = now or datetime.now(UTC)
    _check_time(issuer, folder / CA, NEW_CA, now)
    _check_time(certificate, folder / CERTIFICATE, _again(certificate), now)
    _check_purpose(certificate, folder / CERTIFICATE, role)


@dataclass(frozen=True)
class Expiry:
    """When a certificate expires.

    :ivar what: which certificate it is, in words that begin a sentence.
    :ivar again: how to make it again, as the end of a sentence.
    """

    what: str
    end: datetime
    again: str

    def days_left(self, now: datetime | None = None) -> int:
        """Return for how many whole days it is still valid; negative if it has expired."""
        return (self.end - (now or datetime.now(UTC))) // timedelta(days=1)

    def warning(self, now: datetime | None = None) -> str | None:
        """Return a sentence if it expires within `WARN_DAYS` days."""
        days = self.days_left(now)
        if days >= WARN_DAYS:
            return None
        expires = "expires" if days >= 0 else "expired"
        return f"{self.what} {expires} on {self.end:%Y-%m-%d %H:%M} UTC; {self.again}."


def expiry(folder: Path) -> Expiry:
    """Return when a bundle expires.

    :raise CertificateUnusable: its certificates cannot be read.
    """
    authority, certificate = (_certificates(folder / name)[0] for name in (CA, CERTIFICATE))
    if authority.not_valid_after_utc < certificate.not_valid_after_utc:
        return Expiry(str(folder / CA), authority.not_valid_after_utc, NEW_CA)
    again = _again(certificate)
    return Expiry(str(folder / CERTIFICATE), certificate.not_valid_after_utc, again)


def expiry_of_peer(certificate: bytes) -> Expiry:
    """Return when the certificate at the other end of a connection expires.

    :param certificate: the certificate in DER, as the connection has it.
    """
    found = x509.load_der_x509_certificate(certificate)
    return Expiry("Its certificate", found.not_valid_after_utc, _again(found, "there"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateUnusable(
            f"There is no {path}; copy a bundle of `kickbench fleet ca` to {path.parent}, or name "
            "its folder with --certificates."
        ) from None
    except OSError as error:
        raise CertificateUnusable(
            f"{path} cannot be read: {error.strerror}; run kickbench as the owner of the file."
        ) from None


def _certificates(path: Path) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise CertificateUnusable(
            f"{path} is not a certificate; copy the whole bundle from the folder of "
            "`kickbench fleet ca` again."
        ) from None


def _issuer(
    certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    for each in authorities:
        try:
            certificate.verify_directly_issued_by(each)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return each
    return None


def _check_time(certificate: x509.Certificate, path: Path, again: str, now: datetime) -> None:
    """Compare the time of the clock with that of a certificate.

    :param again: how to make a new one.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin <= now <= end:
        return
    what = "has expired" if now > end else "is not valid yet"
    raise CertificateUnusable(
        f"{path} {what}: it is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and "
        f"the clock of this machine shows {now:%Y-%m-%d %H:%M} UTC; set the clock if it is wrong, "
        f"else {again}."
    )


def _again(certificate: x509.Certificate, where: str = "here") -> str:
    """How to make a certificate again, and copy it to a place, as a part of a sentence."""
    subject = certificate.subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    units = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if not names or not units or units[0].value not in set(Role):
        return f"have a new certificate made where this one was made, and copy it {where}"
    return (
        f"run `kickbench fleet ca FOLDER --{units[0].value!s} {names[0].value!s} --renew` in the "
        f"CA's folder, and copy the new bundle {where}"
    )


def _check_purpose(certificate: x509.Certificate, path: Path, role: Role) -> None:
    """A coordinator and a host also take connections; the certificate of a user is not for that."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # Without the extension, it is for everything.
    except ValueError:
        raise CertificateUnusable(
            f"{path} is damaged: its extensions cannot be read; {_again(certificate)}."
        ) from None
    if role is not Role.USER and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CertificateUnusable(
            f"{path} is the certificate of a user, and a {role} needs one of its own; make it with "
            f"`kickbench fleet ca FOLDER --{role} NAME`, and copy its bundle here."
        )


def _try_out(security: Security, folder: Path, role: Role) -> None:
    """Let both ends of a TLS connection use the bundle, as Dask would, without a network.

    :raise CertificateUnusable: OpenSSL refuses it.
    """
    try:
        connecting = security.get_connection_args("client")["ssl_context"]
        listening = security.get_listen_args("scheduler")["ssl_context"]
        if role is Role.USER:
            connecting.verify_mode = ssl.CERT_NONE  # A user takes no connections.
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = connecting.wrap_bio(back, there, server_side=False)
        server = listening.wrap_bio(there, back, server_side=True)
        for end in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or str(error)
        raise CertificateUnusable(
            f"OpenSSL refuses the certificate in {folder}: {reason}; make a new one with "
            "`kickbench fleet ca`."
        ) from None
