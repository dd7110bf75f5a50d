# SPDX-License-Identifier: BSD-3-Clause
"""Where packages and trees have the parts of a kernel, and where the cache keeps them.

The image is boot/vmlinuz-RELEASE in Debian up to 13, in Ubuntu and from `make bindeb-pkg`. It is
lib/modules/RELEASE/vmlinuz in Fedora, and usr/lib/modules/RELEASE/vmlinuz in Debian 14. Modules are
in lib/modules/RELEASE or usr/lib/modules/RELEASE. A tar archive may have one more folder around
these paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

IMAGES = "images"
"""The folder to which images are unpacked, until their releases have been read."""

MODULES = Path("lib", "modules")
"""The folder of a build in the cache that has the modules, by release."""

_IMAGE = re.compile(
    r"(?:[^/]+/)?(?:boot/|(?:usr/)?lib/modules/[^/]+/)?(?:vmlinuz(?:-[^/]+)?|bzImage)"
)
_MODULE = re.compile(
    r"(?:[^/]+/)?(?:usr/)?lib/modules/(?P<kept>[^/]+/(?:modules\.[^/]+|.+\.ko(?:\.(?:xz|zst|gz))?))"
)


def kept(name: str) -> str | None:
    """The place in the cache for a file of a package; None if a kernel does not need the file.

    :param name: the file's name in the package.
    """
    if _IMAGE.fullmatch(name):
        return f"{IMAGES}/{name.replace('/', '!')}"
    if match := _MODULE.fullmatch(name):
        return str(MODULES / match["kept"])
    return None


def shown(image: Path) -> str:
    """The name that an unpacked image had in its package."""
    return image.name.replace("!", "/")


def kept_of_modules(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The files of a folder lib/modules/RELEASE that the cache keeps, and their relative paths.

    Links to other folders, such as `build`, are not followed.
    """
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if _MODULE.fullmatch(f"lib/modules/release/{inside}") and path.is_file():
            yield path, inside


def modules_of(folder: Path, release: str) -> Path | None:
    """The folder of a release's modules below the root of a system; None if there is none."""
    for place in (MODULES, "usr" / MODULES):
        if (folder / place / release).is_dir():
            return folder / place / release
    return None


def images_of(root: Path) -> list[Path]:
    """The kernel images below the root of a system, those in /boot first."""
    patterns = ("boot/vmlinuz*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
