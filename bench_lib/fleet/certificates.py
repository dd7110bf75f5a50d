# SPDX-License-Identifier: BSD-3-Clause
"""The CA of a fleet: a folder with its key, and the bundles of coordinator, hosts and users."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench_lib import lock
from bench_lib.errors import CertificateUnusable, FleetError, UsageError
from bench_lib.fleet import security
from bench_lib.fleet.bundle import CA, CA_DAYS, CERTIFICATE, KEY, Role

CA_KEY = "ca-key.pem"
EARLIER = timedelta(days=1)
"""Certificates are valid from a day ago, because the clocks of hosts may be slow."""

_NEW = ".new-"
"""The prefix of folders that are not complete yet."""
_FOLDERS = {Role.HOST: "hosts", Role.USER: "users"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True)
class Bundle:
    """A bundle in the folder of a CA.

    :ivar expires: when its certificate expires; None if that cannot be read.
    :ivar problem: why the bundle cannot be used, as a sentence.
    :ivar warning: that it expires soon, as a sentence.
    """

    role: Role
    name: str
    folder: str
    expires: datetime | None
    days_left: int | None
    problem: str | None
    warning: str | None


@dataclass(frozen=True)
class Made:
    """What became of a bundle that was asked for: it was `made`, `renewed` or `kept`."""

    done: str
    bundle: Bundle


@dataclass(frozen=True)
class Authority:
    """A CA. Everything that it signs is trusted by all of its fleet."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def make(self, role: Role, names: Sequence[str], days: int, *, renew: bool) -> Made:
        """Make a bundle, or keep the one that exists.

        :param names: the name of the host or the user, or the names of the coordinator.
        :param days: for how long the certificate is valid. It does not outlive the CA.
        :param renew: replace a bundle that exists.
        :raise UsageError: a name cannot be one.
        :raise FleetError: the bundle cannot be written.
        """
        check_names(role, names)
        folder = self.folder / _place(role, names[0])
        existed = folder.exists()
        if existed and not renew:
            return Made("kept", _examine(role, names[0], folder))
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(role, names, key.public_key(), days)
        with _writing(folder), _unfinished(self.folder) as new:
            made = new / "bundle"
            made.mkdir(mode=0o700)
            _write(made / CA, _pem(self.certificate), 0o644)
            _write(made / CERTIFICATE, _pem(certificate), 0o644)
            _write(made / KEY, _private(key), 0o600)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            if existed:
                folder.rename(new / "old")
            made.rename(folder)
        return Made("renewed" if existed else "made", _examine(role, names[0], folder))

    def _sign(
        self, role: Role, names: Sequence[str], public: ec.EllipticCurvePublicKey, days: int
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role is not Role.USER:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        end = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = (
            _builder(_name(role, names[0]), self.certificate.subject, public, now, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_issued_by(self.key.public_key()), critical=False)
        )
        if role is not Role.USER:
            others = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(others, critical=False)
        return builder.sign(self.key, hashes.SHA256())


@contextmanager
def opened(folder: Path) -> Iterator[Authority]:
    """Give the CA of a folder, which is made if the folder is new or empty, and lock the folder.

    :raise CertificateUnusable: the folder has no CA, or one that cannot be used.
    :raise FleetError: the folder cannot be written.
    """
    _begin(folder)
    with lock.held(folder):
        for left in folder.glob(f"{_NEW}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield _read(folder) if (folder / CA).exists() else _complete(folder)


def bundles(folder: Path) -> list[Bundle]:
    """Return all bundles in the folder of a CA. Its key is not needed.

    :raise CertificateUnusable: the folder has no CA, or cannot be read.
    """
    try:
        if not (folder / CA).exists():
            raise CertificateUnusable(
                f"{folder} is not the folder of a CA; to make one there, add --coordinator NAME, "
                "--host NAME or --user NAME."
            )
        found = [(Role.COORDINATOR, folder / Role.COORDINATOR)]
        for role, place in _FOLDERS.items():
            found += [(role, each) for each in sorted((folder / place).glob("*"))]
        return [_examine(role, each.name, each) for role, each in found if each.is_dir()]
    except OSError as error:
        raise CertificateUnusable(
            f"{folder} cannot be read: {error.strerror}; run kickbench as its owner."
        ) from None


def check_names(role: Role, names: Sequence[str]) -> None:
    """Check the name of a host or a user, or the names of a coordinator.

    :raise UsageError: a name cannot be one.
    """
    for name in names:
        if role is Role.COORDINATOR and _address(name):
            continue
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be the name of a {role}; use up to 64 letters, digits and "
                "._@+-, and begin with a letter or a digit."
            )


def _begin(folder: Path) -> None:
    """Make the folder if it is missing.

    :raise CertificateUnusable: it has other files, so that its mode should not be changed.
    """
    with _writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {CA, CA_KEY}
        inside = {each.name for each in folder.iterdir() if not each.name.startswith(_NEW)}
        if inside and not inside & known:
            raise CertificateUnusable(
                f"{folder} has files but no CA; name a new folder, or the folder of a CA."
            )
        if not inside:
            folder.chmod(0o700)


def _complete(folder: Path) -> Authority:
    """Make the CA. The key is written first; a command may have been killed before the rest."""
    if (folder / CA_KEY).exists():
        key = _key(folder)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        with _writing(folder):
            _put(folder / CA_KEY, _private(key), 0o600)
    now = datetime.now(UTC)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "kickbench"),
            # Fleets may be told apart by it.
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"kickbench fleet {x509.random_serial_number():040x}"[:32]
            ),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    with _writing(folder):
        _put(folder / CA, _pem(certificate), 0o644)
    return Authority(folder, key, certificate)


