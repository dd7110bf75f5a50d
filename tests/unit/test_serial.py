# SPDX-License-Identifier: BSD-3-Clause
import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_lib.errors import MemoryDamaged
from bench_lib.guest.serial import KEPT, Marks, MemoryDamage, SerialLine, Text

LINE = b"!damage vcpu=fe page=0000000000000400 expected=0000000000000007 found=00000000abcdef12\n"
CONSOLE = st.binary(max_size=200).filter(lambda text: b"!d" not in text)


def test_marks_are_counted_for_all_the_vcpus_that_a_guest_can_have() -> None:
    marks = Marks()
    marks.feed(bytes(range(255)))
    marks.feed(bytes([0, 33, 254, 254]))
    assert sorted(marks.passes) == list(range(255))
    assert [marks.passes[vcpu] for vcpu in (0, 1, 33, 254)] == [2, 1, 2, 3]


@given(CONSOLE, CONSOLE, st.data())
def test_damage_is_read_however_it_is_cut_and_whatever_text_is_around_it(
    before: bytes, after: bytes, data: st.DataObject
) -> None:
    stream = before + LINE + after
    cut = data.draw(st.integers(0, len(stream)))
    text = Text()
    text.feed(stream[:cut])
    text.feed(stream[cut:])
    assert text.damage == [MemoryDamage(vcpu=254, page=0x400, expected=7, found=0xABCDEF12)]
    assert text.rest == (before + after).decode(errors="replace").strip()


@given(st.sampled_from([b"", b"[    1.2] a kernel\n"]), st.integers(1, len(LINE) - 1))
def test_a_report_of_damage_that_is_cut_off_is_known_too(before: bytes, length: int) -> None:
    text = Text()
    text.feed(before + LINE[:length])
    assert text.incomplete == LINE[:length].decode().strip()
    assert not text.damage


@pytest.mark.parametrize("console", [b"", b"\n", b"Wow!\n", b"Wow!", b"!!", b"dam"])
def test_other_text_is_no_report_of_damage(console: bytes) -> None:
    text = Text()
    text.feed(console)
    assert text.incomplete is None


def test_a_terminal_may_end_the_line_of_a_report_in_its_own_way() -> None:
    text = Text()
    text.feed(LINE.replace(b"\n", b"\r\n"))
    assert len(text.damage) == 1
    assert text.rest == ""


def test_two_vcpus_damage_is_two_reports() -> None:
    text = Text()
    text.feed(LINE + LINE.replace(b"vcpu=fe", b"vcpu=00"))
    assert [each.vcpu for each in text.damage] == [254, 0]


def test_only_the_end_of_a_long_text_is_kept() -> None:
    text = Text()
    for number in range(KEPT):
        text.feed(b"line %d\n" % number)
    assert len(text.rest) <= KEPT
    assert text.rest.endswith(f"line {KEPT - 1}")


def test_marks_and_text_arrive_on_ports_of_their_own() -> None:
    async def main() -> None:
        (marks, guest_marks), (text, guest_text) = socket.socketpair(), socket.socketpair()
        with guest_marks, guest_text:
            line = await SerialLine.open(marks, text)
            guest_marks.send(b"!\n!")
            guest_text.send(b"\x00 a kernel\n")
            await line.resume()
            assert line.marks.passes == {ord("!"): 2, ord("\n"): 1}
            assert line.text == "\x00 a kernel"
            line.check_memory()
            line.pause()
            guest_marks.send(b"!")
            guest_text.send(LINE)
            line.check_memory()
            await line.look()
            assert line.marks.passes[ord("!")] == 3
            with pytest.raises(MemoryDamaged, match="vCPU 254, page 0x400 held 0xabcdef12 instead"):
                line.check_memory()
            line.close()

    asyncio.run(main())
