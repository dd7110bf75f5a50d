# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_lib import record
from bench_lib.errors import RecordNotWritten, StoreError
from bench_lib.record import (
    SCHEMA,
    Entry,
    Evidence,
    Outcome,
    Record,
    Role,
    Shape,
    Thread,
    WaitsFor,
    stored,
)
from tests.conftest import CHECKOUT
from tests.make import record as make
from tests.make import thread

KEYS = {
    "resolution_ns",
    "schema", "run_id", "seq", "request", "scenario", "shape", "outcome", "reason", "latency_ns",
    "deadline_ns", "kernel", "boot_id", "host", "qemu", "outage", "evidence", "stages", "recovery",
    "started", "slot", "lab_setup", "setup", "tool", "manager", "late_ns", "kickbench",
    "image_sha256", "survivors", "lab_qemu", "ended_ns", "then", "manager_version",
    "guest_kernel", "guest_start", "guest_boot_ns", "store", "tried", "machine_id", "worker_cpu",
}  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    written = [make(Outcome.RETURNED, 1.5), make(Outcome.LOST, reason="gone", seq=2)]
    for each in written:
        record.append(path, each)
    assert record.read(path) == (written, [])


# JSON has no others.
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))


@given(st.from_type(Record))
def test_any_record_survives_its_json(any_record: Record) -> None:
    today = dataclasses.replace(any_record, schema=SCHEMA)
    assert stored.decode(stored.encode(today)) == today
    (line,) = json.loads(record.to_json([today]))
    assert stored.decode(json.dumps(line).encode()) == today


def test_the_keys_of_a_record_are_those_that_readers_rely_on() -> None:
    (data,) = json.loads(record.to_json([make()]))
    assert set(data) == KEYS
    assert set(data["shape"]) == {
        "vcpus", "memory_mib", "backing", "preempt", "image", "cpu", "work",
    }  # fmt: skip
    assert set(data["host"]) == {"kind", "accelerator", "machine"}
    (before,), (after,) = data["evidence"]["before"], data["evidence"]["after"]
    assert set(data["evidence"]) == {"before", "after", "pending", "blocker", "stacks"}
    assert set(before) == {
        "tid", "role", "vcpu", "name", "state", "wchan", "stack", "entry", "waits_for",
    }  # fmt: skip
    assert set(after) == {*before, "cpu_ns"}


def _with_threads(*threads: Thread) -> Record:
    return dataclasses.replace(make(), evidence=Evidence(threads, threads))


STUCK = thread(
    "S", "handle_userfault", ("handle_userfault", "hva_to_pfn"), Entry.GUP, WaitsFor.USERFAULT
)
CALLED = dataclasses.replace(STUCK, tid=12, signals=("SIGUSR1",), called=True, cpu_ns=7)


def test_equal_stacks_are_stored_once() -> None:
    runs = dataclasses.replace(STUCK, tid=13, stack=())
    data = json.loads(record.to_line(_with_threads(STUCK, CALLED, runs)))["evidence"]
    assert data["stacks"] == [["handle_userfault", "hva_to_pfn"], []]
    assert [each["stack"] for each in (*data["before"], *data["after"])] == [0, 0, 1] * 2


def test_keys_of_a_thread_that_say_nothing_are_left_out() -> None:
    said = json.loads(record.to_line(_with_threads(STUCK, CALLED)))["evidence"]["before"]
    assert not {"signals", "called", "cpu_ns"} & set(said[0])
    assert (said[1]["signals"], said[1]["called"], said[1]["cpu_ns"]) == (["SIGUSR1"], True, 7)


def test_a_guest_with_255_vcpus_has_a_small_record() -> None:
    frames = tuple(f"a_function_of_the_kernel_{number}" for number in range(30))
    before = tuple(
        dataclasses.replace(
            STUCK, tid=1_000_000 + number, vcpu=number, name=f"CPU {number}/KVM", stack=frames
        )
        for number in range(255)
    )
    after = tuple(
        dataclasses.replace(each, signals=("SIGUSR1",), called=True, cpu_ns=2_500_000)
        for each in before
    )
    made = dataclasses.replace(make(), evidence=Evidence(before, after))
    assert len(record.to_line(made)) < 100_000


@pytest.mark.parametrize("index", [2, -1, 0.5, "0", None, True, ["hva_to_pfn"]])
def test_a_thread_without_a_stored_stack_costs_only_its_line(tmp_path: Path, index: object) -> None:
    path = tmp_path / "records.jsonl"
    data = json.loads(record.to_line(_with_threads(STUCK)))
    data["evidence"]["after"][0]["stack"] = index
    path.write_text(json.dumps(data) + "\n")
    record.append(path, make(seq=2))
    (made,), (damage,) = record.read(path)
    assert made.seq == 2
    assert "not a whole record" in damage.why


SCHEMA_2 = CHECKOUT / "tests/data/schema2.jsonl"
"""Trials that kickbench recorded before schema 3. Each thread has its own stack."""


def test_a_record_of_schema_2_is_still_read() -> None:
    lines = SCHEMA_2.read_text().splitlines()
    made = record.from_line(lines[0])
    data = json.loads(lines[0])
    assert data["schema"] == made.schema == 2
    for moment, seen in (("before", made.evidence.before), ("after", made.evidence.after)):
        assert [list(each.stack) for each in seen] == [
            each["stack"] for each in data["evidence"][moment]
        ]
    assert made.evidence.vcpus[0].stack[0] == "handle_userfault"


def test_a_record_of_schema_2_is_written_as_it_was_read(tmp_path: Path) -> None:
    records, _ = record.read(SCHEMA_2)
    assert len(records) == 4
    record.append(tmp_path / "copy.jsonl", *records)
    assert record.read(tmp_path / "copy.jsonl") == (records, [])


