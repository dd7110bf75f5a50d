# SPDX-License-Identifier: BSD-3-Clause
import pytest

from bench_lib import doctor
from bench_lib.doctor import Finding, Status, lab, links
from bench_lib.lab import qemu
from bench_lib.network import outage
from bench_lib.record import Setup

NAMES = [each.name for each in (*outage.MECHANISMS, *outage.DEGRADATIONS)]


def _rows(**statuses: Status) -> list[Finding]:
    names = dict.fromkeys((*doctor.NATIVE, *doctor.LAB))
    return [
        Finding(name, statuses.get(name.replace("-", "_").replace(" ", "_"), Status.FINE), "")
        for name in names
    ]


def test_trials_and_labs_run_on_a_degraded_host() -> None:
    rows = _rows(outages=Status.DEGRADED, lab_disk=Status.DEGRADED)
    assert doctor.native_runs(rows)
    assert doctor.lab_runs(rows)


@pytest.mark.parametrize(
    ("name", "native", "lab"),
    [
        ("kvm", False, True),
        ("outages", False, True),
        ("lab_programs", True, False),
        ("qemu", False, False),
        ("root", False, False),
    ],
)
def test_a_missing_need_decides_whether_trials_and_labs_run(
    name: str, native: bool, lab: bool
) -> None:
    rows = _rows(**{name: Status.MISSING})
    assert doctor.native_runs(rows) is native
    assert doctor.lab_runs(rows) is lab


def _links(**answers: str | None) -> dict[str, Finding]:
    """The rows about links, by their names."""
    found: dict[str, str | None] = dict.fromkeys(NAMES)
    found |= {name.replace("_", "-"): answer for name, answer in answers.items()}
    return {row.name: row for row in links.of_survey(found)}


def test_one_mechanism_that_cuts_is_enough() -> None:
    rows = _links(netem="Unknown qdisc.")
    assert {row.status for row in rows.values()} == {Status.FINE}
    assert rows[links.OUTAGES].found == "clsact-bpf, tbf (netem does not work: Unknown qdisc.)"


def test_a_link_that_can_only_be_slow_is_degraded() -> None:
    slow = _links(netem_degraded="Unknown qdisc.")[links.SLOW]
    assert slow.status is Status.DEGRADED
    assert "has no delay and no loss" in slow.means


def test_a_module_that_nests_is_not_reloaded_because_its_device_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container sees the module of its host, and has no /dev/kvm unless it is given one."""
    monkeypatch.setattr(qemu, "accelerator", lambda: "tcg")
    row = lab.nesting(Setup(kvm="kvm_intel", nested=True))
    assert row.status is Status.DEGRADED
    assert row.found.startswith("kvm_intel allows nesting, but /dev/kvm does not work")
    assert row.fix is None


def test_without_any_mechanism_no_link_can_be_cut() -> None:
    rows = _links(netem="no", clsact_bpf="no", tbf="no", netem_degraded="no", tbf_degraded="no")
    assert rows[links.OUTAGES].status is Status.MISSING
    assert rows[links.SLOW].status is Status.DEGRADED
