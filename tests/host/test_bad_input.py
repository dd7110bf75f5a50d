# SPDX-License-Identifier: BSD-3-Clause
"""Each bad input is refused with one sentence and its own exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench_lib import errors, record
from bench_lib.errors import KickbenchError
from bench_lib.host import needs
from tests.host.conftest import KICKBENCH, Command
from tests.make import record as make

TRIAL = ("trial", "--scenario", "blackhole", "--request", "stop")


def _refused(done: subprocess.CompletedProcess[str], kind: type[KickbenchError]) -> str:
    """Assert that a command was refused with one sentence as `kind`, and return the sentence."""
    assert done.returncode == kind.exit_status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("kickbench: ")
    assert not Path(".asv/records.jsonl").exists()
    return line


def test_an_unknown_scenario(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "nothing", "--request", "stop")
    assert "the scenarios are idle, postcopy, blackhole, " in _refused(done, errors.UnknownScenario)


def test_an_unknown_request(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "idle", "--request", "nothing")
    assert "the requests are stop" in _refused(done, errors.UnknownRequest)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "soon"])
def test_a_deadline_that_is_not_positive(kickbench: Command, text: str) -> None:
    _refused(kickbench(*TRIAL, f"--deadline={text}"), errors.BadDeadline)


def test_a_setting_that_is_not_a_number(kickbench: Command) -> None:
    env = {**os.environ, "KICKBENCH_TRIALS": "none"}
    assert "KICKBENCH_TRIALS" in _refused(kickbench(*TRIAL, env=env), errors.UsageError)


def _in_mount_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a trial after `script`, in a mount namespace of its own."""
    command = f"{script}; exec {KICKBENCH} {' '.join(TRIAL)}"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False
    )


def test_no_kvm_device(clean_host: Path) -> None:
    done = _in_mount_namespace("mount -t tmpfs tmpfs /dev")
    assert "There is no /dev/kvm" in _refused(done, errors.KvmUnavailable)


def test_a_kvm_device_that_is_another_device(clean_host: Path) -> None:
    done = _in_mount_namespace("mount --bind /dev/null /dev/kvm")
    assert "cannot create a virtual machine" in _refused(done, errors.KvmUnavailable)


def test_no_permission_on_the_kvm_device(clean_host: Path) -> None:
    done = _drop_root("")
    assert "This user may not open" in _refused(done, errors.KvmUnavailable)


def test_not_root(clean_host: Path, tmp_path: Path) -> None:
    node = tmp_path / "kvm"
    done = _drop_root(f"mknod {node} c 10 232; chmod 666 {node}; mount --bind {node} /dev/kvm")
    assert "needs root" in _refused(done, errors.NotRoot)


def _drop_root(script: str) -> subprocess.CompletedProcess[str]:
    """Run a trial as the user `nobody`, who may not read root's home: modules are loaded before."""
    code = (
        "import os, sys; from bench_lib import cli; import bench_lib.trial.batch; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        f"cli.main({list(TRIAL)!r})"
    )
    command = f'{script or ":"}; exec "$0" -c "$1"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KICKBENCH_RECORDS": "/nonexistent/records.jsonl"},
    )


