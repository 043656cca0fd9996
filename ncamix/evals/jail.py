"""The inside of the sandbox: a script that gives its rights away and then runs one program.

    stdin: a request in JSON -> limits, namespaces, Landlock, seccomp -> exec -> stdout: an outcome

It runs under `python -I` in a process of its own and imports the standard library alone. Three
walls stand around the program, each of the kernel's:

- resource limits: CPU seconds, bytes of address space and of a file, open files, core dumps
- Landlock: read the interpreter and the system's libraries, write below the working directory, see
  no other file
- seccomp: no sockets, no processes or programs, no signals to others, no tracing, no mounting, no
  memory behind the limit's back, no rights, owners, times or attributes of files, which Landlock
  lets anybody change. What is refused fails with EPERM.

A user and a network namespace of its own come on top, where the kernel lets anybody have them.
Without seccomp nothing runs. Without Landlock the caller decides, who is told by `probe`.

The program shares this interpreter with the words that say it has passed, so one that is written to
forge them can. Ending early, by whatever way, is no pass.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

NO_SECCOMP = "no seccomp"

# Numbers of system calls that are refused, by machine; those from 424 on are the same everywhere.
_REFUSED = {
    "x86_64": (
        *(29, 41, 42, 43, 44, 46, 49, 50, 53, 57, 58, 59, 62, 64, 68, 101, 129, 141, 142, 144),
        *(155, 160, 161, 165, 166, 200, 203, 234, 248, 249, 250, 251, 272, 288, 297, 298, 302),
        *(304, 307, 308, 310, 311, 314, 319, 321, 322, 323),
        *(76, 90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 240, 260, 261, 268, 280),
    ),
    "aarch64": (
        *(30, 39, 40, 41, 51, 97, 117, 118, 119, 122, 129, 130, 131, 138, 140, 164, 186, 190),
        *(194, 198, 199, 200, 201, 202, 203, 206, 211, 217, 218, 219, 221, 240, 241, 242, 261),
        *(265, 268, 269, 270, 271, 274, 279, 280, 281, 282),
        *(5, 6, 7, 14, 15, 16, 45, 52, 53, 54, 55, 88, 180),
    ),
}
# pidfd_send_signal, io_uring_*, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick,
# pidfd_open, pidfd_getfd, process_madvise, mount_setattr, memfd_secret, fchmodat2, setxattrat,
# removexattrat, file_setattr
_REFUSED_EVERYWHERE = (
    *(424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447, 452, 463, 466),
    469,
)
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # numbers of a second table of x86-64, refused as a whole

_CLONE_THREAD, _CLONE_NEWUSER, _CLONE_NEWNET = 0x10000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self
_CAPSET = {"x86_64": 126, "aarch64": 91}
_LOAD, _EQUAL, _ABOVE, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of BPF
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38

_READ_FILES = 1 << 0 | 1 << 2 | 1 << 3  # execute (libraries are mapped so), read file, read folder
_WRITE_FILES = 1 << 1 | 1 << 14  # write and truncate a file
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights that a version of Landlock knows; 5: 16
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

_libc = ctypes.CDLL(None, use_errno=True)


def _refuse() -> None:
    """Install the seccomp filter. Raises OSError where the kernel or the machine has none."""
    machine = platform.machine()
    if machine not in _REFUSED:
        raise OSError(NO_SECCOMP)
    refused = (*_REFUSED[machine], *_REFUSED_EVERYWHERE)
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)
    program = [
        (_LOAD, 0, 0, 4),  # the table that the number is of
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number
        (_ABOVE, 0, 1, _X32),
        refuse,
        (_EQUAL, 0, 1, _CLONE3),  # its flags lie in memory, out of sight: libraries fall back
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, 16),  # its flags
        (_BITS, 0, 1, _CLONE_THREAD),
        allow,
        refuse,
    ]
    for number in refused:
        program += [(_EQUAL, 0, 1, number), refuse]
    program.append(allow)
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HL", len(program), ctypes.addressof(buffer))
    held = ctypes.create_string_buffer(header, len(header))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(NO_SECCOMP)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, held, 0, 0):
        raise OSError(NO_SECCOMP)


def _landlock_version() -> int:
    """The version of Landlock that the kernel offers; 0 without it."""
    return max(0, int(_libc.syscall(_LANDLOCK[0], None, ctypes.c_size_t(0), 1)))


def _hide_files(writable: str, version: int) -> bool:
    """Leave the interpreter to be read and one folder to be written; whether the kernel did."""
    known = (1 << _ACCESS_BITS.get(version, 16)) - 1
    ruleset = struct.pack("QQQ", known, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24  # files; ports; signals and sockets
    descriptor = _libc.syscall(_LANDLOCK[0], ruleset, ctypes.c_size_t(size), 0)
    if descriptor < 0:
        return False
    for path in sorted({sys.prefix, sys.base_prefix, *_SYSTEM, *_DEVICES} - {"/", "/usr"}):
        _allow(descriptor, path, _READ_FILES)
    _allow(descriptor, os.devnull, (_READ_FILES | _WRITE_FILES) & known)
    _allow(descriptor, writable, known & ~1)
    held = _libc.syscall(_LANDLOCK[2], descriptor, 0) == 0
    os.close(descriptor)
    return held


def _allow(ruleset: int, path: str, access: int) -> None:
    """Add the right to what lies below a path, if it is there."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        access &= 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14  # of a file: execute, write, read, truncate
    rule = struct.pack("=Qi", access, place)
    _libc.syscall(_LANDLOCK[1], ruleset, 1, rule, 0)
    os.close(place)