def _read(folder: Path) -> Authority:
    """Read a CA.

    :raise CertificateUnusable: it cannot be used.
    """
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
    except (OSError, ValueError):
        raise CertificateUnusable(
            f"{folder / CA} is damaged; restore it from a bundle, each of which has a copy."
        ) from None
    key = _key(folder)
    if key.public_key() != certificate.public_key():
        raise CertificateUnusable(
            f"{folder / CA} and {folder / CA_KEY} do not belong together; restore the folder from "
            "a backup, or make a new CA in a new folder."
        )
    end = certificate.not_valid_after_utc
    if end < datetime.now(UTC):
        raise CertificateUnusable(
            f"The CA in {folder} expired on {end:%Y-%m-%d}; make a new one in a new folder, and "
            "new bundles for all of the fleet."
        )
    return Authority(folder, key, certificate)


def _key(folder: Path) -> ec.EllipticCurvePrivateKey:
    path = folder / CA_KEY
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise CertificateUnusable(
            f"There is no {path}; to make certificates, bring the key back from where it is kept."
        ) from None
    except OSError as error:
        raise CertificateUnusable(f"{path} cannot be read: {error.strerror}.") from None
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateUnusable(
            f"{path} is damaged; restore it from a backup, or make a new CA in a new folder."
        )
    if path.stat().st_mode & 0o077:
        raise CertificateUnusable(
            f"Other users of this machine may use the key of the CA; run `chmod 600 {path}`."
        )
    return key


def _examine(role: Role, name: str, folder: Path) -> Bundle:
    expires = days = problem = warning = None
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        expires = certificate.not_valid_after_utc
        if role is Role.COORDINATOR:
            name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        expiry = security.expiry(folder)
        days, warning = expiry.days_left(), expiry.warning()
        security.check(folder, role=role)
    except CertificateUnusable as error:
        problem = str(error)
    except (OSError, ValueError, IndexError):
        problem = f"{folder / CERTIFICATE} is missing or damaged; make the bundle with --renew."
    return Bundle(role, name, str(folder), expires, days, problem, warning)


def _place(role: Role, name: str) -> Path:
    return Path(_FOLDERS[role], name) if role in _FOLDERS else Path(role)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _alternative(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.IPAddress(address) if address else x509.DNSName(name)


def _name(role: Role, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "kickbench"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _issued_by(public: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Give a new folder beside the bundles, which is deleted in the end."""
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FleetError(f"{path} cannot be written: {error.strerror}.") from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file. Other users cannot read it before it has its mode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        os.fchmod(fd, mode)


def _put(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all."""
    with _unfinished(path.parent) as new:
        _write(new / path.name, data, mode)
        (new / path.name).rename(path)
