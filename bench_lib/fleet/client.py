# SPDX-License-Identifier: BSD-3-Clause
"""The connection of a user to the coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from distributed import rpc

import bench_lib
from bench_lib import errors, record
from bench_lib.errors import FleetError, FleetUnreachable, StoreError
from bench_lib.fleet import address as address_of
from bench_lib.fleet import configuration, reach, security
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.progress import Progress
from bench_lib.fleet.status import CampaignStatus, FleetStatus
from bench_lib.record import Kernel, Record

T = TypeVar("T")


class FleetClient:
    """Asks a coordinator.

    Each method raises FleetUnreachable if the coordinator cannot be reached, and FleetRefused if
    one end does not trust the other's certificate, or their versions differ.
    """

    def __init__(self, remote: Any, address: str) -> None:
        """:param remote: Dask's caller of the coordinator; see `connect`."""
        self._remote = remote
        self._address = address

    @classmethod
    @asynccontextmanager
    async def connect(cls, address: str, certificates: Path) -> AsyncIterator[FleetClient]:
        """Be connected to a coordinator.

        :param address: such as tls://coordinator:8786; `tls://` and the port may be left out.
        :param certificates: the folder of the user's certificate.
        :raise UsageError: the address is not one.
        :raise CertificateUnusable: the certificate cannot be used.
        """
        secure = security.load(certificates, role=Role.USER)
        configuration.for_client()
        whole = address_of.url(address)
        remote = rpc(whole, connection_args=secure.get_connection_args("client"))
        try:
            yield cls(remote, whole)
        finally:
            await remote.close_rpc()

    async def status(self) -> FleetStatus:
        """Return what is known of the fleet."""
        found: FleetStatus = await self._ask(FleetStatus, "status")
        return found

    async def submit(self, plan: Plan) -> CampaignStatus:
        """Begin a campaign, or go on with it.

        :raise UnknownHost: the fleet has no host of a name in the plan.
        :raise FleetRefused: the plan cannot be carried out.
        """
        text = msgspec.json.encode(plan).decode()
        found: CampaignStatus = await self._ask(CampaignStatus, "submit", plan=text)
        return found

    async def follow(self, id: str, seen: int) -> Progress:  # noqa: A002
        """Wait up to ten seconds for news of a campaign.

        :param seen: the number of its records that were seen; `Progress.seen` of the last call.
        :raise UnknownCampaign: there is no such campaign.
        """
        found: Progress = await self._ask(Progress, "follow", id=id, seen=seen)
        return found

    async def cancel(self, id: str) -> None:  # noqa: A002
        """End a campaign.

        :raise UnknownCampaign: there is no such campaign.
        """
        await self._ask(None, "cancel", id=id)

    async def drain(self, host: str, *, undo: bool) -> None:
        """Give no more work to a host; or give it work again, even if it was set aside.

        :raise UnknownHost: the fleet has no host of this name.
        """
        await self._ask(None, "drain", host=host, undo=undo)

    async def records(self, kernels: Sequence[Kernel]) -> list[Record]:
        """Return all records of some kernels that the coordinator has.

        Lines of its record file that are not records are left out.
        """
        text = msgspec.json.encode(list(kernels)).decode()
        lines: list[str] = await self._ask(list[str], "records", kernels=text)
        found = []
        for line in lines:
            with suppress(StoreError):
                found.append(record.from_line(line))
        return found

    async def _ask(self, kind: Any, name: str, **arguments: Any) -> Any:
        """Call a handler of the coordinator.

        :param kind: the type of its answer.
        """
        try:
            call = getattr(self._remote, f"kickbench_{name}")
            text = await call(version=bench_lib.__version__, **arguments)
        # Dask's CommClosedError is an OSError. Tornado raises ValueError if the other end hangs up
        # just before TLS begins.
        except (OSError, ValueError) as error:
            raise reach.explained(self._address, error) from None
        if text is None:  # Dask answers already, but has no such handler yet
            raise FleetUnreachable(
                f"The coordinator at {self._address} is still starting; try again in a moment."
            )
        answer = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "error" in answer:
            of, sentence = msgspec.json.decode(answer["error"], type=tuple[str, str])
            raise getattr(errors, of, FleetError)(sentence)
        return msgspec.json.decode(answer["value"], type=kind)