def test_root_that_may_not_make_namespaces(clean_host: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", KICKBENCH, *TRIAL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "namespaces" in _refused(done, errors.NamespacesUnavailable)


@pytest.fixture
def path_without(tmp_path: Path) -> Path:
    """A folder with links to all programs that a trial needs; tests remove some."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ip", "tc", "ss", "qemu-system-x86_64", "sh", "setpriv"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


@pytest.mark.parametrize("name", ["tc", "ip", "ss", "qemu-system-x86_64"])
def test_a_program_that_is_missing(kickbench: Command, path_without: Path, name: str) -> None:
    (path_without / name).unlink()
    done = kickbench(*TRIAL, env={**os.environ, "PATH": str(path_without)})
    assert f"{name} is not installed" in _refused(done, errors.ProgramMissing)


def test_idle_runs_on_a_host_without_any_program_that_makes_links(
    kickbench: Command, path_without: Path
) -> None:
    for name in needs.TOOLS:
        (path_without / name).unlink()
    idle = ("trial", "--scenario", "idle", "--request", "stop")
    done = kickbench(*idle, env={**os.environ, "PATH": str(path_without)})
    assert done.returncode == 0, done.stderr
    assert "stop in idle: returned" in done.stdout


def test_a_tc_that_cannot_cut_a_link(kickbench: Command, path_without: Path) -> None:
    (path_without / "tc").unlink()
    (path_without / "tc").write_text("#!/bin/sh\nexit 0\n")
    (path_without / "tc").chmod(0o755)
    done = kickbench(*TRIAL, env={**os.environ, "PATH": str(path_without)})
    assert "tc cannot cut a link on this kernel" in _refused(done, errors.OutageUnavailable)


OLD_QEMU = """#!/bin/sh
# Answers QMP as a QEMU without recovery of postcopy would; the descriptor is in its arguments.
exec {python} - "$@" <<'PYTHON'
import json, os, re, socket, sys
fd = int(re.search(r"fd=(\\d+)", " ".join(sys.argv))[1])
line = socket.socket(fileno=fd)
say = lambda message: line.sendall(json.dumps(message).encode() + b"\\n")
version = dict(qemu=dict(major=2, minor=11, micro=0), package="")
answers = {{
    "qmp_capabilities": {{}},
    "query-commands": [dict(name="query-status"), dict(name="stop")],
    "query-migrate-capabilities": [dict(capability="postcopy-ram", state=False)],
    "query-machines": [{{"name": "pc", "cpu-max": 255}}],
    "query-iothreads": [{{"thread-id": os.getpid()}}],
}}
say(dict(QMP=dict(version=version, capabilities=[])))
while text := line.recv(65536):  # one at a time, without a newline
    ask = json.loads(text)
    say({{"return": answers[ask["execute"]], **({{"id": ask["id"]}} if "id" in ask else {{}})}})
PYTHON
"""


def _trial_with_qemu(
    kickbench: Command, path: Path, script: str
) -> subprocess.CompletedProcess[str]:
    """Run a trial with a script in place of QEMU."""
    path.write_text(script)
    path.chmod(0o755)
    return kickbench(*TRIAL, env={**os.environ, "KICKBENCH_QEMU": str(path)})


def test_a_qemu_that_is_too_old(kickbench: Command, tmp_path: Path) -> None:
    old = OLD_QEMU.format(python=sys.executable)
    done = _trial_with_qemu(kickbench, tmp_path / "old-qemu", old)
    sentence = _refused(done, errors.QemuTooOld)
    assert (
        "2.11.0 and lacks query-cpus-fast (from QEMU 2.12 on), migrate-start-postcopy" in sentence
    )


def test_a_qemu_that_does_not_even_start(kickbench: Command, tmp_path: Path) -> None:
    broken = "#!/bin/sh\necho 'no such option: -nodefaults' >&2\nexit 1\n"
    done = _trial_with_qemu(kickbench, tmp_path / "broken-qemu", broken)
    assert "no such option" in _refused(done, errors.QemuTooOld)


def test_a_script_that_starts_qemu_as_another_process(kickbench: Command, tmp_path: Path) -> None:
    script = '#!/bin/sh\nqemu-system-x86_64 "$@"\nexit $?\n'
    done = _trial_with_qemu(kickbench, tmp_path / "script", script)
    assert "start QEMU with exec" in _refused(done, errors.NotStarted)


def test_a_damaged_last_line_costs_only_itself(kickbench: Command) -> None:
    path = Path(".asv/records.jsonl")
    for seq in (1, 2):
        record.append(path, make(seq=seq))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 40)
    done = kickbench("report", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["rows"][0]["trials"] == 1
    assert "line 2: not a whole record" in done.stderr


def test_a_report_without_records_is_a_sentence(kickbench: Command) -> None:
    done = kickbench("report")
    assert done.returncode == 0
    assert "There are no records yet in" in done.stdout