def test_a_shape_of_an_older_record_equals_that_of_a_new_one() -> None:
    """Older records have neither `cpu` nor `work`."""
    (data,) = json.loads(record.to_json([make()]))
    del data["shape"]["cpu"], data["shape"]["work"]
    assert record.from_line(json.dumps(data)).key == make().key


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        (Shape(cpu="qemu64,-pni,kvm-pv-eoi=off"), " (cpu qemu64,-pni,kvm-pv-eoi=off)"),
        (
            Shape(2, 128, image="linux", cpu="host,kvm-steal-time=off", work="memory"),
            " (linux, 2 vCPUs, 128 MiB, cpu host,kvm-steal-time=off)",
        ),
        (Shape(memory_mib=128, image="linux", work="busy"), " (linux, work busy, 128 MiB)"),
        (Shape(image="uaccess", cpu="host"), " (cpu host, uaccess: no test of the flag)"),
    ],
    ids=str,
)
def test_a_place_shows_how_its_guest_is_unusual(shape: Shape, shown: str) -> None:
    made = dataclasses.replace(make(), shape=shape)
    assert made.key.place == f"blackhole{shown}"


def test_a_line_that_was_cut_off_damages_no_record_after_it(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record.append(path, make(seq=1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    record.append(path, make(seq=2))
    records, damaged = record.read(path)
    assert [each.seq for each in records] == [1, 2]
    assert [each.line for each in damaged] == [2]
    assert "not a whole record" in str(damaged[0])


@given(cut=st.integers(min_value=0, max_value=3000))
def test_a_file_cut_anywhere_still_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "records.jsonl"
    for seq in (1, 2):
        record.append(path, make(seq=seq))
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    record.append(path, make(seq=9))
    seqs = [each.seq for each in record.read(path)[0]]
    assert seqs[:whole] == [1, 2][:whole]
    assert seqs[-1] == 9


def test_a_record_of_a_newer_schema_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record.append(path, dataclasses.replace(make(), schema=SCHEMA + 1))
    records, (damage,) = record.read(path)
    assert not records
    assert "newer" in damage.why
    assert "update kickbench" in damage.why


@pytest.mark.parametrize("line", ["[]", "{}", '{"schema": 1}', '{"schema": "x"}', "\x80"])
def test_a_line_that_is_not_a_record_costs_only_itself(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(line + "\n", encoding="latin-1")
    record.append(path, make())
    records, damaged = record.read(path)
    assert (len(records), len(damaged)) == (1, 1)


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert record.read(tmp_path / "none") == ([], [])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        record.read(tmp_path)


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordNotWritten, match="trial 1 could not be appended"):
        record.append(tmp_path, make())


def test_a_record_of_schema_1_is_still_read(tmp_path: Path) -> None:
    (data,) = json.loads(record.to_json([make()]))
    for key in ("manager", "late_ns", "kickbench", "image_sha256", "survivors"):
        del data[key]
    stuck = {
        "tid": 11, "vcpu": 0, "state": "D", "wchan": "handle_userfault", "called": False,
        "stack": ["handle_userfault", "hva_to_pfn"], "fault_path": "gup",
    }  # fmt: skip
    data |= {"schema": 1, "evidence": {"before": [stuck], "after": [{**stuck, "cpu_ns": 7}]}}
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(data) + "\n")
    (made,), damaged = record.read(path)
    assert not damaged
    (before,), (after,) = made.evidence.before, made.evidence.after
    assert (made.schema, before.role, before.vcpu) == (1, Role.VCPU, 0)
    assert (before.entry, before.waits_for) == (Entry.GUP, WaitsFor.USERFAULT)
    assert (before.cpu_ns, after.cpu_ns) == (0, 7)


@pytest.mark.parametrize(
    "field, value, why",
    [
        ("deadline_ns", 0, "its deadline is not above 0"),
        ("latency_ns", None, "returned needs a latency"),
        ("latency_ns", -1, "its latency is below 0"),
        ("outcome", Outcome.ASLEEP, "asleep cannot have a latency"),
    ],
)
def test_an_impossible_record_is_refused_with_the_reason(
    tmp_path: Path, field: str, value: object, why: str
) -> None:
    path = tmp_path / "records.jsonl"
    record.append(path, dataclasses.replace(make(), **{field: value}))  # type: ignore[arg-type]
    _, (damage,) = record.read(path)
    assert damage.why == f"not a record of a trial: {why}"


@pytest.mark.parametrize("evidence", [None, [], 3, {"before": None}, {"after": 3}])
def test_damaged_evidence_of_schema_1_costs_only_its_line(tmp_path: Path, evidence: object) -> None:
    (data,) = json.loads(record.to_json([make()]))
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({**data, "schema": 1, "evidence": evidence}) + "\n")
    records, (damage,) = record.read(path)
    assert not records
    assert "not a whole record" in damage.why


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_existed_is_refused(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "records.jsonl"
    record.append(path, dataclasses.replace(make(), schema=schema))
    _, (damage,) = record.read(path)
    assert damage.why == f"not a record: there is no schema {schema}"


@pytest.mark.parametrize("schema", [1, SCHEMA])
@pytest.mark.parametrize("field", ["deadline_ns", "latency_ns"])
def test_an_impossible_time_costs_only_its_line(tmp_path: Path, field: str, schema: int) -> None:
    (data,) = json.loads(record.to_json([make()]))
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({**data, "schema": schema, field: 10**400}) + "\n")
    records, (damage,) = record.read(path)
    assert not records
    assert "not a whole record" in damage.why
