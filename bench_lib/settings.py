"""Everything that environment variables say, read in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench_lib.deadline import seconds
from bench_lib.errors import UsageError

CHECKOUT = Path(__file__).resolve().parent.parent


def _nearest_history() -> Path:
    """The nearest folder upwards that has an asv.conf.json, else this checkout."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if os.access(folder / "asv.conf.json", os.R_OK):
            return folder
    return CHECKOUT


def _positive(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} is a whole number of trials from 1 on, not {text!r}.")
    return int(text)


@dataclass(frozen=True)
class Settings:
    """What a user may set, and where kickbench keeps its things."""

    images: Path
    """The folder of guest images; it belongs to the checkout, like the code."""
    history: Path
    """KICKBENCH_HISTORY: the folder of asv.conf.json, ledger, records and asv's results. It may be
    a repository of its own; by default it is the nearest such folder upwards."""
    ledger: Path
    """The list of known kernels."""
    records: Path
    """KICKBENCH_RECORDS: the record file."""
    runtime: Path
    """KICKBENCH_RUNTIME: folder for what lives as long as a run; on a tmpfs by default."""
    qemu: str
    """KICKBENCH_QEMU: the QEMU program, a name or a path."""
    trials: int
    """KICKBENCH_TRIALS: trials a scenario in `asv run`."""
    deadline_s: float
    """KICKBENCH_DEADLINE: seconds until a trial stops waiting for the answer."""
    staging_s: float
    """KICKBENCH_STAGING: seconds until a trial that is not yet staged and proved is lost."""
    progress: Path | None
    """KICKBENCH_PROGRESS: a file that lines of progress are appended to."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        :raise UsageError: a value makes no sense.
        """
        history = Path(environ.get("KICKBENCH_HISTORY") or _nearest_history())
        progress = environ.get("KICKBENCH_PROGRESS")
        return cls(
            images=CHECKOUT / "guest-images",
            history=history,
            ledger=history / "kernels.json",
            records=Path(environ.get("KICKBENCH_RECORDS", history / ".asv" / "records.jsonl")),
            runtime=Path(environ.get("KICKBENCH_RUNTIME", "/run/kickbench")),
            qemu=environ.get("KICKBENCH_QEMU", "qemu-system-x86_64"),
            trials=_positive("KICKBENCH_TRIALS", environ.get("KICKBENCH_TRIALS", "8")),
            deadline_s=seconds(environ.get("KICKBENCH_DEADLINE", "5")),
            staging_s=seconds(environ.get("KICKBENCH_STAGING", "30")),
            progress=Path(progress) if progress else None,
        )
