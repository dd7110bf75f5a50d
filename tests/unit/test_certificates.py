# SPDX-License-Identifier: BSD-3-Clause
"""The CA of a fleet, its bundles, and what is refused before anything connects."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from bench_lib.cli import main
from bench_lib.errors import CertificateUnusable, FleetError, FleetMissing, UsageError
from bench_lib.fleet import security
from bench_lib.fleet.bundle import CA, CERTIFICATE, KEY, Role

ALL = ("--coordinator", "c.example.org", "--host", "a", "--host", "b", "--user", "anna")
FILES = {CA, CERTIFICATE, KEY}


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["fleet", "ca", str(folder), *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a CA with a coordinator, two hosts and a user."""
    made = tmp_path / "ca"
    done = run(made, *ALL)
    assert done.exit_code == 0, done.output
    return made


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_bundle_has_what_its_owner_needs(folder: Path) -> None:
    places = {"coordinator": Role.COORDINATOR, "hosts/a": Role.HOST, "users/anna": Role.USER}
    for place, role in places.items():
        bundle = folder / place
        assert {each.name for each in bundle.iterdir()} == FILES
        assert (bundle / CA).read_bytes() == (folder / CA).read_bytes()
        security.check(bundle, role=role)
        assert security.load(bundle, role=role).require_encryption is True


def test_only_the_owner_can_read_keys_whatever_the_umask_is(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    before = os.umask(0)
    try:
        assert run(folder, *ALL).exit_code == 0
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    assert mode(folder / "ca-key.pem") == 0o600
    assert {mode(each) for each in folder.rglob("key.pem")} == {0o600}
    assert {mode(each) for each in folder.rglob("cert.pem")} == {0o644}


def test_certificates_allow_for_slow_clocks_and_differ_in_serial_number(folder: Path) -> None:
    found = [certificate(each) for each in folder.rglob("cert.pem")]
    assert len({each.serial_number for each in found}) == len(found) == 4
    now = datetime.now(UTC)
    for each in found:
        assert now - timedelta(days=2) < each.not_valid_before_utc < now - timedelta(hours=23)
        assert each.not_valid_after_utc - each.not_valid_before_utc == timedelta(days=366)


def test_the_ca_signs_no_other_ca_and_members_sign_nothing(folder: Path) -> None:
    constraints = {
        path: certificate(path).extensions.get_extension_for_class(x509.BasicConstraints).value
        for path in (folder / CA, folder / "hosts" / "a" / CERTIFICATE)
    }
    assert [(each.ca, each.path_length) for each in constraints.values()] == [
        (True, 0),
        (False, None),
    ]


def test_openssl_finds_the_certificates_valid(folder: Path) -> None:
    for place, purpose in [("coordinator", "sslserver"), ("users/anna", "sslclient")]:
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / CA), "-purpose", purpose,
             str(folder / place / CERTIFICATE)],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_names_and_addresses_of_the_coordinator_are_in_its_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    assert run(folder, "--coordinator", "c", "--coordinator", "2001:db8::1").exit_code == 0
    extensions = certificate(folder / "coordinator" / CERTIFICATE).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["c"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["2001:db8::1"]


def test_bundles_are_kept_unless_they_are_to_be_renewed(folder: Path) -> None:
    path = folder / "hosts" / "a" / CERTIFICATE
    others = folder / "hosts" / "b" / CERTIFICATE
    before, other = path.read_bytes(), others.read_bytes()
    done = run(folder, *ALL)
    assert done.exit_code == 0
    assert done.output.count("kept ") == 4
    assert path.read_bytes() == before
    done = run(folder, "--host", "a", "--days", "20", "--renew")
    assert (done.exit_code, done.output.count("renewed")) == (0, 1)
    assert path.read_bytes() != before
    assert others.read_bytes() == other
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]


def test_bundles_are_listed_without_the_key_of_the_ca(folder: Path) -> None:
    (folder / "ca-key.pem").unlink()
    assert run(folder, "--host", "b", "--days", "20", "--renew").exit_code == 66
    (folder / "hosts" / "b" / KEY).write_text("")
    listed = json.loads(run(folder, "--json").stdout)
    assert [(each["role"], each["name"]) for each in listed] == [
        ("coordinator", "c.example.org"),
        ("host", "a"),
        ("host", "b"),
        ("user", "anna"),
    ]
    assert [each["problem"] is None for each in listed] == [True, True, False, True]
    assert {each["days_left"] for each in listed} == {364}
    shown = run(folder)
    assert "valid until" in shown.stdout
    assert "hosts/b/key.pem is not a private key" in shown.stderr


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", "-a", "a b", "ä", "a" * 65])
def test_what_cannot_be_a_name_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    for option in ("--host", "--user", "--coordinator"):
        done = run(tmp_path / "ca", "--host", "good", option, name)
        assert done.exit_code == UsageError.exit_status
    assert not (tmp_path / "ca").exists()


