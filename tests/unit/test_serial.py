# SPDX-License-Identifier: BSD-3-Clause
from hypothesis import given
from hypothesis import strategies as st

from bench_lib.guest.serial import Marks, MemoryDamage

LINE = b"\n!damage vcpu=01 page=0000000000000400 expected=0000000000000007 found=00000000abcdef12\n"


def test_marks_are_counted_per_vcpu() -> None:
    marks = Marks()
    marks.feed(b"ABAABC")
    assert marks.passes == {0: 3, 1: 2, 2: 1}
    assert not marks.damage


@given(st.data())
def test_damage_is_read_however_it_is_cut_and_whatever_marks_are_in_it(
    data: st.DataObject,
) -> None:
    stream = LINE
    for _ in range(data.draw(st.integers(0, 10))):
        position = data.draw(st.integers(0, len(stream)))
        mark = bytes([data.draw(st.integers(ord("A"), ord("Z")))])
        stream = stream[:position] + mark + stream[position:]
    cut = data.draw(st.integers(0, len(stream)))
    marks = Marks()
    marks.feed(stream[:cut])
    marks.feed(stream[cut:])
    assert marks.damage == [MemoryDamage(vcpu=1, page=0x400, expected=7, found=0xABCDEF12)]
    assert sum(marks.passes.values()) == len(stream) - len(LINE)


@given(st.integers(1, len(LINE) - 2))
def test_a_report_of_damage_that_is_cut_off_is_an_alarm_too(length: int) -> None:
    marks = Marks()
    marks.feed(LINE[: length + 1] + b"A")
    assert marks.alarm
    assert not marks.damage


def test_two_vcpus_damage_is_two_reports() -> None:
    marks = Marks()
    marks.feed(LINE + LINE.replace(b"vcpu=01", b"vcpu=00"))
    assert [each.vcpu for each in marks.damage] == [1, 0]
