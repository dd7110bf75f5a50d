# SPDX-License-Identifier: BSD-3-Clause
"""Who may connect to a coordinator, and what it notices of the others: over real connections."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from distributed import Client, Scheduler, Worker
from distributed.comm.core import connect
from distributed.security import Security

from bench_lib.errors import CertificateUnusable, FleetRefused
from bench_lib.fleet import certificates, configuration, handshakes, reach, security
from bench_lib.fleet.bundle import CA, CERTIFICATE, KEY, Role
from bench_lib.fleet.refusals import Refusals
from bench_lib.fleet.status import HostState, Refusal
from tests.conftest import HANG_S
from tests.fleet.fleet import KICKBENCH, Fleet
from tests.fleet.test_refused import another


@dataclass(frozen=True)
class Running:
    """A scheduler that is configured like that of a coordinator."""

    scheduler: Scheduler
    refusals: Refusals

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.scheduler.port}"

    async def refused(self, times: int = 1) -> Refusal:
        """Wait until connections from one place were refused for one reason."""
        async with asyncio.timeout(HANG_S):
            while True:
                for found in self.refusals.all():
                    if found.times >= times:
                        return found
                await asyncio.sleep(0.01)

    async def refused_for(self, reason: str) -> None:
        """Wait until a connection was refused for a reason."""
        async with asyncio.timeout(HANG_S):
            while True:
                if any(each.reason == reason for each in self.refusals.all()):
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(ca: Path) -> AsyncIterator[Running]:
    configuration.for_coordinator(dashboard=False)
    with Refusals().collected() as refusals:
        async with Scheduler(
            host="127.0.0.1",
            port=0,
            dashboard=False,
            dashboard_address=configuration.HTTP_ADDRESS,
            security=security.load(ca / "coordinator", role=Role.COORDINATOR),
        ) as scheduler:
            yield Running(scheduler, refusals)


def worker(url: str, credentials: Security, folder: Path) -> Worker:
    """A worker that is configured like that of a host.

    :param folder: where Dask makes its own folder.
    """
    configuration.for_worker()
    return Worker(
        url,
        host="127.0.0.1",
        nthreads=1,
        security=credentials,
        memory_limit=0,
        dashboard=False,
        dashboard_address=configuration.HTTP_ADDRESS,
        local_directory=str(folder / "dask"),
    )


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return made(tmp_path / "ca")


def made(folder: Path) -> Path:
    """Make a CA with a coordinator, a host and a user."""
    with certificates.opened(folder) as authority:
        authority.make(Role.COORDINATOR, ["localhost"], 30, renew=False)
        authority.make(Role.HOST, ["a"], 30, renew=False)
        authority.make(Role.USER, ["anna"], 30, renew=False)
    return folder


def unchecked(bundle: Path, ca: Path | None = None, **versions: ssl.TLSVersion) -> Security:
    """What Dask uses for a bundle that `security.load` might refuse.

    :param ca: the folder with the CA that is trusted, if it is not that of the bundle.
    """
    trusted = str((ca or bundle) / CA)
    parts = {
        f"tls_{role}_{part}": str(bundle / name)
        for role in ("client", "worker")
        for part, name in (("cert", CERTIFICATE), ("key", KEY))
    }
    return Security(require_encryption=True, tls_ca_file=trusted, **parts, **versions)


def test_hosts_and_users_of_the_fleet_work_together(ca: Path) -> None:
    async def run() -> None:
        async with running(ca) as at:
            host = security.load(ca / "hosts" / "a", role=Role.HOST)
            await reach.check(at.url, host, "worker")
            async with worker(at.url, host, ca) as there:
                configuration.leave_alone(there)
                user = security.load(ca / "users" / "anna", role=Role.USER)
                async with Client(at.url, security=user, asynchronous=True) as client:
                    assert await client.submit(sum, [1, 2]) == 3
                (connection,) = at.scheduler.stream_comms.values()
                assert connection.comm is not None
                assert connection.comm.extra_info["cipher"][1] == "TLSv1.3"
            assert at.refusals.all() == ()

    asyncio.run(run())


def expired(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CA whose host has a certificate that has expired."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "datetime", Past)
        with certificates.opened(folder) as authority:
            authority.make(Role.HOST, ["a"], 30, renew=True)
    return folder


class Past(datetime):
    """A clock that is 60 days slow."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Past:
        return cls.fromtimestamp((datetime.now(tz) - timedelta(days=60)).timestamp(), tz)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("expired", "Its certificate has expired, or a clock is wrong."),
        ("foreign", "Its certificate is not of this fleet's CA."),
    ],
)
def test_a_worker_with_a_wrong_certificate_does_not_get_in(
    ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sentence: str
) -> None:
    if kind == "expired":
        credentials = unchecked(expired(ca, monkeypatch) / "hosts" / "a")
    else:
        credentials = unchecked(made(tmp_path / "other") / "hosts" / "a", ca)

    async def run() -> None:
        async with running(ca) as at:
            with pytest.raises(FleetRefused):
                await reach.check(at.url, credentials, "worker")
            assert (await at.refused()).times == 1
            # Dask's own worker tries again and again.
            there = worker(at.url, credentials, ca)
            joining = asyncio.ensure_future(there)
            found = await at.refused(times=3)
            assert (found.address, found.reason) == ("127.0.0.1", sentence)
            assert len(at.refusals.all()) == 1
            assert not at.scheduler.workers
            assert not joining.done()
            joining.cancel()
            with suppress(asyncio.CancelledError):
                await joining
            await there.close()

    asyncio.run(run())


