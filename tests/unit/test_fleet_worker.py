# SPDX-License-Identifier: BSD-3-Clause
"""What a host of a fleet does, without a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from bench_lib import ownership, record
from bench_lib.errors import (
    FetchFailed,
    FleetRefused,
    FleetUnreachable,
    HostBusy,
    HostError,
    UsageError,
    WrongKernel,
)
from bench_lib.fleet import (
    address,
    certificates,
    command,
    cpus,
    joining,
    performing,
    reach,
    security,
    task,
    unit,
    worker,
)
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.command import Command, Done
from bench_lib.fleet.performing import Offer, ThisHost
from bench_lib.fleet.work import Kind, Result, Work
from bench_lib.host import identity
from bench_lib.record import Kernel, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial import leftovers
from bench_lib.trial.case import Case
from tests.conftest import CHECKOUT, HANG_S
from tests.make import record as make

CASE = Case(ScenarioName.IDLE, RequestName.STOP)
WORK = Work(Kind.HOST, Kernel("6.1.0", "#1 SMP"), (CASE,), limit_s=60.0)
BOTH = (Kind.HOST, Kind.LAB)


@pytest.fixture
def settings(history: Path, runtime: Path) -> Settings:
    return Settings.from_environment()


# The address


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("lab1", "tls://lab1:8786"),
        ("lab1:99", "tls://lab1:99"),
        ("tls://lab1.example.org:1", "tls://lab1.example.org:1"),
        ("192.0.2.1:65535", "tls://192.0.2.1:65535"),
        ("[2001:db8::1]:8786", "tls://[2001:db8::1]:8786"),
    ],
)
def test_an_address_is_a_host_and_maybe_a_port(text: str, url: str) -> None:
    assert address.url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "lab1:", ":8786", "lab1:0", "lab1:65536", "2001:db8::1", "tcp://lab1:8786",
     "lab1:8786/x", "a b:8786"],
)  # fmt: skip
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        address.url(text)


# CPUs


def test_trials_get_all_cpus_but_the_workers() -> None:
    assert cpus.others(3, {0, 1, 2, 3}) == {0, 1, 2}


def test_trials_share_the_cpu_of_the_worker_if_only_one_other_is_left() -> None:
    assert cpus.others(1, {0, 1}) == {0, 1}


@contextlib.contextmanager
def _affinity_kept() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    try:
        yield before
    finally:
        os.sched_setaffinity(0, before)


def test_a_process_is_pinned_to_the_last_cpu() -> None:
    with _affinity_kept() as before:
        own, rest = cpus.pin(None)
        assert os.sched_getaffinity(0) == {own} == {max(before)}
        assert rest <= before


def test_a_process_that_its_unit_has_pinned_gives_the_other_cpus_to_trials() -> None:
    with _affinity_kept() as before:
        os.sched_setaffinity(0, {min(before)})
        own, rest = cpus.pin(None)
        assert own == min(before)
        assert rest == cpus.others(own, before)


def test_a_cpu_that_does_not_exist_is_refused() -> None:
    with _affinity_kept() as before, pytest.raises(UsageError, match="it may use"):
        cpus.pin(max(before) + 1000)


# Commands


def python(code: str, settings: Settings, stdin: str = "") -> Command:
    return Command(["-c", code], settings, {"CODE": "given"}, stdin)


def test_a_command_has_the_settings_its_input_and_its_variables(settings: Settings) -> None:
    code = (
        "import os, sys; print(sys.stdin.read(), os.environ['CODE'], "
        "os.environ['KICKBENCH_RUNTIME']); sys.exit('kickbench: One line.')"
    )
    done = python(code, settings, "input").wait(HANG_S)
    assert done == Done(1, f"input given {settings.runtime}\n", "kickbench: One line.\n")
    assert done.sentence == "One line."


class Told:
    """A pipe by which a process of a command tells something, although it inherits none."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()

    def code(self, what: str) -> str:
        """The code that tells the result of an expression."""
        fd = f"os.open('/proc/{os.getpid()}/fd/{self._theirs}', os.O_WRONLY)"
        return f"import os; os.write({fd}, str({what}).encode() + b'\\n')"

    def wait(self) -> str:
        """What was told."""
        assert select.select([self._ours], [], [], HANG_S)[0]
        return os.read(self._ours, 100).decode().strip()

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def told() -> Iterator[Told]:
    pipe = Told()
    yield pipe
    pipe.close()


