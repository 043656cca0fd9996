"""Compiling below a URL and training from there, through faults and kills; checked with S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from faulty_store import FaultyStore, faulty_store
from processes import free_port, started, status_of, wait_until
from test_compilation import COMPILE, CURRICULUM, Told, files_below, small_shards
from torch.utils.data import DataLoader

from ncamix import stores
from ncamix.cache import entries, remove
from ncamix.compilation.compiled import check_data, local_part
from ncamix.compilation.datasets import Writing, compile_plan
from ncamix.compilation.places import MARKER
from ncamix.compilation.writer import Watcher
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.shards import sample_digest
from ncamix.streams import make_dataset
from ncamix.waiting import quiet

URL = "s3://bucket/some/where"
__all__ = ["small_shards"]  # a fixture


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A busy machine answers late: only who is to wait for a stall is impatient."""
    stalls = "stall" in request.node.name
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(stores, "TRIES", 4)
    monkeypatch.setattr(stores, "ANSWER_SECONDS", 1.0 if stalls else 30.0)
    with faulty_store(monkeypatch) as found:
        yield found


def client() -> Any:
    return boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])


def objects(prefix: str = "some/where/") -> dict[str, bytes]:
    """Everything below a prefix of the bucket."""
    s3 = client()
    listed = s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): s3.get_object(Bucket="bucket", Key=item["Key"])[
            "Body"
        ].read()
        for item in listed
    }


def staged() -> list[str]:
    """What lies on this machine of what is on its way."""
    folder = Path(os.environ["NCAMIX_CACHE"]) / "uploads"
    return [p.name for p in folder.rglob("*") if p.is_file() and p.name != ".data.lock"]


