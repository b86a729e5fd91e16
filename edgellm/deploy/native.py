"""llama-cpp-python for another machine: its shared libraries, cross-compiled, in a wheel.

The sources are those of llama-cpp-python's own distribution, in the version that is installed
here. The other machine needs no more than the C and C++ libraries of its system: llama.cpp's own
threads stand for OpenMP's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.deploy.run import run_quietly
from edgellm.deploy.targets import Target
from edgellm.deploy.wheelfile import Member, write_wheel
from edgellm.errors import FetchError, NotFoundError
from edgellm.settings import cache_dir

__all__ = ["PACKAGE", "native_wheel"]

PACKAGE = "llama-cpp-python"
MODULE = "llama_cpp"
_STEP = re.compile(r"^\[(\d+)/(\d+)\]")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_COMMON=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_CURL=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    # Beside each other, wherever the package lies.
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_SHARED_LINKER_FLAGS=-s",
)
# The libraries, by the names under which they are opened and under which they need each other.
_LIBRARIES = re.compile(r"^lib(llama|ggml|ggml-base|ggml-cpu)\.so(\.\d+)?$")

# Versions of symbols, as an ELF file names them: what the system's libraries have to offer.
_SYMBOLS = {
    "glibc": re.compile(rb"GLIBC_(\d+)\.(\d+)(?![\d.])"),
    "libstdc++": re.compile(rb"GLIBCXX_3\.(\d+)\.(\d+)(?![\d.])"),
}
# Of Debian 12: the compiler's library of GCC 12.
_GLIBCXX = (4, 30)

Progress = Callable[[str, int, int], None]


def native_wheel(target: Target, folder: Path, progress: Progress) -> Path:
    """Put the wheel of llama-cpp-python for a target into `folder`; gives its path.

    It is compiled once and kept in the cache.

    Raises:
        NotFoundError: a compiler, cmake or ninja is missing.
        FetchError: the sources cannot be had, or do not compile.
    """
    version = importlib.metadata.version(PACKAGE)
    compilers = _compilers(target)
    parts = (
        version,
        target.machine,
        *(target.cmake or ()),
        *_OPTIONS,
        *map(_version_of, compilers),
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    kept = cache_dir() / "wheels" / f"{PACKAGE}-{version}-{target.machine}-{key}"
    found = next(iter(sorted(kept.glob("*.whl"))), None)
    if found is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".building-") as place:
            built = _build(target, version, compilers, Path(place), progress)
            kept.mkdir(exist_ok=True)
            found = kept / built.name
            built.replace(found)
    copied = folder / found.name
    shutil.copyfile(found, copied)
    return copied


def _compilers(target: Target) -> tuple[str, str]:
    """Find the compilers of C and C++; a cross compiler where the machine is another one.

    Raises:
        NotFoundError: one of the tools is missing.
    """
    native = platform.machine() == target.machine
    prefix = "" if native else f"{target.machine}-linux-gnu-"
    names = (f"{prefix}gcc", f"{prefix}g++")
    missing = [name for name in (*names, "cmake", "ninja") if shutil.which(name) is None]
    if missing:
        debian = {"aarch64": "arm64", "x86_64": "amd64"}[target.machine]
        package = "build-essential" if native else f"crossbuild-essential-{debian}"
        raise NotFoundError(
            f"llama.cpp has to be compiled for {target.name}, and {', '.join(missing)} is not "
            "installed here",
            hint=f"on Debian and Ubuntu: sudo apt install {package} cmake ninja-build",
        )
    return names


def _version_of(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _build(
    target: Target, version: str, compilers: Sequence[str], place: Path, progress: Progress
) -> Path:
    """Compile in `place`; gives the wheel."""
    sources = _sources(version, place, progress)
    build = place / "build"
    tools = place / "toolchain.cmake"
    tools.write_text(
        "set(CMAKE_SYSTEM_NAME Linux)\n"
        f"set(CMAKE_SYSTEM_PROCESSOR {target.machine})\n"
        f"set(CMAKE_C_COMPILER {compilers[0]})\n"
        f"set(CMAKE_CXX_COMPILER {compilers[1]})\n"
    )
    # Where it was built does not get into the bytes.
    mapped = f"-ffile-prefix-map={place}=."
    configure = ["cmake", "-S", str(sources / "vendor" / "llama.cpp"), "-B", str(build)]
    configure += ["-G", "Ninja", f"-DCMAKE_TOOLCHAIN_FILE={tools}", *_OPTIONS]
    configure += [f"-DCMAKE_C_FLAGS={mapped}", f"-DCMAKE_CXX_FLAGS={mapped}"]
    configure += target.cmake or ()
    progress("preparing llama.cpp", 0, 0)
    run_quietly(configure, f"llama.cpp cannot be prepared for {target.name}")

    def step(line: str) -> None:
        found = _STEP.match(line)
        if found and int(found[1]) % 10 == 1:
            progress(f"compiling llama.cpp for {target.name} ({found[1]} of {found[2]})", 0, 0)

    cores = str(len(os.sched_getaffinity(0)))
    run_quietly(
        ["ninja", "-C", str(build), "-j", cores, "llama"],
        f"llama.cpp does not compile for {target.name}",
        on_line=step,
    )
    return _pack(target, version, sources, build / "bin", place)


def _sources(version: str, place: Path, progress: Progress) -> Path:
    """Download and unpack the source distribution; gives its folder."""
    from edgellm.deploy.wheels import pip

    progress(f"fetching the sources of {PACKAGE}", 0, 0)
    arguments = ["download", "--no-deps", "--no-binary", PACKAGE]
    pip([*arguments, "--dest", str(place), f"{PACKAGE}=={version}"])
    archive = next(iter(place.glob("*.tar.gz")), None)
    if archive is None:
        raise FetchError(f"{PACKAGE} {version} has no source distribution")
    with tarfile.open(archive) as members:
        members.extractall(place, filter="data")
    archive.unlink()
    found = next(iter(place.glob(f"*/{MODULE}/__init__.py")), None)
    if found is None or not (found.parents[1] / "vendor" / "llama.cpp").is_dir():
        raise FetchError(f"the source distribution of {PACKAGE} {version} holds no llama.cpp")
    return found.parents[1]


def _pack(target: Target, version: str, sources: Path, binaries: Path, place: Path) -> Path:
    """Put the package and its libraries into a wheel."""
    members = [
        Member(path.relative_to(sources).as_posix(), path.read_bytes())
        for path in (sources / MODULE).rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed")
    ]
    libraries = [path for path in binaries.iterdir() if _LIBRARIES.match(path.name)]
    members += [Member(f"{MODULE}/lib/{path.name}", path.read_bytes()) for path in libraries]
    for path in libraries:
        _check_symbols(path, target)
    if not any(path.name == "libllama.so" for path in libraries):
        raise FetchError(f"the build of llama.cpp for {target.name} gave no libllama.so")
    info = f"{PACKAGE.replace('-', '_')}-{version}.dist-info"
    tag = f"py3-none-linux_{target.machine}"
    wheel = f"Wheel-Version: 1.0\nGenerator: edgellm\nRoot-Is-Purelib: false\nTag: {tag}\n"
    members += [
        Member(f"{info}/METADATA", (sources / "PKG-INFO").read_bytes()),
        Member(f"{info}/WHEEL", wheel.encode()),
        Member(f"{info}/licenses/LICENSE.md", (sources / "LICENSE.md").read_bytes()),
    ]
    name = info.removesuffix(".dist-info")
    return write_wheel(place / f"{name}-{tag}.whl", members, info)


def _check_symbols(library: Path, target: Target) -> None:
    """Refuse a library that asks for a newer system than the target has.

    Raises:
        FetchError: it was compiled against newer libraries.
    """
    data = library.read_bytes()
    for name, limit in (("glibc", target.glibc), ("libstdc++", _GLIBCXX)):
        found = [(int(each[1]), int(each[2])) for each in _SYMBOLS[name].finditer(data)]
        newest = max(found, default=limit)
        if newest > limit:
            want, have = (".".join(map(str, each)) for each in (newest, limit))
            raise FetchError(
                f"the compiler here builds {library.name} for {name} {want}, and {target.name} may "
                f"have {have}",
                hint="make the bundle on Debian 12 or an equally old system, or in a container",
            )
