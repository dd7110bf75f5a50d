# SPDX-License-Identifier: BSD-3-Clause
"""Reading records of schema 1, which the first releases wrote.

Schema 1 has only the vCPU threads, each with the fault path that its image prescribed. It counts as
`lost` every trial whose missing answer no such thread explained. Both stay as they were recorded,
because nothing can be added to an old record afterwards.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench_lib.record.names import Role, WaitsFor
from bench_lib.record.parts import Record

SCHEMA = 1


def decode(line: bytes) -> Record:
    """Decode a line of schema 1.

    :raise msgspec.MsgspecError: `line` is not a whole record.
    """
    fields = msgspec.json.decode(line, type=dict[str, Any])
    evidence = msgspec.convert(fields.get("evidence", {}), dict[str, Any])
    for moment in ("before", "after"):
        seen = msgspec.convert(evidence.get(moment, ()), list[Any])
        evidence[moment] = [_thread(each) for each in seen]
    return msgspec.convert({**fields, "evidence": evidence}, Record)


def _thread(seen: dict[str, Any]) -> dict[str, Any]:
    try:
        stack = seen["stack"]
        in_userfault = "handle_userfault" in stack
        return {
            **seen,
            "role": Role.VCPU,
            "name": "",
            "entry": seen["fault_path"],
            "waits_for": WaitsFor.USERFAULT if in_userfault else WaitsFor.NOTHING,
        }
    except (KeyError, TypeError):
        raise msgspec.ValidationError("a thread lacks its stack or its fault path") from None
