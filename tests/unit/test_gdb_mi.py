# SPDX-License-Identifier: BSD-3-Clause
import pytest

from bench_lib.guest import gdb_mi
from bench_lib.guest.gdb_mi import Record

FORBIDDEN = b'^error,msg="ptrace: Operation not permitted."'


def test_an_error_is_its_message() -> None:
    assert gdb_mi.record(FORBIDDEN) == Record("^error", {"msg": "ptrace: Operation not permitted."})


@pytest.mark.parametrize(
    "line, text",
    [
        (rb'msg="No symbol \"x\" in current context."', 'No symbol "x" in current context.'),
        (rb'msg="C:\\dir, then \"^error,msg=\"."', 'C:\\dir, then "^error,msg=".'),
        (rb'msg="two\nlines\tand \033[1m"', "two\nlines\tand \x1b[1m"),
        (rb'msg="warning: \303\244x"', "warning: äx"),
        ('msg="warning: äx"'.encode(), "warning: äx"),
        (rb'msg="\3771"', "\N{REPLACEMENT CHARACTER}1"),
        (rb'msg=""', ""),
    ],
)
def test_what_gdb_escapes_is_read_back(line: bytes, text: str) -> None:
    record = gdb_mi.record(b"^error," + line)
    assert record is not None
    assert record.strings == {"msg": text}


def test_all_results_that_are_strings_are_read_up_to_a_list_or_tuple() -> None:
    line = b'12*stopped,reason="signal-received",frame={addr="0x1",args=[]},thread-id="1"\r'
    assert gdb_mi.record(line) == Record("*stopped", {"reason": "signal-received"})
    undefined = b'^error,msg="Undefined MI command: x",code="undefined-command"'
    assert gdb_mi.record(undefined) == Record(
        "^error", {"msg": "Undefined MI command: x", "code": "undefined-command"}
    )
    assert gdb_mi.record(b"^done") == Record("^done", {})


@pytest.mark.parametrize("line", [b"(gdb) ", b"", b"^", b'~"^done"', b'&"attach 1\\n"'])
def test_a_line_that_is_not_a_record_is_none(line: bytes) -> None:
    assert gdb_mi.record(line) is None


@pytest.mark.parametrize(
    ("line", "strings"),
    [
        (b'^error,msg="cut', {}),
        (b'^error,msg="ends in \\"', {}),
        (b'^error,msg="no",code="cu', {"msg": "no"}),
        (b'^error,msg=no,code="x"', {}),
        (b'^error,,msg="x"', {}),
        (b'^error,msg="x"code="y"', {"msg": "x"}),
        (b'^error,msg="\xff\xfe"', {"msg": "\N{REPLACEMENT CHARACTER}" * 2}),
    ],
)
def test_the_whole_results_of_a_damaged_record_are_read(
    line: bytes, strings: dict[str, str]
) -> None:
    assert gdb_mi.record(line) == Record("^error", strings)


def test_console_output_is_read() -> None:
    assert (
        gdb_mi.console(rb'~"GNU gdb (Debian 13.1-3) \"13.1\"\n"')
        == 'GNU gdb (Debian 13.1-3) "13.1"'
    )
    assert gdb_mi.console(b"(gdb)") is None
