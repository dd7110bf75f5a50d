# SPDX-License-Identifier: BSD-3-Clause
"""Reading records of schema 2, in which each thread has its own copy of its stack.

In schema 2 a halted vCPU of an idle guest counts as `async-pf`. It stays as it was recorded,
because an old record does not show what the kernel's workers did.
"""

from __future__ import annotations

from functools import cache

import msgspec

from bench_lib.record.parts import Record

SCHEMA = 2


@cache
def _decoder() -> msgspec.json.Decoder[Record]:
    return msgspec.json.Decoder(Record)


def decode(line: bytes) -> Record:
    """Decode a line of schema 2.

    :raise msgspec.MsgspecError: `line` is not a whole record.
    """
    return _decoder().decode(line)
