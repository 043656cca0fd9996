"""`ncamix bands`: the histogram, JSON and picture of a spread, and settings that cannot be."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ncamix.automata import Automaton, Spread, shipped_spread
from ncamix.cli import main
from ncamix.errors import UserError
from ncamix.spreading import measured_spread, plot_spread, print_spread, spread_json


def run(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["ncamix", "bands", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out + err


def test_json_tells_counts_and_shares(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out = run(capsys, monkeypatch, "--alphabet", "10", "--json")
    told = json.loads(out)
    assert status == 0 and (told["rules"], told["serialized_bytes"]) == (4000, 1440)
    assert told == spread_json(shipped_spread(Automaton(10)))  # type: ignore[arg-type]
    sizes = {int(size): n for size, n in told["compressed_byte_counts"].items()}
    assert sum(sizes.values()) == 4000
    for k in range(10):
        inside = sum(n for size, n in sizes.items() if 144 * k <= size < 144 * (k + 1))
        assert told["share"][f"{k / 10:.1f}-{(k + 1) / 10:.1f}"] == inside / 4000


def test_every_setting_reaches_the_automaton(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "-a 3 --grid 6x8 --patch 1 --burn-in 3 --stride 2 --temperature 0.01"
    options += " --identity-bias 0.5 --rules 60 --seed 9 --measure change_rate --json"
    status, out = run(capsys, monkeypatch, *options.split())
    told = json.loads(out)
    assert status == 0 and told["rules"] == 60 and told["compared_cells"] == 9 * 48
    automaton = Automaton(3, (6, 8), 1, 0.01, 0.5, 3, 2)
    assert told["automaton"] == json.loads(json.dumps(vars(automaton)))
    scores = automaton.scores(9, 60, measure="change_rate")
    amounts, counts = np.unique(scores * 432, return_counts=True)
    told_counts = {int(amount): n for amount, n in told["changed_cell_counts"].items()}
    assert told_counts == dict(zip(amounts.round().astype(int), counts, strict=True))


def test_the_histogram_shows_every_rule() -> None:
    spread = Spread(Automaton(2), "gzip", {32: 60, 150: 30, 720: 10})
    out = io.StringIO()
    print_spread(spread, Console(file=out, width=100))
    lines = [line.split() for line in out.getvalue().splitlines() if "%" in line]
    assert [line[0] for line in lines][:3] == ["0.00-0.05", "0.05-0.10", "0.10-0.15"]
    assert lines[-1][0] == "0.50-0.55"  # nothing above it
    bars = {line[0]: line[1] for line in lines if len(line) == 4}
    assert len(bars["0.00-0.05"]) == 2 * len(bars["0.10-0.15"]) == 40
    assert sum(int(line[-1]) for line in lines) == 100
    assert "quartiles 0.022, 0.022 and 0.104; highest score 0.500" in out.getvalue()


def test_the_picture_is_a_png_and_always_the_same() -> None:
    spread = shipped_spread(Automaton(2))
    assert spread is not None
    png = plot_spread(spread)
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG") and (width, height) == (1304, 890)
    assert plot_spread(spread) == png
    assert plot_spread(Spread(Automaton(2), "gzip", {32: 1})) != png


def test_a_picture_is_written_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "bands.png"
    status, out = run(capsys, monkeypatch, "-a", "2", "--plot", str(file))
    assert status == 0 and f"wrote {file}" in out and file.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file" / "x.png", Path(".")):
        status, out = run(capsys, monkeypatch, "-a", "2", "--plot", str(wrong))
        assert status == 2 and "choose another file with --plot" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--alphabet 1", "alphabet must be 2 to 64 states"),
        ("--alphabet 10 --patch 4", "at most 2\\*\\*31 fit a token"),
        ("--alphabet 10 --grid 13", "multiples of patch 2"),
        ("--alphabet 10 --grid 4x4x4", "is no grid"),
        ("--alphabet 10 --grid -4", "is no grid"),
        ("--alphabet 10 --temperature 0", "temperature must be in"),
        ("--alphabet 10 --temperature nan", "temperature must be in"),
        ("--alphabet 10 --measure gzipp", "did you mean 'gzip'"),
        ("--alphabet 10 --rules 0", "rules"),
        ("--alphabet 10 --seed 99999999999999999999999", "64 bits"),
    ],
)
def test_impossible_settings_end_with_status_2(
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    status, out = run(capsys, monkeypatch, *options.split())
    assert status == 2 and re.search(message, out)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        measured_spread(1, "12", "bzip2", 10, -1, lambda what, share: None)
    assert len(caught.value.problems) == 3
