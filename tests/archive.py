# SPDX-License-Identifier: BSD-3-Clause
"""A Debian archive for tests, signed with a key of its own, and a host that uses it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from tests import make


class Signer:
    """A key that signs an archive. :ivar keyring: the file of its public part, for apt."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._gpg("--quick-generate-key", "tests", "ed25519", "sign", "never")
        self.keyring = home / "keyring.gpg"
        self._gpg("--output", str(self.keyring), "--export")

    def sign(self, release: Path) -> None:
        """Write InRelease beside a Release file."""
        signed = release.with_name("InRelease")
        self._gpg("--yes", "--output", str(signed), "--clear-sign", str(release))

    def _gpg(self, *arguments: str) -> None:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--passphrase", "", *arguments]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def signer() -> Iterator[Signer]:
    """Make a key, and delete it at the end."""
    # The path of gpg-agent's socket must not be longer than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kb-") as home:
        try:
            yield Signer(Path(home))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def kernel(folder: Path, release: str, version: str = "1") -> Path:
    """Make a kernel in one package, as Debian did until Debian 13."""
    root = folder / "root"
    make.vmlinuz(root / "boot" / f"vmlinuz-{release}", _banner(release, version))
    make.modules(root / "usr" / "lib" / "modules" / release)
    return package(folder, f"linux-image-{release}", version, root=root)


def split_kernel(folder: Path, release: str, version: str = "1") -> list[Path]:
    """Make a kernel in several packages, as Debian does from Debian 14 on."""
    modules = folder / "modules" / "usr" / "lib" / "modules" / release
    make.modules(modules)
    make.vmlinuz(
        folder / "binary" / "usr" / "lib" / "modules" / release / "vmlinuz",
        _banner(release, version),
    )
    base = f"linux-base-{release} (= {version})"
    parts = [f"linux-{part}-{release} (= {version})" for part in ("base", "binary", "modules")]
    return [
        package(folder, f"linux-base-{release}", version),
        package(folder, f"linux-binary-{release}", version, base, folder / "binary"),
        package(folder, f"linux-modules-{release}", version, f"kmod, {base}", folder / "modules"),
        package(
            folder, f"linux-image-{release}", version, f"dracut | x (>= 1), {', '.join(parts)}"
        ),
    ]


def default(folder: Path, release: str, version: str = "1") -> Path:
    """Make the package that depends on the kernel that a suite installs."""
    return package(folder, "linux-image-amd64", version, f"linux-image-{release} (= {version})")


def _banner(release: str, version: str) -> str:
    return f"{release} (who@where) #1 SMP PREEMPT_DYNAMIC Debian {version} (2026-11-09)"


def package(
    folder: Path, name: str, version: str, depends: str = "", root: Path | None = None
) -> Path:
    """Make a package.

    :param root: the folder of the files that it holds; by default it holds none.
    """
    tree = root or folder / f"{name}-root"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n"
        + (f"Depends: {depends}\n" if depends else "")
        + "Description: a package\n"
    )
    file = folder / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, file], check=True, capture_output=True)
    return file


class Archive:
    """A mirror of Debian.

    :ivar folder: the folder of the archives debian and debian-security, as on a server.
    """

    def __init__(self, folder: Path, key: Signer) -> None:
        self.folder = folder
        self.key = key

    def suite(
        self,
        alias: str,
        name: str,
        packages: Sequence[Path] = (),
        *,
        expired: bool = False,
        key: Signer | None = None,
    ) -> Path:
        """Publish a suite under both of its names, and return its file Packages."""
        security = alias.endswith("-security")
        root = self.folder / ("debian-security" if security else "debian")
        lists = self.dists(name) / "main" / "binary-amd64"
        lists.mkdir(parents=True, exist_ok=True)
        text = "\n".join(self._entry(root, each) for each in packages)
        (lists / "Packages").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        now = datetime.now(UTC)
        until = now + timedelta(days=-2 if expired else 7)
        release = self.dists(name) / "Release"
        release.write_text(
            f"Origin: Debian\nLabel: Debian{'-Security' if security else ''}\n"
            f"Suite: {alias}\nCodename: {name}\n"
            f"Date: {format_datetime(now - timedelta(days=9), usegmt=True)}\n"
            f"Valid-Until: {format_datetime(until, usegmt=True)}\n"
            "Architectures: amd64\nComponents: main\n"
            f"SHA256:\n {digest} {len(text)} main/binary-amd64/Packages\n"
        )
        (key or self.key).sign(release)
        other = release.parent.with_name(alias)
        if not other.exists():
            other.symlink_to(name)
        return lists / "Packages"

    def dists(self, name: str) -> Path:
        """The folder of a suite."""
        root = "debian-security" if name.endswith("-security") else "debian"
        return self.folder / root / "dists" / name

    def _entry(self, root: Path, file: Path) -> str:
        data = file.read_bytes()
        pool = root / "pool"
        pool.mkdir(parents=True, exist_ok=True)
        (pool / file.name).write_bytes(data)
        control = subprocess.run(
            ["dpkg-deb", "--field", file], check=True, capture_output=True, text=True
        ).stdout
        digest = hashlib.sha256(data).hexdigest()
        return f"{control}Filename: pool/{file.name}\nSize: {len(data)}\nSHA256: {digest}\n"


class Host:
    """apt's configuration on a host that has not read any list yet.

    :ivar hook_ran: a file that exists once apt has run a hook of the host.
    """

    def __init__(self, folder: Path, keyring: Path) -> None:
        self.folder = folder
        self.hook_ran = folder / "hook"
        self._keyring = keyring
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{folder}/parts";\n'
            # The configuration of the machine that runs the tests is not used.
            f'Dir::Etc::parts "{folder}/parts";\nDir::Etc::main "/dev/null";\n'
            f'Dir::State::lists "{folder}/lists";\nDir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\nAPT::Sandbox::User "";\n'
            'APT::Architecture "amd64";\n#clear APT::Architectures;\n'
            'Acquire::Check-Valid-Until "true";\nAcquire::Retries "0";\n'
            'Acquire::http::Proxy::127.0.0.1 "DIRECT";\n'
            f'APT::Update::Post-Invoke {{ "touch {self.hook_ran}"; }};\n'
        )

    def gets_debian_from(self, uri: str, *, security: bool = True) -> None:
        """Write the host's sources.list. :param uri: the folder of an `Archive`, as a URI."""
        options = f"[signed-by={self._keyring}]"
        lines = [f"deb {options} {uri}/debian stable main"]
        if security:
            lines.append(f"deb {options} {uri}/debian-security stable-security main")
        (self.folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf")}

    def read(self) -> list[Path]:
        """The files that apt has downloaded for the host itself."""
        return [each for each in (self.folder / "lists").rglob("*") if each.is_file()]
