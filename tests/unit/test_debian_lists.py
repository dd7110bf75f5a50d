# SPDX-License-Identifier: BSD-3-Clause
"""The kernels in a suite's list of packages."""

from bench_lib.kernel.packages import Package, kernels

ONE = "6.1.0-56-amd64"
SPLIT = "7.2.13+deb14-rt-amd64"


def _paragraph(name: str, version: str, size: int, depends: str = "") -> str:
    return (
        f"Package: {name}\nSource: linux (1)\nVersion: {version}\nArchitecture: amd64\n"
        + (f"Depends: {depends}\n" if depends else "")
        + f"Description: a package\n with more lines\n .\n and more\nSize: {size}\n"
    )


LIST = "\n".join(
    [
        _paragraph("linux-base", "4.9", 1),
        _paragraph(f"linux-image-{ONE}", "6.1.192-2", 70, "kmod, linux-base (>= 4.3~), x | y"),
        _paragraph(f"linux-image-{ONE}-unsigned", "6.1.192-2", 70),
        _paragraph(f"linux-image-{ONE}-dbg", "6.1.192-2", 700),
        _paragraph("linux-image-amd64", "6.1.192-2", 1, f"linux-image-{ONE} (= 6.1.192-2)"),
        _paragraph("linux-image-6.12-amd64", "1", 1, "linux-image-6.12.117+deb12-amd64 (= 1)"),
        _paragraph("linux-image-cloud-amd64", "1", 1, "linux-image-9.9.9-cloud-amd64 (= 1)"),
        _paragraph(f"linux-base-{SPLIT}", "7.2.13-1", 2),
        _paragraph(f"linux-binary-{SPLIT}", "7.2.13-1", 3, f"linux-base-{SPLIT} (= 7.2.13-1)"),
        _paragraph(f"linux-modules-{SPLIT}", "7.2.12-1", 4),
        _paragraph(
            f"linux-image-{SPLIT}",
            "7.2.13-1",
            5,
            f"dracut | initramfs-tools (>= 0.120), linux-binary-{SPLIT} (= 7.2.13-1),"
            f" linux-modules-{SPLIT} (= 7.2.13-1), linux-gone-{SPLIT} (= 7.2.13-1)",
        ),
        _paragraph("linux-image-rt-amd64", "7", 1, f"x (= 1), linux-image-{SPLIT} (= 7.2.13-1)"),
        _paragraph("zzz", "1", 1, f"linux-image-{ONE}"),
    ]
)


def test_kernels_are_found_with_the_packages_that_they_are_made_of() -> None:
    found, defaults = kernels(LIST, "amd64")
    assert sorted(found) == [ONE, SPLIT]
    assert found[ONE].version == "6.1.192-2"
    assert found[ONE].packages == (Package(f"linux-image-{ONE}", "6.1.192-2", 70),)
    # The list has another version of its modules, and lacks one of its packages.
    assert {(each.name, each.size) for each in found[SPLIT].packages} == {
        (f"linux-image-{SPLIT}", 5),
        (f"linux-binary-{SPLIT}", 3),
        (f"linux-base-{SPLIT}", 2),
    }
    assert defaults == {"": ONE, "rt": SPLIT}


def test_kernels_of_another_architecture_are_not_listed() -> None:
    assert kernels(LIST, "arm64") == ({}, {})
