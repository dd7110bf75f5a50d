# SPDX-License-Identifier: BSD-3-Clause
"""The settings, all of which are environment variables. No other module reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture
from bench_lib.deadline import seconds
from bench_lib.errors import BadDeadline, OtherHistory, UsageError

SETS = ("core", "full")
"""The values of KICKBENCH_SET: how much `asv run` measures."""

GUEST_KERNEL = "debian/6.12"
"""The kernel that Linux guests run by default. It is the same for all kernels under test."""

CERTIFICATES = Path("/etc/kickbench/fleet")
"""The folder of the certificate of this host or user in a fleet, by default."""

MOST_DIGITS = 18
"""The largest number of digits of a whole number."""

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Folders of programs for administrators, such as tc and depmod."""

_PACKAGE = Path(__file__).resolve().parent

CHECKOUT = _PACKAGE.parent
"""The folder that contains bench_lib: a checkout, or the folder that a wheel is installed in."""

_PACKAGED = _PACKAGE / "data"

DATA = _PACKAGED if _PACKAGED.is_dir() else CHECKOUT
"""The folder of asv.conf.json, benchmarks, guest-images and tools. In a wheel it is inside the
package (pyproject.toml)."""


def import_path() -> str:
    """The PYTHONPATH with which another Python, started with -S, finds all modules that we find.

    -S leaves out `site`, which runs the .pth files of installed packages, and takes time.
    """
    return os.pathsep.join(path for path in sys.path if Path(path).is_dir())


def search_system_folders() -> None:
    """Add SYSTEM_FOLDERS to the PATH of this process, and so of the programs that it starts.

    On Debian the PATH of an ordinary user lacks them, and so does that of root after `su`. A PATH
    that has neither /usr/bin nor /bin is left alone, because it was chosen.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if {"/usr/bin", "/bin"} & set(folders):
        more = [each for each in SYSTEM_FOLDERS if each not in folders]
        os.environ["PATH"] = os.pathsep.join([*folders, *more])


def _nearest_history(environ: Mapping[str, str]) -> Path:
    """The working folder, or the nearest one above it, that has a history; else the default.

    The default is the checkout. If kickbench was installed from a wheel, it is the folder for a
    user's data of the XDG base directory specification.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        # Both files are required, because an asv.conf.json alone belongs to another project.
        if all(os.access(folder / name, os.R_OK) for name in ("asv.conf.json", "kernels.json")):
            return folder
    return CHECKOUT if DATA == CHECKOUT else _xdg(environ, "XDG_DATA_HOME", ".local/share")


def _xdg(environ: Mapping[str, str], name: str, default: str) -> Path:
    """The folder `kickbench` in a base directory of the XDG base directory specification.

    :param name: the variable that names the base directory.
    :param default: the base directory, relative to the user's home, if the variable is not set.
    """
    base = environ.get(name)
    return (Path(base) if base else Path.home() / default) / "kickbench"