def test_a_command_that_does_not_end_is_ended_in_order(settings: Settings, told: Told) -> None:
    code = f"""
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("It ended in order."))
{told.code("0")}
while True: signal.pause()
"""
    running = python(code, settings)
    told.wait()
    done = running.wait(0.01)
    assert (done.status, done.sentence) == (None, "It ended in order.")


def test_a_command_that_does_not_end_in_order_is_killed(
    settings: Settings, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GRACE_S", 0.1)
    code = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{told.code("0")}
while True: signal.pause()
"""
    running = python(code, settings)
    told.wait()
    assert running.wait(0.01).status is None
    assert not Path(f"/proc/{running.pid}").exists()


def test_a_command_gets_sigterm_when_its_parent_is_killed(
    settings: Settings, told: Told, tmp_path: Path
) -> None:
    """So it ends in order what it has started."""
    code = f"""
import signal, sys
from pathlib import Path
def ended(*_):
    Path({str(tmp_path / "ended")!r}).write_text("in order")
    sys.exit()
signal.signal(signal.SIGTERM, ended)
{told.code("os.getpid()")}
while True: signal.pause()
"""
    parent = f"""
from bench_lib.fleet.command import Command
from bench_lib.settings import Settings
Command(["-c", {code!r}], Settings.from_environment(), {{}}).wait({HANG_S})
"""
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", parent], env=environ) as killed:
        pidfd = os.pidfd_open(int(told.wait()))
        killed.kill()
        assert select.select([pidfd], [], [], HANG_S)[0]
        os.close(pidfd)
    assert (tmp_path / "ended").read_text() == "in order"


# The connection


def failed_with(*errors: Exception) -> Exception:
    """An error that comes from the others, the last of which was the first."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_a_certificate_that_is_not_trusted_is_told_from_a_coordinator_that_is_away() -> None:
    tls = ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca")
    found = reach.explained("tls://lab1:8786", failed_with(OSError("in comm"), tls))
    assert isinstance(found, FleetRefused)
    assert "do not trust each other's certificates" in str(found)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "(Connection refused)"),
        (TimeoutError(), "(no answer within 10 s)"),
        (socket.gaierror(-2, "Name or service not known"), "There is no host of the name in"),
    ],
)
def test_a_coordinator_that_cannot_be_reached_has_the_systems_reason(
    error: Exception, why: str
) -> None:
    found = reach.explained("tls://lab1:8786", failed_with(OSError("Timed out"), error))
    assert isinstance(found, FleetUnreachable)
    assert why in str(found)


def test_a_port_that_nothing_listens_on_is_no_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "LIMIT_S", 0.5)
    with certificates.opened(tmp_path / "ca") as authority:
        authority.make(Role.HOST, ["host"], 2, renew=False)
    credentials = security.load(tmp_path / "ca/hosts/host", role=Role.HOST)
    with socket.create_server(("localhost", 0)) as once:
        port = once.getsockname()[1]
    with pytest.raises(FleetUnreachable, match="cannot be reached"):
        asyncio.run(reach.check(f"tls://localhost:{port}", credentials, "worker"))


def test_a_second_worker_of_a_runtime_folder_is_refused(runtime: Path) -> None:
    with (
        worker.alone(runtime),
        pytest.raises(HostBusy, match=f"process {os.getpid()};"),
        worker.alone(runtime),
    ):
        pytest.fail("there are two workers")
    with worker.alone(runtime):
        pass


def test_a_runtime_folder_that_cannot_be_written_is_refused(runtime: Path) -> None:
    (runtime / "fleet.lock").mkdir(parents=True)
    with pytest.raises(HostError, match="cannot be used"), worker.alone(runtime):
        pytest.fail("it cannot have been locked")


# Boots


class Recorded:
    """A command that ends at once, as it is told to."""

    def __init__(self, done: Done) -> None:
        self.done = done
        self.started: list[tuple[list[str], dict[str, str], str]] = []

    def __call__(
        self, arguments: Sequence[str], settings: Settings, env: Mapping[str, str], stdin: str = ""
    ) -> Recorded:
        self.started.append((list(arguments), dict(env), stdin))
        return self

    def wait(self, limit_s: float) -> Done:
        return self.done

    def end(self) -> None:
        pytest.fail("it has ended")


def performed(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, done: Done, work: Work = WORK
) -> Result:
    """The result of work whose process did this."""
    monkeypatch.setattr(performing, "Command", Recorded(done))
    return ThisHost(settings, Offer(BOTH, 1, frozenset(os.sched_getaffinity(0)))).perform(work)