def _give_up_rights() -> bool:
    """A network and users of one's own, where the kernel allows it, and no capabilities."""
    alone = _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    for number in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header, nothing = struct.pack("II", 0x20080522, 0), bytes(24)
    _libc.syscall(_CAPSET.get(platform.machine(), -1), header, nothing)
    return alone


def _limit(limits: dict[str, int]) -> None:
    """Limit this process: `seconds` of CPU from now on, bytes of `memory`, of a `file`."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limits["seconds"]
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, limits["memory"], limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"], limits["file"]),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_NPROC, 64, 64),  # threads; does not bind root, whom the memory limit binds
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def confine(request: dict[str, Any]) -> dict[str, Any]:
    """Raise every wall; which of them stand. Raises OSError where seccomp does not."""
    _limit(request["limits"])
    alone = _give_up_rights()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # what changes rights clears it
    if os.getppid() != request["parent"]:
        os._exit(1)  # the parent died before
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(NO_SECCOMP)
    version = _landlock_version()
    hidden = version > 0 and _hide_files(os.getcwd(), version)
    _refuse()
    return {"namespace": alone, "landlock": version if hidden else 0, "seccomp": True}


def main() -> NoReturn:
    """Read the request, confine this process, run the program, say how it ended."""
    request = json.load(sys.stdin)
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    write, end, dumps = os.write, os._exit, json.dumps
    try:
        walls = confine(request)
    except OSError as error:
        write(out, dumps({"outcome": "not run", "reason": str(error)}).encode() + b"\n")
        end(1)
    if request.get("probe"):
        write(out, dumps({"outcome": "probed", **walls}).encode() + b"\n")
        end(0)
    program = request.pop("program")
    passed = dumps({"outcome": "passed", "token": request.pop("token")}).encode() + b"\n"
    request.clear()
    try:
        exec(compile(program, "program.py", "exec"), {})
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:200]
        if isinstance(error, SystemExit):
            text = "it ended early (SystemExit)"
        write(out, dumps({"outcome": "failed", "reason": text}).encode() + b"\n")
        end(0)
    write(out, passed)
    end(0)


if __name__ == "__main__":
    main()
