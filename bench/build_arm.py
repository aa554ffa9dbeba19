"""Builds the kernels for aarch64 on another machine, and runs a part of their tests there as qemu's guest.

The guest's Python comes from Debian, its packages as wheels. Both are unpacked into the way's folder.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from build_places import Came, Failed, Missing, Place, need

# Python 3.11 and the libraries that it, NumPy and the kernels load.
DEBIAN = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libgomp1",
    "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libssl3", "libsqlite3-0", "libbz2-1.0", "liblzma5", "libuuid1",
)  # fmt: skip
WHEELS = ("numpy>=2.0", "cffi>=1.17", "pytest", "hypothesis")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")
# apt as root of a system of its own: no other architecture is added to this one's.
APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "{0}";
Dir::State::status "{0}/status";
Dir::Cache "{0}/cache";
"""


def aarch64(place: Place, tests: tuple[str, ...]) -> Came:
    compiler = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    qemu = need("qemu-aarch64-static", "qemu-user-static")
    tree = place.clone()
    place.in_place(tree, CC=compiler)
    root, site = _python(place), _packages(place)
    guest = ("-L", root, "-E", f"PYTHONPATH={tree}:{site}", root / "usr" / "bin" / "python3.11")
    ran = place.run(qemu, *guest, "-m", "pytest", "-p", "no:cacheprovider", *tests, cwd=tree).splitlines()[-1]
    return place.came(f"works: {ran.strip('= ')}", tree / "cnncore")


def _python(place: Place) -> Path:
    """A folder with Debian's Python for aarch64."""
    apt, root = place.folder / "apt", place.folder / "root"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    root.mkdir()
    (apt / "status").touch()
    (apt / "conf").write_text(APT.format(apt))
    try:
        place.run(need("apt-get", "apt"), "update", APT_CONFIG=str(apt / "conf"))
        place.run("apt-get", "download", *DEBIAN, cwd=apt, APT_CONFIG=str(apt / "conf"))
    except Failed as error:
        raise Missing(f"Debian's Python 3.11 for aarch64: {error.short()}") from None
    for package in apt.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    return root


def _packages(place: Place) -> Path:
    site = place.folder / "site"
    kinds = [word for name in PLATFORMS for word in ("--platform", name)]
    kinds += ["--implementation", "cp", "--python-version", "311", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    try:
        words = ("-m", "pip", "install", "-q", "--target", site, "--only-binary=:all:", *kinds, *WHEELS)
        place.run(place.tools.python, *words)
    except Failed as error:
        raise Missing(f"wheels for aarch64: {error.short()}") from None
    return site
