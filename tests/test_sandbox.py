"""Programs try to do harm, and fail; those that are right pass."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_until

from ncamix.errors import UserError
from ncamix.evals import sandbox
from ncamix.evals.sandbox import Limits, find_walls, run_program

BRIEF = Limits(seconds=1, memory=1 << 28)


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 + 1 == 2",
        "import threading\nt = threading.Thread(target=print); t.start(); t.join()",
        "import hashlib, re, decimal, random, tempfile\ntempfile.TemporaryFile().write(b'x')",
        "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'",
        "print('x' * 10_000_000)\nassert not __import__('sys').stdin.read()",
        "open('/dev/null', 'w').write('x')",
    ],
)
def test_what_is_right_passes(program: str) -> None:
    assert run_program(program) == sandbox.Outcome(True)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit", "ended early"),
        ("import sys\nsys.exit(0)", "ended early"),
        ("import os\nos._exit(0)", r"ended early \(status 0\)"),
        ("import atexit, os\natexit.register(os._exit, 0)\nassert False", "AssertionError"),
        ("exit()", "ended early"),
        ("import ctypes\nctypes.string_at(0)", r"ended early \(status -11\)"),
        ("class E(BaseException): pass\nraise E('gone')", "E: gone"),
        ("x = [0] * (1 << 30)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
        ("while True: print('x' * 1000)", "too long"),
        ("f = open('big', 'w')\nwhile True: f.write('x' * (1 << 20))", "OSError|too large|-25"),
        ("import os\nfor fd in range(64):\n try: os.write(fd, b'x' * 60000)\n except OSError: 0",
         "ended early"),
        ('import os\nfor fd in range(3, 9):\n try: os.write(fd, b\'{"outcome": "passed"}\\n\')\n'
         " except OSError: 0", "ended early"),
        ("import builtins, json, os\nbuiltins.exec = builtins.compile = print\n"
         "json.dumps = lambda *a: 'x'\nos.write = print\nassert False", "AssertionError"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_ends_early_does_not_pass(program: str, reason: str) -> None:
    outcome = run_program(program, BRIEF)
    assert not outcome.passed
    import re

    assert re.search(reason, outcome.reason), outcome.reason


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.socket(socket.AF_UNIX)",
        "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {{}})",
        "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.killpg(0, 9)",
        "import os\nos.kill(-1, 9)",
        "import os\nopen(os.path.join('{folder}', 'left'), 'w')",
        "import os\nos.mkdir('{folder}/left')",
        "import os\nos.unlink('{folder}/kept')",
        "import os\nos.rename('{folder}/kept', 'stolen')",
        "import os\nos.symlink('{folder}', 'way')\nopen('way/left', 'w')",
        "open('{folder}/kept').read()",
        "import os\nos.listdir('{home}')",
        "open('/proc/self/environ').read()",
        "open('/etc/passwd').read()",
        "import os\nos.chmod('{folder}/kept', 0)",
        "import os\nos.chmod('{folder}', 0)",
        "import os\nos.utime('{folder}/kept', (1, 1))",
        "import os\nos.truncate('{folder}/kept', 0)",
        "import os\nos.setxattr('{folder}/kept', 'user.left', b'1')",
        "import os, sys\nos.fchmod(os.open(sys.executable, os.O_RDONLY), 0o777)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000) or libc.ptrace(0, 0, 0, 0):\n raise OSError",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.syscall(425, 8, ctypes.create_string_buffer(200)) < 0:\n raise OSError",
    ],
)
def test_a_program_cannot_reach_out(attempt: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        program = attempt.format(folder=tmp_path, home=Path.home(), port=port)
        tried = f"try:\n {program.replace(chr(10), chr(10) + ' ')}\nexcept (OSError, ValueError): "
        outcome = run_program(f"{tried}pass\nelse:\n assert False, 'it could'", BRIEF)
        assert outcome.passed, outcome.reason
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_fork_bomb_and_a_sleeper_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = (
        "import os\nmade = 0\nfor _ in range(20):\n try:\n  made += os.fork() > 0\n"
        " except OSError: pass\nassert made == 0, made"
    )
    assert run_program(bomb, BRIEF).passed
    monkeypatch.setattr(sandbox, "_START_SECONDS", 1.0)
    monkeypatch.setattr(sandbox, "_PATIENCE", 1)
    sleeper = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(9)"
    assert run_program(sleeper, BRIEF).reason == "it took too long"


@pytest.mark.parametrize(
    "each",
    ["open(str(number), 'wb').write(bytes(1 << 20))", "open(str(number), 'wb').close()"],
    ids=["bytes", "files"],
)
def test_one_that_floods_the_disk_ends(each: str) -> None:
    program = f"import itertools\nfor number in itertools.count():\n {each}"
    assert run_program(program, Limits(seconds=60, file=1 << 22)).reason == "it wrote too much"


def test_threads_are_few() -> None:
    program = (
        "import threading, time\nmade = 0\ntry:\n for _ in range(4000):\n"
        "  threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); made += 1\n"
        "except (RuntimeError, MemoryError): pass\nassert made < 200, made"
    )
    assert run_program(program, BRIEF).passed


def test_it_sees_neither_the_environment_nor_what_others_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "x")
    program = (
        "import os\nassert 'SECRET' not in os.environ\nassert os.listdir() == []\nopen('a', 'w')"
    )
    assert run_program(program).passed and run_program(program).passed


def test_a_program_dies_with_its_parent() -> None:
    code = (
        "from ncamix.evals.sandbox import *\n"
        'run_program(\'import time\\nopen("here", "w")\\ntime.sleep(200)\', Limits(seconds=60))'
    )
    parent = subprocess.Popen([sys.executable, "-c", code])

    def jailed() -> list[int]:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        return [int(c) for c in children if list(Path(f"/proc/{c}/cwd").glob("here"))]

    try:
        wait_until(jailed)
        (child,) = jailed()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
    wait_until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child), seconds=20)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except OSError:
        return True


def test_walls_are_found_and_gaps_are_told() -> None:
    walls = find_walls()
    assert walls.gaps == ("" if walls.landlock else sandbox.Walls(False, 0).gaps)
    assert "not protected" in sandbox.Walls(True, 0).gaps


def test_nothing_runs_where_it_cannot_be_confined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "jail.py"
    original = sandbox._SCRIPT.read_text()
    own.write_text(original.replace("platform.machine()", "'vax'"))
    monkeypatch.setattr(sandbox, "_SCRIPT", own)
    ran = tmp_path / "ran"
    with pytest.raises(UserError, match="cannot be confined"):
        run_program(f"open({str(ran)!r}, 'w')")
    assert not ran.exists()


def test_it_takes_no_longer_than_its_limit_by_much() -> None:
    start = time.process_time()
    before = os.times()
    assert run_program("while True: pass", BRIEF).reason == "it took too long"
    spent = os.times().children_user - before.children_user
    assert spent < 10 and time.process_time() - start < 10
