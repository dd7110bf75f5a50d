# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of what gdb says; real ones are in tests/host."""

import asyncio
import os
import subprocess

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed
from bench_lib.guest.debugger import Gdb
from bench_lib.process import Child


@pytest.mark.parametrize(
    "line, sentence",
    [
        (b'^error,msg="ptrace: Operation not permitted."', "gdb: ptrace: Operation not permitted."),
        (b'7^error,msg="No \\"x\\".\\nTry y.",code="1"', 'gdb: No "x". Try y.'),
        (b"^error", "gdb: an error without a message."),
    ],
)
def test_an_error_of_gdb_is_told_as_gdb_words_it(line: bytes, sentence: str) -> None:
    async def attach() -> None:
        output, gdb_writes = os.pipe()
        child = Child(subprocess.Popen(["true"], start_new_session=True))
        try:
            os.write(gdb_writes, b"(gdb) \n" + line + b"\n(gdb) \n")
            await Gdb(child, output).attached(Deadline.after(60))
        finally:
            child.end()
            os.close(output)
            os.close(gdb_writes)

    with pytest.raises(DebuggerFailed) as raised:
        asyncio.run(attach())
    assert str(raised.value) == sentence