def test_a_folder_that_is_not_of_a_ca_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "letter").write_text("")
    before = mode(home)
    done = run(home, "--host", "a")
    assert (done.exit_code, "has files but no CA" in done.stderr) == (66, True)
    assert (mode(home), [each.name for each in home.iterdir()]) == (before, ["letter"])
    assert run(tmp_path / "missing").exit_code == 66
    assert not (tmp_path / "missing").exists()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "ca", "--host", "a")
    assert done.exit_code == FleetError.exit_status
    assert "cannot be written: Not a directory." in done.stderr


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    done = run(tmp_path / ("a" * 300))
    assert done.exit_code == CertificateUnusable.exit_status
    assert "cannot be read: File name too long" in done.stderr


def test_a_full_disk_is_reported_and_no_part_of_a_bundle_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fchmod(fd: int, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fchmod)
    done = run(folder, "--host", "new")
    assert done.exit_code == FleetError.exit_status
    assert "No space left on device" in done.stderr
    assert not (folder / "hosts" / "new").exists()
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]


def other_ca(folder: Path) -> None:
    assert run(folder.parent / "other", "--host", "z").exit_code == 0


def key_of_another_ca(folder: Path) -> None:
    other_ca(folder)
    shutil.copy(folder.parent / "other" / "ca-key.pem", folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / CA).write_text("x"), "is damaged; restore it from a bundle"),
        (lambda folder: (folder / "ca-key.pem").write_text("x"), "is damaged; restore it from a b"),
        (lambda folder: (folder / "ca-key.pem").chmod(0o640), "chmod 600"),
        (lambda folder: (folder / "ca-key.pem").unlink(), "bring the key back"),
        (key_of_another_ca, "do not belong together"),
    ],
)
def test_a_ca_that_cannot_be_used_is_refused(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    done = run(folder, "--host", "new")
    assert done.exit_code == CertificateUnusable.exit_status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "hosts" / "new").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from bench_lib.cli import main
rename, left = Path.rename, [int(sys.argv[1])]
def killed(self, target):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return rename(self, target)
Path.rename = killed
main(sys.argv[2:])
"""


def killed(renames: int, folder: Path, *words: str) -> None:
    """Run the command, and kill it when it has put some files or folders in their places."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(renames), "fleet", "ca", str(folder), *words],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("renames", range(4))
def test_a_killed_command_leaves_whole_bundles_and_can_be_repeated(
    tmp_path: Path, renames: int
) -> None:
    folder = tmp_path / "ca"
    words = ("--host", "a", "--host", "b")
    killed(renames, folder, *words)
    # The key and the certificate of the CA come first.
    assert len([*(folder / "hosts").glob("*")]) == max(0, renames - 2)
    for bundle in (folder / "hosts").glob("*"):
        security.check(bundle, role=Role.HOST)
    assert run(folder, *words).exit_code == 0
    for name in ("a", "b"):
        security.check(folder / "hosts" / name, role=Role.HOST)
    assert {each.name for each in folder.iterdir()} == {CA, "ca-key.pem", "hosts"}


@pytest.mark.parametrize("renames", range(2))
def test_a_killed_renewal_leaves_no_half_bundle(folder: Path, renames: int) -> None:
    killed(renames, folder, "--host", "a", "--renew")
    bundle = folder / "hosts" / "a"
    assert not bundle.exists() or {each.name for each in bundle.iterdir()} == FILES
    assert run(folder, "--host", "a", "--renew").exit_code == 0
    security.check(bundle, role=Role.HOST)


def test_without_the_extra_the_command_explains_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = run(tmp_path / "ca", "--host", "a")
    assert done.exit_code == FleetMissing.exit_status
    assert "pip install 'kickbench[fleet]'" in done.stderr


