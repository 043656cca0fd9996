"""Fetch the packages whose Python code the study trains on, pinned by version and hash.

    packages.txt --pip download, one by one--> a wheel, its hash checked --unpacked-->
        build/packages/PACKAGE/...    its .py files
        build/code.jsonl              all of them, a row each, {"repo_name", "path", "text"}, in an
                                      order that mixes packages: by the hash of the path
        build/packages.json           of each package: version, hash, files, bytes, and what of it
                                      is left out

The study reads the rows: `holdout: {by: package}` goes by `repo_name`, and as a run is evaluated on
the first of what is held out, that is of all held-out packages, not of the first by name.

Nothing of a package is run or installed: wheels are archives. They come from whatever index pip is
set up with. Run it again after an interruption: what is there whole is passed over. Tests, vendored
copies of other packages, what a program wrote, and what is not UTF-8 is left out.
Sizes are in bytes, of the .py files as they are stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
RULES = 1  # of what is left out: another number, and all is unpacked anew
LARGEST = 4 << 20  # bytes of a file; no code of people is as long
VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "extern", "externals", "third_party"}
TESTS = {"test", "tests"}
GENERATED = rb"do not (edit|modify|change)|generated (by|from)"  # in a file's first lines
COPIES = {"six.py", "_six.py", "typing_extensions.py"}  # that many packages carry along


class Pin(NamedTuple):
    """A line of packages.txt."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def read_pins(file: Path) -> list[Pin]:
    """The packages of a list, `NAME==VERSION --hash=sha256:HEX` a line; `#` begins a comment."""
    pins = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.split("#")[0].strip()
        found = re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})", text)
        if found:
            pins.append(Pin(*found.groups()))
        elif text:
            sys.exit(f"{file}:{number}: not NAME==VERSION --hash=sha256:HEX, but: {text}")
    return pins


def download(pin: Pin, folder: Path) -> Path:
    """The wheel of a package in a folder of its own, by pip, which checks its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{pin}\n")
    how = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--ignore-requires-python"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", *how]
    command = [*pip, "--requirement", str(wanted), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        sys.exit(f"pip could not download {pin.name} {pin.version}:\n{done.stdout}{done.stderr}")
    return wheels[0]


def left_out(name: str, data: bytes) -> str | None:
    """Why a .py file is left out, in a word; None if it is taken."""
    *folders, base = PurePosixPath(name).parts
    if VENDORED.intersection(folders) or base in COPIES:
        return "vendored"
    if (
        TESTS.intersection(folders)
        or re.match(r"test_.*|.*_test\.py", base)
        or base == "conftest.py"
    ):
        return "tests"
    head = b"".join(data.splitlines()[:6]).lower()
    if b"generated" in head and re.search(GENERATED, head):
        return "generated"
    if len(data) > LARGEST:
        return "large"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def code_of(wheel: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The .py files of a wheel by name: plain files that stay below the folder they go to."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            name = PurePosixPath(entry.filename)
            mode = entry.external_attr >> 16
            if name.suffix != ".py" or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
                continue
            if name.parts[0].endswith((".data", ".dist-info")):
                continue
            if name.is_absolute() or ".." in name.parts or re.search(r"[\\:\0]", str(name)):
                sys.exit(f"{wheel.name} has a member that would leave its folder: {name}")
            with archive.open(entry) as stream:
                yield name, stream.read(LARGEST + 1)


def unpack(wheel: Path, folder: Path) -> dict[str, Any]:
    """Put the .py files of a wheel into a folder, all of them or none; says what they are."""
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    num_files = num_bytes = 0
    omitted: Counter[str] = Counter()
    for name, data in code_of(wheel):
        reason = left_out(str(name), data)
        if reason is not None:
            omitted[reason] += 1
            continue
        file = part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        num_files, num_bytes = num_files + 1, num_bytes + len(data)
    if folder.exists():
        shutil.rmtree(folder)
    part.chmod(0o755)
    os.replace(part, folder)
    return {"files": num_files, "bytes": num_bytes, "left_out": dict(sorted(omitted.items()))}


def is_there(pin: Pin, known: dict[str, Any] | None, folder: Path) -> bool:
    """Whether a package lies there as the manifest says."""
    if known is None or (known["sha256"], known["rules"]) != (pin.sha256, RULES):
        return False
    sizes = [file.stat().st_size for file in folder.rglob("*.py")]
    return (len(sizes), sum(sizes)) == (known["files"], known["bytes"])


def fetch(pins: list[Pin], out: Path) -> dict[str, Any]:
    """Bring all packages to OUT/packages; the manifest, which lies in OUT/packages.json."""
    packages, manifest = out / "packages", out / "packages.json"
    packages.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {}
    if manifest.exists():
        known = json.loads(manifest.read_text())["packages"]
    names = {pin.name for pin in pins}
    for folder in packages.iterdir():
        if folder.name not in names:
            print(f"removed {folder.name}, which is not in the list")
            shutil.rmtree(folder)
    found: dict[str, Any] = {}
    for number, pin in enumerate(pins, 1):
        folder = packages / pin.name
        if is_there(pin, known.get(pin.name), folder):
            found[pin.name] = known[pin.name]
            continue
        print(f"{number}/{len(pins)} {pin.name} {pin.version}", end="", flush=True)
        wheel = download(pin, out / "downloads" / pin.name)
        facts = unpack(wheel, folder)
        shutil.rmtree(wheel.parent)
        print(f": {facts['files']:,} files, {facts['bytes'] / 1e6:.1f} MB", flush=True)
        found[pin.name] = {"version": pin.version, "sha256": pin.sha256, "rules": RULES, **facts}
        write(manifest, {"packages": {**known, **found}})  # without rows: they are to be written
    shutil.rmtree(out / "downloads", ignore_errors=True)
    told = {key: sum(facts[key] for facts in found.values()) for key in ("files", "bytes")}
    rows = out / "code.jsonl"
    before = json.loads(manifest.read_text())
    if before["packages"] != found or not same_size(rows, before.get("rows")):
        told |= {"rows": write_rows(packages, rows), "packages": found}
        write(manifest, told)
    return {**told, "packages": found}


def write_rows(packages: Path, out: Path) -> dict[str, Any]:
    """Write all files below a folder as JSON lines that mix packages; size and hash of that."""

    def place(name: str) -> bytes:
        return hashlib.sha256(name.encode()).digest()

    names = [file.relative_to(packages).as_posix() for file in packages.rglob("*.py")]
    digest, part = hashlib.sha256(), out.with_suffix(".part")
    with part.open("wb") as stream:
        for name in sorted(names, key=place):
            text = (packages / name).read_bytes().decode()
            row = {"repo_name": name.split("/")[0], "path": name, "text": text}
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            stream.write(line)
    os.replace(part, out)
    return {"bytes": out.stat().st_size, "sha256": digest.hexdigest()}


def same_size(file: Path, known: dict[str, Any] | None) -> bool:
    """Whether a file is as large as the manifest says."""
    return known is not None and file.exists() and file.stat().st_size == known["bytes"]


def write(file: Path, value: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, default=HERE / "packages.txt", metavar="FILE")
    parser.add_argument("--out", type=Path, default=HERE / "build", metavar="DIR")
    options = parser.parse_args()
    told = fetch(read_pins(options.packages), options.out)
    print(
        f"{len(told['packages'])} packages, {told['files']:,} files, {told['bytes'] / 1e6:.1f} MB "
        f"in {options.out / 'code.jsonl'}"
    )


if __name__ == "__main__":
    main()
