# SPDX-License-Identifier: BSD-3-Clause
import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench_lib import libc
from bench_lib.errors import ProbeFailed
from bench_lib.kvm import timed
from bench_lib.kvm.timed import ASSEMBLY, CODE, TGKILL, Clock

GETPID, TEE = 39, 276
SPLICE_F_NONBLOCK = 2
NO_PROCESS = 1 << 22
"""The kernel gives no process a higher id, and this one to none."""


def test_the_machine_code_is_that_of_its_instructions(tmp_path: Path) -> None:
    source = "".join(f"{instruction}\n" for instruction, _ in ASSEMBLY)
    made, code = tmp_path / "code.o", tmp_path / "code"
    subprocess.run(["as", "--64", "-o", made, "-"], input=source, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, code], check=True)
    assert code.read_bytes() == CODE


def test_a_call_has_its_result_and_the_times_around_it() -> None:
    clock = Clock()
    before_ns = time.monotonic_ns()
    call = clock(GETPID)
    after_ns = time.monotonic_ns()
    assert call.result == os.getpid()
    assert before_ns <= call.began_ns <= call.ended_ns <= after_ns


def test_all_arguments_reach_the_kernel() -> None:
    (read, write), (copy, to_copy) = os.pipe(), os.pipe()
    os.write(write, b"0123456789")
    assert Clock()(TEE, read, to_copy, 4, SPLICE_F_NONBLOCK).result == 4
    assert os.read(copy, 10) == b"0123"
    os.read(read, 10)
    assert Clock()(TEE, read, to_copy, 4, SPLICE_F_NONBLOCK).result == -errno.EAGAIN
    for each in (read, write, copy, to_copy):
        os.close(each)


def test_a_call_that_fails_has_its_error() -> None:
    call = Clock()(TGKILL, NO_PROCESS, NO_PROCESS, signal.SIGUSR1)
    assert call.result == -errno.ESRCH
    with pytest.raises(ProcessLookupError, match="tgkill"):
        call.check("tgkill")


def test_the_rest_before_a_call_is_not_part_of_it() -> None:
    rest_ns = 20_000_000
    before_ns = time.monotonic_ns()
    call = Clock()(GETPID, rest_ns=rest_ns)
    assert call.began_ns - before_ns >= rest_ns


def test_without_executable_memory_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc.LIBC, "mprotect", lambda *_: -1)
    with pytest.raises(ProbeFailed, match="This system forbids executable memory"):
        Clock()


def test_without_a_vdso_the_clock_is_that_of_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "VDSO", "no-vdso.so.1")
    call = Clock()(GETPID)
    assert 0 < call.began_ns <= call.ended_ns <= time.monotonic_ns()