def test_the_help_imports_neither_dask_nor_cryptography() -> None:
    code = (
        "import sys; from bench_lib.cli import main\n"
        "try: main(['fleet', 'ca', '--help'])\n"
        "finally: print('imported', *{'dask', 'distributed', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported"


# What `security.check` refuses.


def encrypted(bundle: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (bundle / KEY).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    )


def unreadable(bundle: Path) -> None:
    (bundle / KEY).unlink()
    (bundle / KEY).mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "ca.pem; copy a bundle of `kickbench fleet ca`"),
        (lambda bundle: (bundle / KEY).unlink(), "key.pem; copy a bundle of"),
        (unreadable, "key.pem cannot be read: Is a directory"),
        (lambda bundle: (bundle / KEY).chmod(0o640), "whose mode is 0640; run `chmod 600"),
        (lambda bundle: (bundle / KEY).chmod(0o604), "whose mode is 0604; run `chmod 600"),
        (lambda bundle: (bundle / KEY).write_text("x"), "key.pem is not a private key without a"),
        (encrypted, "key.pem is not a private key without a password"),
        (lambda bundle: (bundle / CERTIFICATE).write_text("x"), "cert.pem is not a certificate"),
        (lambda bundle: (bundle / CA).write_bytes(b"\xff"), "ca.pem is not a certificate"),
        (
            lambda bundle: shutil.copy(bundle.parent / "b" / KEY, bundle),
            "cert.pem and .*key.pem do not belong together",
        ),
    ],
)
def test_a_bundle_that_cannot_be_used_is_refused(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    bundle = folder / "hosts" / "a"
    damage(bundle)
    with pytest.raises(CertificateUnusable, match=words):
        security.check(bundle, role=Role.HOST)


def test_a_certificate_of_another_ca_is_refused(folder: Path) -> None:
    other_ca(folder)
    bundle = folder / "hosts" / "a"
    shutil.copy(folder.parent / "other" / CA, bundle)
    with pytest.raises(CertificateUnusable, match="was not signed by the CA in"):
        security.check(bundle, role=Role.HOST)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (366, "hosts/a/cert.pem has expired: it is valid from .*--host a --renew`"),
        (-2, "ca.pem is not valid yet: .*set the clock if it is wrong"),
        (4000, "ca.pem has expired: .*make a new CA"),
    ],
)
def test_a_certificate_is_refused_at_another_time(folder: Path, days: int, words: str) -> None:
    now = datetime.now(UTC) + timedelta(days=days)
    with pytest.raises(CertificateUnusable, match=words) as raised:
        security.check(folder / "hosts" / "a", role=Role.HOST, now=now)
    assert f"the clock of this machine shows {now:%Y-%m-%d %H:%M} UTC" in str(raised.value)


def test_a_user_may_only_connect(folder: Path) -> None:
    user = folder / "users" / "anna"
    security.check(user, role=Role.USER)
    for role in (Role.HOST, Role.COORDINATOR):
        with pytest.raises(CertificateUnusable, match=f"--{role} NAME"):
            security.check(user, role=role)
        with pytest.raises(CertificateUnusable):
            security.load(user, role=role)
    security.load(folder / "coordinator", role=Role.USER)


def test_the_operator_is_warned_for_the_last_thirty_days(folder: Path) -> None:
    bundle = folder / "hosts" / "a"
    end = certificate(bundle / CERTIFICATE).not_valid_after_utc
    peer = ssl.PEM_cert_to_DER_cert((bundle / CERTIFICATE).read_text())
    for expiry in (security.expiry(bundle), security.expiry_of_peer(peer)):
        assert expiry.days_left(end - timedelta(days=30)) == 30
        assert expiry.warning(end - timedelta(days=30)) is None
        assert expiry.days_left(end - timedelta(days=29, hours=1)) == 29
        warning = expiry.warning(end - timedelta(days=29, hours=1))
        assert warning is not None
        assert f" expires on {end:%Y-%m-%d}" in warning
        assert "--host a --renew" in warning
        assert expiry.days_left(end + timedelta(seconds=1)) == -1
        assert " expired on " in (expiry.warning(end + timedelta(seconds=1)) or "")


def test_a_bundle_expires_with_its_ca(folder: Path) -> None:
    bundle = folder / "hosts" / "a"
    other = folder.parent / "other"
    assert run(other, "--host", "z").exit_code == 0
    shutil.copy(other / "hosts" / "z" / CERTIFICATE, bundle / CA)
    shutil.copy(folder / CA, bundle / CERTIFICATE)  # This one is valid for ten years.
    expiry = security.expiry(bundle)
    assert expiry.what.endswith(CA)
    assert "make a new CA" in expiry.again