def test_the_records_of_a_boot_get_the_workers_share_of_a_cpu(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make(), make(seq=2)]
    lines = "".join(f"{record.to_line(each)}\n" for each in made)
    result = performed(monkeypatch, settings, Done(0, lines, ""))
    found = [record.from_line(each) for each in result.lines]
    assert [each.worker_cpu is not None and each.worker_cpu >= 0 for each in found] == [True, True]
    assert [dataclasses.replace(each, worker_cpu=None) for each in found] == made


def test_a_boot_that_failed_has_its_reason_and_no_records(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Done(41, f"{record.to_line(make())}\n", "a warning\nThis is another kernel.\n")
    expected = Result(failure="This is another kernel.", by_kernel=True)
    assert performed(monkeypatch, settings, failed) == expected


def test_a_boot_that_another_run_kept_from_starting_is_told_from_one_that_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Done(HostBusy.exit_status, "", "Another run is measuring.\n")
    assert performed(monkeypatch, settings, busy).busy


@pytest.mark.parametrize(
    ("status", "why"), [(None, "did not end within 60 s"), (-9, "was ended by SIGKILL")]
)
def test_what_a_killed_boot_has_left_is_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int | None, why: str
) -> None:
    with ownership.measuring(settings.runtime) as dead:
        pass
    dead.folder.mkdir()
    result = performed(monkeypatch, settings, Done(status, "", ""))
    assert result.failure is not None
    assert why in result.failure
    assert leftovers.find(settings.runtime).lines() == []


def test_nothing_starts_once_the_worker_closes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(Done(0, "", ""))
    monkeypatch.setattr(performing, "Command", recorded)
    host = ThisHost(settings, Offer(BOTH, 1, frozenset(os.sched_getaffinity(0))))
    host.end()
    assert host.perform(WORK).failure is not None
    host.wait()
    assert recorded.started == []


def test_what_the_coordinator_does_not_want_any_more_never_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(Done(0, "", ""))
    monkeypatch.setattr(performing, "Command", recorded)
    host = ThisHost(settings, Offer(BOTH, 1, frozenset(os.sched_getaffinity(0))))
    host.end_one("boot-1")
    assert host.perform(WORK, "boot-1").failure is not None
    assert recorded.started == []
    assert host.perform(WORK, "boot-2").failure is None