def test_a_coordinator_of_another_fleet_is_refused_by_the_host(ca: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other")

    async def run() -> None:
        async with running(other) as at:
            host = security.load(ca / "hosts" / "a", role=Role.HOST)
            with pytest.raises(FleetRefused):
                await reach.check(at.url, host, "worker")
            found = await at.refused()
            assert found.reason == "It does not trust the coordinator's certificate: unknown ca."

    asyncio.run(run())


def test_a_host_cannot_make_certificates_for_others(ca: Path, tmp_path: Path) -> None:
    host = ca / "hosts" / "a"
    key = load_pem_private_key((host / KEY).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own = x509.load_pem_x509_certificate((host / CERTIFICATE).read_bytes())
    evil = tmp_path / "evil"
    evil.mkdir()
    certificates.Authority(evil, key, own).make(Role.HOST, ["b"], 30, renew=False)
    bundle = evil / "hosts" / "b"
    with (bundle / CERTIFICATE).open("a") as chain:
        chain.write((host / CERTIFICATE).read_text())

    async def run() -> None:
        async with running(ca) as at:
            with pytest.raises(FleetRefused):
                await reach.check(at.url, unchecked(bundle, ca), "worker")
            assert (await at.refused()).reason.startswith("Its certificate is refused: invalid CA")

    asyncio.run(run())
    shutil.copy(ca / CA, bundle)
    with pytest.raises(CertificateUnusable):
        security.load(bundle, role=Role.HOST)


def test_a_worker_listens_only_to_its_fleet(ca: Path) -> None:
    async def run() -> None:
        async with running(ca) as at:
            host = security.load(ca / "hosts" / "a", role=Role.HOST)
            async with worker(at.url, host, ca) as there:
                await without_certificate(there.port, ca)
                assert (await at.refused()).reason == "It has no certificate."

    asyncio.run(run())


def test_a_user_cannot_pose_as_the_coordinator(ca: Path) -> None:
    """The extended key usage of its certificate does not allow that."""
    here = security.load(ca / "hosts" / "a", role=Role.HOST)
    listening = unchecked(ca / "users" / "anna").get_listen_args("worker")["ssl_context"]

    async def run() -> None:
        server = await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=listening
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(FleetRefused, match="certificate purpose"):
                await reach.check(f"tls://127.0.0.1:{port}", here, "worker")

    asyncio.run(run())


async def with_tls(port: int, context: ssl.SSLContext) -> None:
    """Connect as a stranger, who believes everything that the coordinator proves."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    writer: asyncio.StreamWriter | None = None
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert await reader.read() == b""
    if writer is not None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def with_bytes(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    with suppress(OSError):
        writer.write_eof()
        await reader.read()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def without_certificate(port: int, ca: Path) -> None:
    await with_tls(port, ssl.create_default_context())


async def with_old_tls(port: int, ca: Path) -> None:
    """TLS 1.2, with a good certificate."""
    context = ssl.create_default_context()
    context.load_cert_chain(ca / "hosts" / "a" / CERTIFICATE, ca / "hosts" / "a" / KEY)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    await with_tls(port, context)


async def with_http(port: int, ca: Path) -> None:
    await with_bytes(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def with_ssh(port: int, ca: Path) -> None:
    await with_bytes(port, b"SSH-2.0-OpenSSH_9.2\r\n")


async def with_nothing(port: int, ca: Path) -> None:
    await with_bytes(port, b"")


async def with_plain_dask(port: int, ca: Path) -> None:
    with pytest.raises(OSError):
        await connect(f"tcp://127.0.0.1:{port}", timeout=HANG_S)


@pytest.mark.parametrize(
    ("stranger", "sentence"),
    [
        (without_certificate, "It has no certificate."),
        (with_old_tls, "It does not know TLS 1.3."),
        (with_http, "It did not speak TLS."),
        (with_ssh, "It did not speak TLS."),
        (with_plain_dask, "It did not speak TLS."),
        (with_nothing, "It broke off the TLS handshake."),
    ],
)
def test_a_stranger_is_refused_and_counted(
    ca: Path,
    stranger: Callable[[int, Path], Awaitable[None]],
    sentence: str,
) -> None:
    async def run() -> None:
        async with running(ca) as at:
            await stranger(at.scheduler.port, ca)
            found = await at.refused()
            assert (found.address, found.reason, found.times) == ("127.0.0.1", sentence, 1)
            assert not at.scheduler.workers
            assert not at.scheduler.client_comms

    asyncio.run(run())


def test_a_stranger_that_stays_silent_is_disconnected(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "LIMIT_S", 0.1)

    async def run() -> None:
        async with running(ca) as at:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.scheduler.port)
            async with asyncio.timeout(HANG_S):
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            assert (await at.refused()).reason.startswith("It did not end its TLS handshake")

    asyncio.run(run())


MOST = 16
"""How many connections from one address may be in their handshakes at once, in a test."""


def test_strangers_that_stay_silent_keep_nobody_else_out(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "LIMIT_S", HANG_S)
    monkeypatch.setattr(handshakes, "most", lambda: MOST)

    async def run() -> None:
        async with running(ca) as at:
            silent = [
                await asyncio.open_connection(
                    "127.0.0.1", at.scheduler.port, local_addr=("127.0.0.2", 0)
                )
                for _ in range(MOST + 1)
            ]
            found = await at.refused()
            assert (found.address, found.times) == ("127.0.0.2", 1)
            assert await silent[-1][0].read() == b""
            host = security.load(ca / "hosts" / "a", role=Role.HOST)
            await reach.check(at.url, host, "worker")
            assert at.refusals.all() == (found,)
            for _, writer in silent:
                writer.close()
                await writer.wait_closed()
            await at.refused(times=MOST)
            # All of them have ended, so there is room for others from there.
            again, writer = await asyncio.open_connection(
                "127.0.0.1", at.scheduler.port, local_addr=("127.0.0.2", 0)
            )
            writer.write(b"hello")
            await again.read()
            writer.close()
            await at.refused_for("It did not speak TLS.")

    asyncio.run(run())


def test_strangers_get_no_answer_from_the_http_servers(ca: Path) -> None:
    """Dask starts them in each scheduler and worker, without encryption."""

    async def run() -> None:
        async with running(ca) as at:
            host = security.load(ca / "hosts" / "a", role=Role.HOST)
            async with worker(at.url, host, ca) as there:
                servers: list[Any] = [at.scheduler.http_server, there.http_server]
                for server in servers:
                    assert server.address == "127.0.0.1"
                    for path in ("/", "/health", "/metrics", "/info/main/workers.html", "/json/"):
                        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                        assert b" 404 " in await reader.readline()
                        writer.close()
                        await writer.wait_closed()

    asyncio.run(run())


def test_the_status_shows_that_the_certificate_of_a_host_expires_soon(fleet: Fleet) -> None:
    with another(fleet, "tired") as tired:
        ca = fleet.folder / "ca"
        subprocess.run(
            [KICKBENCH, "fleet", "ca", ca, "--host", "tired", "--days", "20", "--renew"],
            check=True,
            capture_output=True,
        )
        fleet.join(tired)
        found = fleet.until_state("tired", HostState.READY)
        (note,) = [each for each in found.notes if "certificate" in each]
        assert note.startswith("Its certificate expires on ")
        assert "--host tired --renew" in note
        status = fleet.status()
        assert status is not None
        assert status.notes == ()
        others = [each for each in status.hosts if each.facts.name != "tired"]
        assert not [note for each in others for note in each.notes if "certificate" in note]