def _one_of(name: str, text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise UsageError(f"{name} has to be {' or '.join(known)}, not {text!r}.")
    return text


def _positive(name: str, text: str) -> int:
    # The length is limited, because int() raises an error for thousands of digits.
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        raise UsageError(f"{name} has to be a whole number of at least 1, not {text[:40]!r}.")
    return int(text)


@dataclass(frozen=True)
class Settings:
    """The settings of a user, and the folders that kickbench uses."""

    images: Path
    """The folder of guest images, which are a part of kickbench."""
    history: Path
    """KICKBENCH_HISTORY: the folder of asv.conf.json, the ledger, records and asv's results, which
    may be a separate repository. By default it is the nearest such folder upwards; else the
    checkout, or, if kickbench was installed from a wheel, a folder in the user's home."""
    ledger: Path
    """The file of the ledger, the list of known kernels."""
    records: Path
    """KICKBENCH_RECORDS: the record file."""
    cache: Path
    """KICKBENCH_CACHE: the folder for kernels that were fetched, and for lists of Debian's
    kernels."""
    expired: frozenset[str]
    """KICKBENCH_EXPIRED: Debian's suites that are used although their Release file has expired."""
    runtime: Path
    """KICKBENCH_RUNTIME: the folder for files that exist only during a run; by default on a
    tmpfs."""
    qemu: str
    """KICKBENCH_QEMU: the QEMU program, a name or a path."""
    guest_kernel: str
    """KICKBENCH_GUEST_KERNEL: the kernel that Linux guests run: a name, which means the newest such
    build in the cache, or the path of a build's folder."""
    trials: int
    """KICKBENCH_TRIALS: the number of trials per scenario in `asv run`."""
    deadline_s: float
    """KICKBENCH_DEADLINE: seconds until a trial stops waiting for the answer."""
    deadline_given: bool
    """Whether the user has set it; if not, some requests have a default of their own."""
    full: bool
    """KICKBENCH_SET: whether `asv run` measures every scenario (`full`), or only the few most
    informative ones (`core`)."""
    lists_full: bool
    """KICKBENCH_LISTED: set by `asv_bridge` for its benchmarks. It decides whether they list all
    values of their parameters (`full`), or only those that KICKBENCH_SET makes them measure."""
    staging_s: float
    """KICKBENCH_STAGING: seconds until a trial that is not yet staged and proved is lost; once
    more for each GiB of memory and each 32 vCPUs of a guest."""
    lab_memory_mib: int
    """KICKBENCH_LAB_MEMORY: the memory of a lab in MiB."""
    lab_boot_s: float
    """KICKBENCH_LAB_BOOT: seconds until kickbench gives up a lab that is not up."""
    jobs: int | None
    """KICKBENCH_JOBS: the number of labs that run at once in campaigns, `gate` and `asv run`; None
    if it is not set."""
    kernel: str | None
    """KICKBENCH_KERNEL: set by `asv_bridge` and in labs: the id of the build that the lab boots."""
    lab: tuple[str, str] | None
    """KICKBENCH_LAB: set in a lab: the lab's accelerator and the name of its host."""
    fleet: str | None
    """KICKBENCH_FLEET: the address of the fleet's coordinator; None if it is not set."""
    fleet_host: str | None
    """KICKBENCH_FLEET_HOST: the host of the fleet that asv's environment `kernel-fleet` uses; None
    if it is not set. In benchmarks, `asv_bridge` sets it for that environment alone."""
    certificates: Path
    """KICKBENCH_CERTIFICATES: the folder of the certificate of this host or user in a fleet."""
    failure: Path | None
    """KICKBENCH_FAILURE: set by `asv_bridge` for its benchmarks: the file to which a benchmark
    writes why it failed."""
    progress: Path | None
    """KICKBENCH_PROGRESS: set by `asv_bridge` for its benchmarks: the file to which a benchmark
    writes lines of progress."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        :raise UsageError: a variable has an invalid value.
        """

        def path(name: str, default: Path) -> Path:
            # The path is absolute, because asv runs benchmarks in folders that it deletes.
            return Path(environ.get(name) or default).absolute()

        def duration(name: str, default: str) -> float:
            try:
                return seconds(environ.get(name, default))
            except BadDeadline as error:
                raise UsageError(f"{name}: {error}") from None

        history = path("KICKBENCH_HISTORY", _nearest_history(environ))
        chosen = _one_of("KICKBENCH_SET", environ.get("KICKBENCH_SET", "core"), SETS)
        qemu = environ.get("KICKBENCH_QEMU", architecture.qemu_program())
        progress = environ.get("KICKBENCH_PROGRESS")
        inside = environ.get("KICKBENCH_LAB", "").partition(":")
        failure = environ.get("KICKBENCH_FAILURE")
        jobs = environ.get("KICKBENCH_JOBS")
        return cls(
            images=DATA / "guest-images",
            history=history,
            ledger=history / "kernels.json",
            records=path("KICKBENCH_RECORDS", history / ".asv" / "records.jsonl"),
            cache=path("KICKBENCH_CACHE", _xdg(environ, "XDG_CACHE_HOME", ".cache")),
            expired=frozenset(environ.get("KICKBENCH_EXPIRED", "").replace(",", " ").split()),
            runtime=path("KICKBENCH_RUNTIME", Path("/run/kickbench")),
            qemu=str(Path(qemu).absolute()) if "/" in qemu else qemu,
            guest_kernel=environ.get("KICKBENCH_GUEST_KERNEL") or GUEST_KERNEL,
            trials=_positive("KICKBENCH_TRIALS", environ.get("KICKBENCH_TRIALS", "8")),
            full=chosen == "full",
            lists_full="full" in {chosen, environ.get("KICKBENCH_LISTED")},
            deadline_s=duration("KICKBENCH_DEADLINE", "5"),
            deadline_given="KICKBENCH_DEADLINE" in environ,
            staging_s=duration("KICKBENCH_STAGING", "30"),
            lab_memory_mib=_positive(
                "KICKBENCH_LAB_MEMORY", environ.get("KICKBENCH_LAB_MEMORY", "2048")
            ),
            lab_boot_s=duration("KICKBENCH_LAB_BOOT", "120"),
            jobs=_positive("KICKBENCH_JOBS", jobs) if jobs else None,
            kernel=environ.get("KICKBENCH_KERNEL") or None,
            lab=(inside[0], inside[2]) if inside[1] else None,
            fleet=environ.get("KICKBENCH_FLEET") or None,
            fleet_host=environ.get("KICKBENCH_FLEET_HOST") or None,
            certificates=path("KICKBENCH_CERTIFICATES", CERTIFICATES),
            failure=Path(failure) if failure else None,
            progress=Path(progress) if progress else None,
        )

    @classmethod
    def of_history(cls, folder: Path, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings for a given history, such as the one whose asv.conf.json asv has read.

        :raise OtherHistory: KICKBENCH_HISTORY names another history, so records would be kept in
            one history, and kernels and results in the other.
        """
        named = environ.get("KICKBENCH_HISTORY")
        if named and Path(named).resolve() != folder.resolve():
            raise OtherHistory(
                f"asv keeps its history in {folder}, but KICKBENCH_HISTORY is {named}; run asv in "
                "that folder, or unset KICKBENCH_HISTORY."
            )
        return cls.from_environment({**environ, "KICKBENCH_HISTORY": str(folder)})

    def deadline_of(self, own_s: float | None) -> float:
        """Seconds until a trial stops waiting.

        :param own_s: the default of its request, where that has one of its own.
        """
        return self.deadline_s if self.deadline_given or own_s is None else own_s

    def exported(self) -> dict[str, str]:
        """The paths as environment variables, for a process in another working folder."""
        return {
            "KICKBENCH_HISTORY": str(self.history),
            "KICKBENCH_RECORDS": str(self.records),
            "KICKBENCH_CACHE": str(self.cache),
            "KICKBENCH_RUNTIME": str(self.runtime),
            "KICKBENCH_QEMU": self.qemu,
            "KICKBENCH_GUEST_KERNEL": self.guest_kernel,
        }
