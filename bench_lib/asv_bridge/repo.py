# SPDX-License-Identifier: BSD-3-Clause
"""asv's repository, whose commits are the kernel builds of the ledger and the booted kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from asv.repo import NoSuchNameError, Repo
from asv.util import UserError

from bench_lib.errors import LedgerError
from bench_lib.host import identity
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.kernel.names import meant
from bench_lib.kernel.suites import Suites
from bench_lib.settings import Settings


class KernelRepo(Repo):  # type: ignore[misc]  # asv has no types
    """A branch of builds in the order of their versions. The tag of a build is `v` and its release.

    A range A..B is every build after A up to B. The booted kernel is on the branch even before
    it is in the ledger. HEAD and the name of the branch mean the booted kernel.
    """

    dvcs = "kernels"
    _default_branch = "kernels"

    def __init__(self, url: str, mirror_path: str) -> None:
        """Open the ledger.

        :param url: the path of the ledger.
        :param mirror_path: asv's argument for a mirror, which is not used here.
        """
        try:
            self._ledger = Ledger(Path(url).absolute())
        except LedgerError as error:
            raise UserError(str(error)) from None
        booted = identity.booted()
        self.booted = self._ledger.find(booted) or describe(booted)
        self.requested: list[str] = []
        """The ids of all builds that asv has requested by name or range; see KernelHost."""

    @classmethod
    def url_match(cls, url: str) -> bool:
        return Path(url).name == "kernels.json"

    @cached_property
    def _builds(self) -> list[Build]:
        return self._ledger.including(self.booted)

    @cached_property
    def _by_id(self) -> dict[str, Build]:
        """The builds by id. asv looks one up for each result."""
        return {build.id: build for build in self._builds}

    @cached_property
    def _suites(self) -> Mapping[str, str]:
        """The releases that names of Debian's suites mean."""
        return Suites.of(Settings.from_environment()).meanings()

    def build(self, name: str | None) -> Build:
        """Return the build with this name. None, HEAD and the branch mean the booted kernel.

        If a release has several builds, its name means the build that has it as a tag.

        :raise NoSuchNameError: there is no such build.
        """
        if name in (None, "HEAD", self._default_branch):
            return self.booted
        assert name is not None
        if name in self._by_id:
            return self._by_id[name]
        found = meant(name, self._builds, self._suites)
        if not found:
            raise NoSuchNameError(name)
        if "/" in name:
            return found[-1]
        tagged = [build for build in found if self._ledger.tag(build) == f"v{build.release}"]
        return (tagged or found)[0]

    def checkout(self, path: str, commit_hash: str) -> None:
        """Do nothing, because a kernel has no working tree here."""

    def pull(self) -> None:
        """Do nothing, because the ledger is a local file."""

    def get_range_spec(self, commit_a: str, commit_b: str) -> str:
        return f"{commit_a}..{commit_b}"

    def get_new_range_spec(self, latest_result: str, branch: str | None = None) -> str:
        return f"{latest_result}..{self._builds[-1].id}"

    def get_date(self, hash: str) -> int:  # noqa: A002
        return self.build(hash).timestamp_ms

    def get_date_from_name(self, name: str) -> int:
        return self.get_date(name)

    def get_hashes_from_range(self, range: str) -> list[str]:  # noqa: A002
        """Return the builds of a range, the newest first.

        :param range: `A..B`, in which A and B are optional; `A^!` or `A` is one build.
        """
        try:
            first, dots, last = range.partition("..")
            if not dots:
                chosen = [self.build(range.removesuffix("^!"))]
            else:
                builds = self._builds
                start = builds.index(self.build(first)) + 1 if first else 0
                end = builds.index(self.build(last)) + 1 if last else len(builds)
                chosen = builds[start:end]
        except NoSuchNameError as error:
            raise UserError(
                f"{self._ledger.path.name} has no kernel {str(error)!r}. Its kernels are "
                f"{', '.join(map(self._ledger.tag, self._builds))}."
            ) from None
        return self._note_request([build.id for build in reversed(chosen)])

    def get_new_branch_commits(
        self, branches: Iterable[str | None], existing: Iterable[str]
    ) -> list[str]:
        return self._note_request(list(super().get_new_branch_commits(branches, existing)))

    def get_hash_from_name(self, name: str | None) -> str:
        build_id = self.build(name).id
        # To discover benchmarks, asv looks up None.
        if name is not None:
            self._note_request([build_id])
        return build_id

    def _note_request(self, ids: list[str]) -> list[str]:
        self.requested.extend(ids)
        return ids

    def get_hash_from_parent(self, name: str) -> str:
        position = self._builds.index(self.build(name))
        if position == 0:
            raise NoSuchNameError(f"{name}^")
        return self._builds[position - 1].id

    def get_name_from_hash(self, commit: str) -> str | None:
        try:
            return self._ledger.tag(self.build(commit))
        except NoSuchNameError:
            return None

    def get_tags(self) -> dict[str, str]:
        return {self._ledger.tag(build): build.id for build in self._ledger.builds}

    def get_branch_commits(self, branch: str | None) -> list[str]:
        return [build.id for build in reversed(self._builds)]

    def get_revisions(self, commits: Iterable[str]) -> dict[str, int]:
        """Return the position of each commit on graphs.

        :raise UserError: a result belongs to a kernel that is not in the ledger.
        """
        positions = {build.id: position for position, build in enumerate(self._builds)}
        if unknown := [commit for commit in commits if commit not in positions]:
            raise UserError(
                f"There are results of {', '.join(sorted(unknown))}, but {self._ledger.path.name} "
                "has no such build. Copy each entry from the ledger of the checkout that made the "
                "results."
            )
        return {commit: positions[commit] for commit in commits}