class Running:
    """A host whose boot runs until it is ended.

    :ivar results: what has become of it.
    """

    def __init__(self, settings: Settings, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        def sleeping(
            arguments: Sequence[str], settings: Settings, env: Mapping[str, str], stdin: str
        ) -> Command:
            return python(f"import signal; {told.code('0')}; signal.pause()", settings)

        monkeypatch.setattr(performing, "Command", sleeping)
        self.host = ThisHost(settings, Offer(BOTH, 1, frozenset(os.sched_getaffinity(0))))
        self.results: list[Result] = []
        self.thread = threading.Thread(
            target=lambda: self.results.append(self.host.perform(WORK, "boot-1"))
        )
        self.thread.start()
        told.wait()


ENDED = [Result(failure="The process that made the trials of this boot was ended by SIGTERM.")]


def test_a_boot_that_the_coordinator_does_not_want_any_more_is_ended(
    settings: Settings, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(settings, told, monkeypatch)
    running.host.end_one("another")
    assert running.thread.is_alive()
    running.host.end_one("boot-1")
    running.thread.join(HANG_S)
    assert running.results == ENDED


def test_what_runs_is_ended_when_the_worker_closes(
    settings: Settings, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(settings, told, monkeypatch)
    running.host.end()
    running.host.wait()
    running.thread.join(HANG_S)
    assert running.results == ENDED


# Rebooting and the doctor


def test_a_reboot_runs_the_operators_command_with_the_release(
    settings: Settings, tmp_path: Path
) -> None:
    script = f"sh -c 'echo \"$@\" >{tmp_path / 'booted'}' sh 'an argument'"
    host = ThisHost(settings, Offer(BOTH, 1, frozenset({0}), script))
    assert host.reboot("6.12.1") == Result()
    assert (tmp_path / "booted").read_text() == "an argument 6.12.1\n"


def test_a_host_is_not_rebooted_under_a_run_of_its_operator(settings: Settings) -> None:
    host = ThisHost(settings, Offer(BOTH, 1, frozenset({0}), "false"))
    with ownership.measuring(settings.runtime):
        assert host.reboot("6.12.1").busy
    result = host.reboot("6.12.1")
    assert result.failure is not None
    assert result.failure.startswith("This host could not be rebooted: `false 6.12.1` failed")


def test_a_host_is_not_rebooted_without_its_operators_consent(settings: Settings) -> None:
    result = ThisHost(settings, Offer(BOTH, 1, frozenset({0}))).reboot("6.12.1")
    assert result.failure is not None
    assert "--reboot" in result.failure


DOCTOR = (
    '{"native": false, "lab": true, "kernel": {}, "setup": {}, "rows": ['
    '{"name": "kvm", "status": "missing", "found": "There is no /dev/kvm.", '
    '"means": "no trial can run", "fix": "modprobe kvm"},'
    '{"name": "qemu", "status": "fine", "found": "7.2", "means": "", "fix": null}]}'
)


def test_the_doctor_decides_which_work_a_host_can_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performing, "Command", Recorded(Done(1, DOCTOR, "")))
    everything = frozenset(os.sched_getaffinity(0))
    found = ThisHost(settings, Offer(BOTH, 1, everything)).examine()
    assert (found.kinds, found.failure) == ((Kind.LAB,), None)
    (row,) = found.findings
    assert (row.name, row.status) == ("kvm", "missing")
    assert row.sentence == "There is no /dev/kvm; no trial can run; run `modprobe kvm`."
    assert ThisHost(settings, Offer((Kind.HOST,), 1, everything)).examine().kinds == ()


@pytest.mark.parametrize(
    ("done", "why"),
    [
        (Done(2, "", "kickbench: KICKBENCH_SET is wrong.\n"), "KICKBENCH_SET is wrong."),
        (Done(None, "", ""), "The doctor did not end within 300 s."),
        (Done(-9, "", ""), "The doctor printed nothing."),
    ],
)
def test_a_host_whose_doctor_fails_can_do_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, done: Done, why: str
) -> None:
    monkeypatch.setattr(performing, "Command", Recorded(done))
    found = ThisHost(settings, Offer(BOTH, 1, frozenset(os.sched_getaffinity(0)))).examine()
    assert (found.kinds, found.failure) == ((), why)


# The process that makes a boot


def test_a_host_that_has_booted_another_kernel_makes_no_trial(settings: Settings) -> None:
    other = dataclasses.replace(identity.booted(), version="#2")
    with pytest.raises(WrongKernel, match=r"not .* \(#2\)"):
        task.perform(dataclasses.replace(WORK, kernel=other), settings)
    assert not settings.runtime.exists()


def test_another_build_of_the_same_release_is_not_measured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(task, "_fetch", lambda name, settings: fetched.append(name))
    settings = dataclasses.replace(settings, cache=tmp_path / "cache")
    with pytest.raises(FetchFailed, match=r"no build of 6\.1\.0 with the version #1 SMP"):
        task.build(WORK.kernel, settings)
    assert fetched == ["6.1.0"]


def test_a_kernel_that_cannot_be_fetched_has_the_reason_of_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = Recorded(Done(43, "", "kickbench: There is no kernel.\n"))
    monkeypatch.setattr(task, "Command", recorded)
    settings = dataclasses.replace(settings, cache=tmp_path / "cache")
    with pytest.raises(FetchFailed, match=r"^There is no kernel\.$"):
        task.build(WORK.kernel, settings)
    ((arguments, env, _),) = recorded.started
    assert arguments[-3:] == ["kernels", "fetch", "6.1.0"]
    # It lists the kernel in a history that is not this host's.
    assert env["KICKBENCH_HISTORY"].startswith(str(settings.runtime))


def test_a_defect_has_a_status_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "bench_lib.fleet.task", tmp_path / "work"],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    assert (done.returncode, done.stdout) == (90, "")
    assert done.stderr.splitlines()[-1].startswith("This is a defect of kickbench")


# The facts and the unit


def test_the_facts_of_a_host_are_its_own(settings: Settings) -> None:
    settings = dataclasses.replace(settings, qemu="/there/is/none")
    found = joining.facts(settings, BOTH, 1, reboots=True)
    assert (found.kernel, found.boot_id) == (identity.booted(), identity.boot_id())
    assert (found.kinds, found.room, found.reboots, found.qemu) == (BOTH, 1, True, None)


def test_a_unit_has_one_line_per_word_that_systemd_would_change() -> None:
    arguments = unit.Arguments("lab%1:8786", labs=4, reboot='sh -c "boot \\ $1"')
    lines = unit.text(arguments, 3, {"KICKBENCH_QEMU": "/opt/my qemu/100%$"}).splitlines()
    (start,) = (each for each in lines if each.startswith("ExecStart="))
    assert start.endswith(r'fleet join lab%%1:8786 --labs 4 --reboot "sh -c \"boot \\ $$1\""')
    assert 'Environment="KICKBENCH_QEMU=/opt/my qemu/100%%$"' in lines
    assert "CPUAffinity=3" in lines