def test_a_store_gets_what_a_folder_does(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    whole = files_below(tmp_path / "out")
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    assert objects() == whole and not staged()
    marker, *sent = [name.removeprefix("/bucket/some/where/") for name in store.sent()]
    assert marker == MARKER
    assert sent[-1] == "plan.json" and len(sent) == len(set(sent)) == len(whole)
    first_index = next(i for i, name in enumerate(sent) if name.endswith("index.json"))
    assert not any("shard" in name for name in sent[first_index:])
    store.requests.clear()
    made: dict[str, int] = {}
    compile_plan(plan_of(CURRICULUM), URL, quiet, Told(made, kept=False))
    assert not made and {n.rpartition("/")[2] for n in store.sent()} == {
        "plan.json",
        "tokenizer.json",
        MARKER,
    }
    assert objects() == whole


def test_more_is_added_and_another_dataset_is_never_replaced(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    compile_plan(plan_of(CURRICULUM.replace("duration: 100%", "duration: 10ba")), URL, quiet)
    before = set(objects())
    store.requests.clear()
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    again = {n.removeprefix("/bucket/some/where/") for n in store.sent()} & before
    assert not any("shard" in name or "words" in name for name in again)
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    whole = objects()
    assert whole == files_below(tmp_path / "out")
    other = plan_of(CURRICULUM.replace("symbols: 50", "symbols: 9"))
    with pytest.raises(UserError, match=r"where/static holds another dataset"):
        compile_plan(other, URL, quiet)
    assert objects() == whole


class StopAfter(Watcher):
    """Interrupts at a shard."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("other", ["format", "format, elsewhere", "source"])
def test_what_is_unfinished_keeps_others_out(
    store: FaultyStore,
    plan_of: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    """Also the same samples in another format, and wherever the first of them came from."""
    plan, first, second = plan_of(CURRICULUM), Writing(3, 1), Writing(9, 1)
    with pytest.raises(KeyboardInterrupt):
        compile_plan(plan, URL, quiet, StopAfter(6), first)
    before = objects()
    with monkeypatch.context() as patch:
        if "elsewhere" in other:
            patch.setenv("NCAMIX_CACHE", str(tmp_path / "other"))
        with pytest.raises(
            UserError, match=r"holds another dataset .* \(--zstd\), finished or not"
        ):
            if other == "source":
                changed = plan_of(CURRICULUM.replace("burn_in: 2", "burn_in: 3"))
                compile_plan(changed, URL, quiet, None, first)
            else:
                compile_plan(plan, URL, quiet, None, second)
    assert objects() == before
    compile_plan(plan, URL, quiet, None, first)
    compile_plan(plan, tmp_path / "out", quiet, None, first)
    assert objects() == files_below(tmp_path / "out")


def test_shards_that_nothing_vouches_for_are_not_taken(
    store: FaultyStore, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(CURRICULUM)
    with pytest.raises(KeyboardInterrupt):
        compile_plan(plan, URL, quiet, StopAfter(6), Writing(3, 1))
    name = next(n for n in objects() if "shard" in n).rpartition("/")[0]
    client().delete_object(Bucket="bucket", Key=f"some/where/{name}/source.json")
    with pytest.raises(UserError, match=rf"{name} holds another dataset"):
        compile_plan(plan, URL, quiet, None, Writing(3, 1))


def test_a_store_that_cannot_list_is_asked_for_every_shard(
    store: FaultyStore,
    plan_of: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Streaming's clients of Azure and Databricks cannot."""
    monkeypatch.setattr(stores.Store, "_list", lambda self: None)
    plan = plan_of(CURRICULUM)
    with pytest.raises(KeyboardInterrupt):
        compile_plan(plan, URL, quiet, StopAfter(6), Writing(3, 1))
    gone, damaged, *sound = sorted(name for name in objects() if "shard" in name)
    client().delete_object(Bucket="bucket", Key=f"some/where/{gone}")
    client().put_object(Bucket="bucket", Key=f"some/where/{damaged}", Body=b"damage")
    store.requests.clear()
    compile_plan(plan, URL, quiet, None, Writing(3, 1))
    sent = {name.removeprefix("/bucket/some/where/") for name in store.sent()}
    assert {gone, damaged} <= sent and sound and not sent & set(sound)
    compile_plan(plan, tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out") and not staged()


def test_other_things_are_left_alone(store: FaultyStore, plan_of: Callable[..., Plan]) -> None:
    client().put_object(Bucket="bucket", Key="some/where/thesis.tex", Body=b"years")
    with pytest.raises(UserError, match=r"s3://bucket/some/where holds other things: thesis.tex"):
        compile_plan(plan_of(CURRICULUM), URL, quiet)
    assert set(objects()) == {"thesis.tex"}


@pytest.mark.parametrize("fault", ["500", "503", "reset", "stall"])
def test_a_store_that_fails_is_told_once_and_the_command_goes_on(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path, fault: str
) -> None:
    puts = 0

    def down_from_seventh(method: str, path: str) -> str | None:
        nonlocal puts
        puts += method == "PUT"
        return fault if puts > 11 else None

    store.faults = down_from_seventh
    with pytest.raises(UserError, match=r"s3://bucket/some/where does not take") as caught:
        compile_plan(plan_of(CURRICULUM), URL, quiet)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].remedy.endswith("run the same command again to continue")
    store.faults = lambda method, path: None
    there, made = set(objects()) - {MARKER}, {}
    assert len(there) >= 5 and "plan.json" not in there
    store.requests.clear()
    told: dict[str, int] = made
    compile_plan(plan_of(CURRICULUM), URL, quiet, Told(told, kept=False))
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out") and not staged()
    sent_again = {n.removeprefix("/bucket/some/where/") for n in store.sent()} & there
    assert len(sent_again) <= (2 if fault == "stall" else 0)  # taken, though not acknowledged


def test_now_and_then_a_fault_changes_nothing(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    seen = 0

    def every_fifth(method: str, path: str) -> str | None:
        nonlocal seen
        seen += 1
        return ("500", "503", "reset")[seen // 5 % 3] if seen % 5 == 0 else None

    store.faults = every_fifth
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    check_data(plan_of(CURRICULUM), URL)
    store.faults = lambda method, path: None
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out")


@pytest.mark.parametrize("journal", [True, False])
def test_killed_in_an_upload_it_goes_on(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path, journal: bool
) -> None:
    """From this machine, or from another, which knows nothing of the first."""
    plan_of(CURRICULUM)
    store.faults = lambda method, path: "slow" if len(store.sent()) < 14 else "stall"
    command = [sys.executable, "-c", COMPILE, URL, "", "0"]
    script = command[2].replace("Path(out + ", "Path('began' + ")
    process = started([*command[:2], script, *command[3:]], tmp_path)
    wait_until(lambda: len(store.sent()) >= 15, process)
    process.send_signal(signal.SIGKILL)
    status_of(process)
    store.faults = lambda method, path: None
    there = set(objects()) - {MARKER}
    assert there and "plan.json" not in there
    cache = Path(os.environ["NCAMIX_CACHE"]) / "uploads"
    if not journal:
        cache.rename(tmp_path / "of another machine")
        marker = json.dumps({**json.loads(objects()[MARKER]), "host": "another"})
        client().put_object(Bucket="bucket", Key=f"some/where/{MARKER}", Body=marker.encode())
    else:
        assert [(e.kind, e.url) for e in entries() if e.kind == "upload"] == [("upload", URL)]
        assert any(p.name.startswith(".journal") for p in cache.rglob("*"))
    store.requests.clear()
    if not journal:
        with pytest.raises(UserError, match=rf"{process.pid} on another") as caught:
            compile_plan(plan_of(CURRICULUM), URL, quiet)
        assert f"if it was killed, delete {URL}/{MARKER}" in caught.value.problems[0].remedy
        client().delete_object(Bucket="bucket", Key=f"some/where/{MARKER}")
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out") and not staged()
    again = {n.removeprefix("/bucket/some/where/") for n in store.sent()} & there
    shards = {name for name in there if "shard" in name}
    assert len(again) <= 2 if journal else again == shards


def test_two_machines_do_not_write_to_one_place(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    """Two processes with a cache each, as two hosts have, and different curricula."""
    plan_of(CURRICULUM)
    script = COMPILE.replace("Path(out + ", "Path('began' + ")
    command = [sys.executable, "-c", script, URL, "static", "0"]
    first = started(command, tmp_path, {**os.environ, "NCAMIX_CACHE": str(tmp_path / "host0")})
    try:
        wait_until(lambda: (tmp_path / "began.reached").exists(), first)
        before = objects()
        (tmp_path / "other.yaml").write_text(
            (tmp_path / "c.yaml").read_text().replace("symbols: 50", "symbols: 9")
        )
        second = subprocess.run(
            [sys.executable, "-c", script.replace("c.yaml", "other.yaml"), URL, "", "0"],
            cwd=tmp_path,
            env={**os.environ, "NCAMIX_CACHE": str(tmp_path / "host1")},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert f"another command is compiling into {URL} (process {first.pid} on" in second.stderr
        assert objects().items() >= before.items() and not list(
            (tmp_path / "host1").glob("up*/*/*")
        )
    finally:
        first.kill()
        first.wait()
    again = subprocess.run(
        [sys.executable, "-c", script, URL, "", "0"],
        cwd=tmp_path,
        env={**os.environ, "NCAMIX_CACHE": str(tmp_path / "host0")},
        timeout=100,
    )
    assert again.returncode == 0
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out")


def test_ranks_need_no_shared_folder(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    plan_of(CURRICULUM)
    hosts = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    script = COMPILE.replace("Path(out + ", "Path('began' + ")
    both = []
    for rank in ("0", "1"):
        env = {**os.environ, **hosts, "RANK": rank, "NCAMIX_CACHE": str(tmp_path / f"host{rank}")}
        both.append(started([sys.executable, "-c", script, URL, "", "0"], tmp_path, env))
    assert [status_of(process) for process in both] == [0, 0]
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    assert objects() == files_below(tmp_path / "out")
    for rank in (0, 1):
        left = (tmp_path / f"host{rank}" / "uploads").rglob("*")
        assert [p.name for p in left if p.is_file() and p.name != ".data.lock"] == []


def test_a_stage_is_the_same_from_a_store(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    digests = []
    for data in (URL, tmp_path / "out"):
        plan = check_data(plan_of(CURRICULUM), data)
        folder = tmp_path / f"stage{len(digests)}"
        folder.mkdir()
        dataset = make_dataset(plan, plan.stages[0], folder, data, 1)
        samples = iter(DataLoader(dataset, batch_size=None, collate_fn=dict))
        digests.append([sample_digest(next(samples)["tokens"]) for _ in range(80)])
        del samples
        dataset.release()
    assert digests[0] == digests[1]
    assert [e.url for e in entries() if e.kind == "remote"] == [URL]
    for name in ("tokenizer.json", "words/validation/index.json", "words/test/index.json"):
        assert (local_part(URL) / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_commands_take_a_url(
    store: FaultyStore, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    """Compiled, trained from and looked into, each by a process of its own."""
    plan_of(CURRICULUM.replace("duration: 100%", "duration: 2ba"))
    given = ["c.yaml", "-t", "small.yaml"]
    data = ["--data", URL]

    def ncamix(host: str, *command: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "ncamix", *command],
            cwd=tmp_path,
            env={**os.environ, "NCAMIX_CACHE": str(tmp_path / host)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert "wrote s3://bucket/some/where/plan.json and 3 datasets" in ncamix(
        "one", "compile", *given, "--out", f"{URL}/"
    )
    told = ncamix("one", "compile", *given, "--out", URL)
    assert "s3://bucket/some/where held all of it already: plan.json and 3 datasets" in told
    ncamix("two", "run", *given, *data, "--out", "runs/c")
    assert not list((tmp_path / "two").rglob("corpus*")), "no text was compiled on this machine"
    seen = json.loads(ncamix("three", "batch", "runs/c", *data, "--batch", "1", "--json"))
    rows = [json.loads(row) for row in (tmp_path / "runs/c/metrics.jsonl").read_text().splitlines()]
    assert [row["batch"] for row in rows] == [0, 1]
    assert seen["digest"] == rows[1]["digest"] and seen["as_trained"] is True


def test_what_a_store_lacks_is_told(store: FaultyStore, plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/some/where holds no finished compilation"):
        check_data(plan_of(CURRICULUM), URL)
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    check_data(plan_of(CURRICULUM), URL)
    for name, why in (
        ("words/index.json", "words is not whole"),
        ("words/validation/shard.00000.mds.zstd", "not what its index says"),
    ):
        data = objects()[name]
        key = f"some/where/{name}"
        client().delete_object(Bucket="bucket", Key=key)
        (local_part(URL) / name).unlink()
        with pytest.raises(UserError, match=why):
            check_data(plan_of(CURRICULUM), URL)
        client().put_object(Bucket="bucket", Key=key, Body=data)
    store.faults = lambda method, path: "500"
    with pytest.raises(UserError, match="does not give plan.json"):
        check_data(plan_of(CURRICULUM), URL)


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "..", "a/b"])
@pytest.mark.parametrize("folder", ["static", "words/validation"])
def test_an_index_that_leads_out_of_its_folder_is_refused(
    store: FaultyStore, plan_of: Callable[..., Plan], name: str, folder: str
) -> None:
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    key = f"some/where/{folder}/index.json"
    index = json.loads(client().get_object(Bucket="bucket", Key=key)["Body"].read())
    index["shards"][0]["zip_data"]["basename"] = name
    client().put_object(Bucket="bucket", Key=key, Body=json.dumps(index).encode())
    store.requests.clear()
    with pytest.raises(UserError, match="outside its folder"):
        check_data(plan_of(CURRICULUM), URL)
    assert not any("shard" in path and folder in path for _, path in store.requests)
    assert not any("escaped" in path for _, path in store.requests)


def test_a_killed_command_whose_cache_was_removed_goes_on(
    store: FaultyStore, plan_of: Callable[..., Plan]
) -> None:
    script = "import os\nfrom ncamix.compilation.places import place_of\n"
    script += f"with place_of({URL!r}).hold(): os._exit(9)"
    subprocess.run([sys.executable, "-c", script], timeout=100, check=False)
    assert MARKER in objects()
    assert [remove(e.fingerprint) for e in entries() if e.kind == "upload"] == [True]
    compile_plan(plan_of(CURRICULUM), URL, quiet)
    assert "plan.json" in objects() and MARKER not in objects()
