# SPDX-License-Identifier: BSD-3-Clause
"""Make `asv publish` write a site that needs no network, completely or not at all.

asv's own pages load their libraries from the web, so they are replaced by the page Kernels and by
asv-tachyon, which shows the same data and loads nothing from the web.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asv
import asv_tachyon  # type: ignore[import-untyped]
import msgspec
from asv.commands.publish import Publish
from asv.console import log
from asv.publishing import OutputPublisher
from asv.util import UserError

from bench_lib import libc, record
from bench_lib.asv_bridge.environment import refuse
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.errors import KickbenchError, StoreError
from bench_lib.kernel.ledger import Build
from bench_lib.pages import kernels
from bench_lib.settings import Settings

HISTORY = "history.html"
"""The name of asv-tachyon's page. The first page of the site is Kernels."""

OLD = "old"
"""The name of the old site beside the new one, if the file system cannot exchange the two."""

AT_FDCWD = -100
RENAME_EXCHANGE = 2


class KernelsPage(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """The page Kernels: the outcomes of each request under each kernel, and their trials."""

    name = "kernels"
    button_label = "Kernels"
    description = "Every kernel by request and scenario, with the trials behind each number"

    @classmethod
    def publish(
        cls,
        conf: Any,
        repo: KernelRepo,
        benchmarks: object,
        graphs: object,
        revisions: Mapping[str, int],
    ) -> None:
        site = Path(conf.html_dir)
        _remove_own_pages(site)
        _add_tachyon(site, {name: repo.build(name) for name in revisions}, revisions)
        _write_kernels(site, history=True)


def _write_kernels(site: Path, *, history: bool) -> None:
    try:
        records, damaged = record.read(Settings.of_history(Path.cwd()).records)
    except StoreError as error:
        raise UserError(str(error)) from None
    for each in damaged:
        log.warning(f"Left out: {each}")
    kernels.write(site, records, history=history)


def _remove_own_pages(site: Path) -> None:
    for path in (Path(asv.__file__).parent / "www").iterdir():
        target = site / path.name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _add_tachyon(site: Path, builds: Mapping[str, Build], revisions: Mapping[str, int]) -> None:
    static = Path(asv_tachyon.__file__).parent / "static"
    shutil.copytree(static / "assets", site / "assets")
    shutil.copyfile(static / "favicon.svg", site / "favicon.svg")
    shutil.copyfile(static / "index.html", site / HISTORY)
    # asv-tachyon loads these files: names of commits, paths of profiles, regressions to ignore.
    subjects = {name: f"{build.release} {build.version}" for name, build in builds.items()}
    by_revision = {str(revisions[name]): subject for name, subject in subjects.items()}
    commits = {"by_hash": subjects, "by_revision": by_revision}
    (site / "commits.json").write_bytes(msgspec.json.encode(commits))
    (site / "profiles.json").write_text('{"paths": {}}')
    (site / "regressions-ignore.json").write_text("[]")


def _remove_unrun_benchmarks(site: Path) -> None:
    """Remove benchmarks that never ran from the index.

    asv lists every benchmark, and asv-tachyon loads the graph of each one that is listed.
    """
    path = site / "index.json"
    index = msgspec.json.decode(path.read_bytes())
    ran = {graph.stem for graph in (site / "graphs").glob("**/*.json")}
    index["benchmarks"] = {name: of for name, of in index["benchmarks"].items() if name in ran}
    path.write_bytes(msgspec.json.encode(index))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of this folder, so that only one process publishes into it."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "publish.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _put_in_place(new: Path, site: Path) -> None:
    """Replace the old site with the new one, atomically if the file system can do that.

    The old site is moved to the place of the new one, or beside it.
    """
    if not site.exists():
        new.rename(site)
        return
    if _exchange(new, site):
        return
    # Between the two renames there is no site.
    old = new.with_name(OLD)
    try:
        site.rename(old)
        new.rename(site)
    except BaseException:
        if not site.exists() and old.exists():
            old.rename(site)
        raise


def _exchange(new: Path, site: Path) -> bool:
    """Exchange two folders atomically. Return False if the file system cannot do that.

    Many network file systems cannot.
    """
    if libc.LIBC.renameat2(AT_FDCWD, bytes(new), AT_FDCWD, bytes(site), RENAME_EXCHANGE) == 0:
        return True
    failed = libc.error(str(site))
    if failed.errno not in {errno.EINVAL, errno.ENOSYS}:
        raise failed
    return False


def _sweep(site: Path, prefix: str) -> None:
    """Delete the folders that killed publishers have left. If the site is missing, restore it.

    :param prefix: the prefix of the names of these folders, which are beside the site.
    """
    for left in site.parent.glob(f"{prefix}*"):
        if not site.exists() and (left / OLD).exists():
            (left / OLD).rename(site)
        shutil.rmtree(left, ignore_errors=True)


_publish = Publish.run.__func__


def _run(cls: type, /, conf: Any, *arguments: object, **options: object) -> None:
    """Run asv's own command into a new folder, which replaces the old site when it is complete."""
    try:
        Settings.of_history(Path.cwd())
    except KickbenchError as error:
        refuse(str(error), error.exit_status)
    # If the site is a symbolic link, its target is replaced, and the link stays.
    site = Path(conf.html_dir).resolve()
    prefix = f".{site.name}.kickbench-publish-"
    try:
        with _locked(site.parent):
            _sweep(site, prefix)
            # Files of the old site that cannot be deleted are deleted by the next sweep.
            with tempfile.TemporaryDirectory(
                dir=site.parent, prefix=prefix, ignore_cleanup_errors=True
            ) as folder:
                new = Path(folder) / site.name
                _publish_to(new, cls, conf, *arguments, **options)
                _put_in_place(new, site)
    except OSError as error:
        raise UserError(
            f"The site could not be written ({error.strerror or error}); {site} is unchanged."
        ) from None


def _publish_to(new: Path, cls: type, conf: Any, *arguments: object, **options: object) -> None:
    site, conf.html_dir = conf.html_dir, str(new)
    try:
        if (Path(conf.results_dir) / "benchmarks.json").exists():
            _publish(cls, conf, *arguments, **options)
            _remove_unrun_benchmarks(new)
        else:
            # asv has no results. The trials were made by hand, in a campaign or on another host.
            new.mkdir()
            _write_kernels(new, history=False)
    finally:
        conf.html_dir = site


def install() -> None:
    """Make `asv publish` use this module."""
    Publish.run = classmethod(_run)
