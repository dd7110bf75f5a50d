# SPDX-License-Identifier: BSD-3-Clause
"""Everything that environment variables say, read in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture
from bench_lib.deadline import seconds
from bench_lib.errors import BadDeadline, OtherHistory, UsageError

SETS = ("core", "full")
"""How much is measured where nobody says it trial by trial."""

MOST_DIGITS = 18
"""Of a whole number."""

_PACKAGE = Path(__file__).resolve().parent

CHECKOUT = _PACKAGE.parent
"""The folder that holds bench_lib: a checkout, or where a wheel is installed."""

_CARRIED = _PACKAGE / "data"

DATA = _CARRIED if _CARRIED.is_dir() else CHECKOUT
"""The folder of asv.conf.json, benchmarks, guest-images and tools, which a wheel carries inside the
package (pyproject.toml)."""


def _nearest_history(environ: Mapping[str, str]) -> Path:
    """The nearest folder upwards that holds a history, else this checkout.

    Who installed a wheel has no checkout; then it is where the XDG base directory specification
    puts a user's data.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        # Both, for an asv.conf.json alone is some other project's.
        if all(os.access(folder / name, os.R_OK) for name in ("asv.conf.json", "kernels.json")):
            return folder
    return CHECKOUT if DATA == CHECKOUT else _xdg(environ, "XDG_DATA_HOME", ".local/share")


def _xdg(environ: Mapping[str, str], name: str, default: str) -> Path:
    """Our folder where the XDG base directory specification puts it.

    :param default: in the user's home.
    """
    base = environ.get(name)
    return (Path(base) if base else Path.home() / default) / "kickbench"


def _one_of(name: str, text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise UsageError(f"{name} is {' or '.join(known)}, not {text!r}.")
    return text


def _positive(name: str, text: str) -> int:
    # Python does not convert thousands of digits.
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        raise UsageError(f"{name} is a whole number from 1 on, not {text[:40]!r}.")
    return int(text)


@dataclass(frozen=True)
class Settings:
    """What a user may set, and where kickbench keeps its things."""

    images: Path
    """The folder of guest images; it belongs to the code."""
    history: Path
    """KICKBENCH_HISTORY: the folder of asv.conf.json, ledger, records and asv's results. It may be
    a repository of its own; by default it is the nearest such folder upwards, else the checkout, or
    a folder of the user's where kickbench was installed from a wheel."""
    ledger: Path
    """The list of known kernels."""
    records: Path
    """KICKBENCH_RECORDS: the record file."""
    cache: Path
    """KICKBENCH_CACHE: folder for kernels that were fetched."""
    expired: frozenset[str]
    """KICKBENCH_EXPIRED: Debian's suites that are used although their Release file has expired."""
    runtime: Path
    """KICKBENCH_RUNTIME: folder for what lives as long as a run; on a tmpfs by default."""
    qemu: str
    """KICKBENCH_QEMU: the QEMU program, a name or a path."""
    trials: int
    """KICKBENCH_TRIALS: trials a scenario in `asv run`."""
    deadline_s: float
    """KICKBENCH_DEADLINE: seconds until a trial stops waiting for the answer."""
    full: bool
    """KICKBENCH_SET: whether `asv run` measures every scenario (`full`), or the few that tell most
    (`core`)."""
    lists_full: bool
    """KICKBENCH_LISTED: set by `asv_bridge` for its benchmarks: whether they name all values of
    their parameters (`full`), or only those that KICKBENCH_SET has them measure."""
    staging_s: float
    """KICKBENCH_STAGING: seconds until a trial that is not yet staged and proved is lost."""
    lab_memory_mib: int
    """KICKBENCH_LAB_MEMORY: MiB of memory of a lab."""
    lab_boot_s: float
    """KICKBENCH_LAB_BOOT: seconds until a lab that is not up is given up."""
    jobs: int | None
    """KICKBENCH_JOBS: how many labs run at once in campaigns, `gate` and `asv run`; None if it
    is not set."""
    kernel: str | None
    """KICKBENCH_KERNEL: set by `asv_bridge`: the id of the build to boot in the lab."""
    lab: tuple[str, str] | None
    """KICKBENCH_LAB: set inside a lab: its accelerator and its host's name."""
    failure: Path | None
    """KICKBENCH_FAILURE: set likewise: where a benchmark leaves word of why it failed."""
    progress: Path | None
    """KICKBENCH_PROGRESS: set by `asv_bridge` for its benchmarks: where lines of progress go."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        :raise UsageError: a value makes no sense.
        """

        def path(name: str, default: Path) -> Path:
            # Absolute, for asv runs benchmarks in folders that it deletes.
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
            trials=_positive("KICKBENCH_TRIALS", environ.get("KICKBENCH_TRIALS", "8")),
            full=chosen == "full",
            lists_full="full" in {chosen, environ.get("KICKBENCH_LISTED")},
            deadline_s=duration("KICKBENCH_DEADLINE", "5"),
            staging_s=duration("KICKBENCH_STAGING", "30"),
            lab_memory_mib=_positive(
                "KICKBENCH_LAB_MEMORY", environ.get("KICKBENCH_LAB_MEMORY", "2048")
            ),
            lab_boot_s=duration("KICKBENCH_LAB_BOOT", "120"),
            jobs=_positive("KICKBENCH_JOBS", jobs) if jobs else None,
            kernel=environ.get("KICKBENCH_KERNEL") or None,
            lab=(inside[0], inside[2]) if inside[1] else None,
            failure=Path(failure) if failure else None,
            progress=Path(progress) if progress else None,
        )

    @classmethod
    def of_history(cls, folder: Path, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings for a history that is given, as asv's is by its own configuration.

        :raise OtherHistory: KICKBENCH_HISTORY names another, so records would be kept in one and
            kernels and results in the other.
        """
        named = environ.get("KICKBENCH_HISTORY")
        if named and Path(named).resolve() != folder.resolve():
            raise OtherHistory(
                f"asv keeps its history in {folder}, and KICKBENCH_HISTORY is {named}; run asv "
                "there, or unset KICKBENCH_HISTORY."
            )
        return cls.from_environment({**environ, "KICKBENCH_HISTORY": str(folder)})

    def exported(self) -> dict[str, str]:
        """The paths as environment variables, for a process with another working folder."""
        return {
            "KICKBENCH_HISTORY": str(self.history),
            "KICKBENCH_RECORDS": str(self.records),
            "KICKBENCH_CACHE": str(self.cache),
            "KICKBENCH_RUNTIME": str(self.runtime),
            "KICKBENCH_QEMU": self.qemu,
        }
