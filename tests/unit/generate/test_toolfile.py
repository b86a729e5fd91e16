"""Tools of a file: whatever happens in their process, a text comes back, and nothing is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgellm.backends.base import CancelledError
from edgellm.errors import NotFoundError, UsageError
from edgellm.generate.template import ToolCall
from edgellm.generate.toolfile import ToolFile
from edgellm.generate.tools import FunctionTools, check_call

TOOLS = '''
import asyncio, enum, json, os, subprocess, sys, time
from pathlib import Path
from beside import SECRET

class Size(enum.Enum):
    BIG = "big"

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b
def size(size: Size, file: Path) -> str: return f"{size!r} {file!r}"
async def later(text: str) -> dict[str, str]: return {"later": text}
def shout(text: str) -> None: print(text)
def nothing() -> None: pass
def raises(text: str) -> str: raise ValueError(text)
def exits() -> str: sys.exit(3)
def dies() -> str: os.write(2, b"last words"); os._exit(9)
def killed() -> str: os.kill(os.getpid(), 9)
def hangs() -> str: time.sleep(1000)
def spins() -> str:
    while True: pass
def floods() -> str: return "الف" * 3_000_000
def prints() -> str:
    for _ in range(200): print("x" * 100_000)
    return "printed"
def binary() -> str: return b"\\x00"
def nan() -> float: return float("nan")
def loop() -> list[int]:
    a = []; a.append(a); return a
def surrogate() -> str: return "a\\ud800b"
def asks() -> str: return repr(sys.stdin.read())
def eats() -> str: return len(bytearray(10**13))
def writes() -> str:
    for fd in range(3, 1000):
        try: os.write(fd, b"[1]\\n")
        except OSError: pass
    return "x"
def children(file: str) -> str:
    subprocess.Popen([sys.executable, "-c",
        f"import time, os\\nopen({file!r}, 'w').write(str(os.getpid()))\\ntime.sleep(1000)"])
    while not Path(file).is_file() or not Path(file).read_text(): time.sleep(0.01)
    return SECRET
def session() -> bool: return os.getsid(0) == os.getpid()
def _private(x): pass
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "beside.py").write_text("SECRET = 'from beside'\n")
    path = folder / "tools.py"
    path.write_text(TOOLS)
    return path


@pytest.fixture(scope="module")
def box(file) -> ToolFile:
    return ToolFile(file, timeout=20)


def run(box, name: str, **arguments):
    call = ToolCall(name, arguments)
    assert check_call(box.tools, call) is None
    return box.run(call, lambda: False)


def test_public_functions_are_offered(box, file):
    assert list(box.tools)[:3] == ["add", "size", "later"]
    assert "_private" not in box.tools
    assert "Path" not in box.tools
    assert box.tools["add"].as_dict()["function"]["description"] == "Add two numbers."
    assert not (file.parent / "__pycache__" / "tools.cpython-311.pyc").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("add", {"a": 2, "b": 40}, "42"),
        ("size", {"size": "big", "file": "نام.txt"}, "<Size.BIG: 'big'> PosixPath('نام.txt')"),
        ("later", {"text": "سلام"}, '{"later": "سلام"}'),
        ("shout", {"text": "سلام"}, "سلام"),
        ("nothing", {}, "done"),
        ("prints", {}, "printed"),
        ("surrogate", {}, "a?b"),
        ("asks", {}, "''"),
        ("session", {}, "true"),
    ],
)
def test_results_come_back(box, name, arguments, text, capfd):
    outcome = run(box, name, **arguments)
    assert (outcome.text, outcome.ok, outcome.cut) == (text, True, False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("raises", {"text": "کتاب"}, "raises failed: ValueError: کتاب (line 16)"),
        ("exits", {}, "exits failed: SystemExit: 3"),
        ("dies", {}, "without a result (status 9). It printed: last words"),
        ("killed", {}, "without a result (signal 9)"),
        ("binary", {}, "a bytes that JSON cannot hold"),
        ("nan", {}, "a float that JSON cannot hold"),
        ("loop", {}, "a list that JSON cannot hold"),
        ("eats", {}, "MemoryError"),
        ("writes", {}, "no usable answer"),
    ],
)
def test_what_goes_wrong_is_a_sentence(box, name, arguments, said):
    outcome = run(box, name, **arguments)
    assert said in outcome.text
    assert not outcome.ok


def test_a_long_error_is_bounded(box):
    assert len(run(box, "raises", text="x" * 1_000_000).text) < 1000


@pytest.mark.parametrize("name", ["hangs", "spins"])
def test_a_tool_that_hangs_is_stopped(file, name):
    outcome = run(ToolFile(file, timeout=0.5), name)
    assert outcome.text == f"{name} failed: it ran for longer than 0.5 s and was stopped"


def test_a_flood_is_cut_and_marked(file):
    outcome = run(ToolFile(file, max_output=10), "floods")
    assert outcome.text == "الفالفالفا\n[cut: 10 of 9,000,000 characters]"
    assert (outcome.ok, outcome.cut) == (True, True)


def test_what_a_tool_has_started_dies_with_it(box, tmp_path):
    pid = tmp_path / "pid"
    assert run(box, "children", file=str(pid)).text == "from beside"
    child = int(pid.read_text())
    for _ in range(500):  # its new parent has to take its end
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{child}/stat")
        if state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the tool's child runs still")


def test_a_cancelled_call_ends_at_once(box):
    ticks = iter([False] * 4)
    with pytest.raises(CancelledError):
        box.run(ToolCall("hangs", {}), lambda: next(ticks, True))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (ToolCall("sub", {}), "there is no tool 'sub'; the tools are: add, size"),
        (ToolCall("add", {"a": 1}), "add was not run: the argument b is missing"),
        (ToolCall("add", {"a": 1, "b": "2"}), "must be a whole number, and is"),
    ],
)
def test_a_wrong_call_is_named(box, call, said):
    assert said in check_call(box.tools, call)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(x): pass", "f: the parameter 'x' has no type"),
        ("def f(x: int: pass", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("x = 1\ndef _f(): pass", "no public function"),
        ("import os; os._exit(1)", "without a result (status 1)"),
    ],
)
def test_a_file_that_cannot_be_offered_is_refused(tmp_path, text, said):
    path = tmp_path / "tools.py"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        ToolFile(path)
    assert said in str(error.value)
    assert "tools.py" in str(error.value)


def test_all_names_what_is_offered(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text("__all__ = ['b']\ndef a(): pass\ndef b(): pass\n")
    assert list(ToolFile(path).tools) == ["b"]
    with pytest.raises(NotFoundError):
        ToolFile(tmp_path / "missing.py")
    for bad in ({"timeout": 0}, {"max_output": 0}):
        with pytest.raises(UsageError):
            ToolFile(path, **bad)


def test_functions_of_the_program_are_tools_too():
    def divide(a: float, b: float) -> float:
        """Divide."""
        return a / b

    def flood() -> str:
        return "x" * 100

    box = FunctionTools([divide, flood], max_output=10)
    assert run(box, "divide", a=1, b=2).text == "0.5"
    assert (
        run(box, "divide", a=1, b=0).text
        == "divide failed: ZeroDivisionError: float division by zero"
    )
    assert run(box, "flood").text == "xxxxxxxxxx\n[cut: 10 of 100 characters]"
    with pytest.raises(UsageError, match="two tools are called 'flood'"):
        FunctionTools([flood, _named("flood")])
    with pytest.raises(UsageError, match="a function with types"):
        FunctionTools([int])
    with pytest.raises(UsageError, match="0 tools"):
        FunctionTools([])


def _named(name: str):
    def function() -> str:
        return ""

    function.__name__ = name
    return function
