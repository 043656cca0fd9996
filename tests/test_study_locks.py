"""Who may train a study at once: shares of one division, and each of them once."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import output_of, output_to, started

from ncamix.errors import UserError
from ncamix.shares import Shard
from ncamix.study_locks import held_study

WHOLE = Shard()


def refusal(folder: Path, shard: Shard, study: str = "one") -> str:
    """What is said to whoever wants a share that is not to be had."""
    with pytest.raises(UserError) as error, held_study(folder, shard, study):
        pass
    return str(error.value)


def test_shares_of_one_division_are_trained_at_once(tmp_path: Path) -> None:
    with ExitStack() as held:
        for number in (1, 3, 2):
            held.enter_context(held_study(tmp_path, Shard(number, 3), "one"))
        said = refusal(tmp_path, Shard(2, 3))
        assert "another process trains share 2/3 of this study" in said
        assert f"process {os.getpid()} on " in said


@pytest.mark.parametrize(
    ("first", "second", "said", "way_out"),
    [
        (WHOLE, Shard(1, 2), "another process trains this study in", "wait for it, or name"),
        (Shard(1, 2), WHOLE, "trains a share I/2 of this study", "(--shard I/2)"),
        (Shard(1, 2), Shard(2, 3), "trains a share I/2 of this study", "(--shard I/2)"),
        (WHOLE, WHOLE, "another process trains this study in", "wait for it, or name"),
    ],
)
def test_no_other_two_are(
    tmp_path: Path, first: Shard, second: Shard, said: str, way_out: str
) -> None:
    with held_study(tmp_path, first, "one"):
        told = refusal(tmp_path, second)
    assert said in told and way_out in told
    with held_study(tmp_path, second, "one"):  # when the first has ended
        pass


def test_shares_are_of_one_study(tmp_path: Path) -> None:
    with held_study(tmp_path, Shard(1, 2), "one"):
        assert "says something else" in refusal(tmp_path, Shard(2, 2), "another")
    with held_study(tmp_path, Shard(2, 2), "another"):
        pass


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds other things" in refusal(tmp_path, WHOLE)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from ncamix.shares import Shard\n"
        "from ncamix.study_locks import held_study\n"
        "with held_study(Path(sys.argv[1]), Shard(1, 2), 'one'):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    process = started([sys.executable, "-c", program, str(tmp_path)], Path.cwd())
    output_to(process, "held")
    assert f"process {process.pid} on " in refusal(tmp_path, Shard(1, 2))
    refusal(tmp_path, WHOLE)
    process.send_signal(signal.SIGKILL)
    output_of(process)
    with held_study(tmp_path, WHOLE, "one"):
        pass
