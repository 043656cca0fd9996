"""Object stores that fail: tried again, then told in one message; nothing torn on either side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import FaultyStore, faulty_store
from streaming.base.storage.download import S3Downloader

from ncamix import stores
from ncamix.errors import UserError
from ncamix.files import beside
from ncamix.stores import Store, is_url, misfit_url


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A busy machine answers late: only who is to wait for a stall is impatient."""
    stalls = "stall" in request.node.name
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(stores, "TRIES", 4)
    monkeypatch.setattr(stores, "ANSWER_SECONDS", 1.0 if stalls else 30.0)
    with faulty_store(monkeypatch) as found:
        yield found


def opened(folder: Path, url: str = "s3://bucket/some/where/") -> Store:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "file").write_bytes(b"x" * 5000)
    return Store(url, folder)


def test_what_is_sent_is_fetched_and_listed(store: FaultyStore, tmp_path: Path) -> None:
    opened(tmp_path).send("sub/file")
    assert not (tmp_path / "sub/file").exists()
    assert Store("s3://bucket/some/where", tmp_path).names() == {"sub/file"}
    assert Store("s3://bucket", tmp_path).names() == {"some/where/sub/file"}
    assert Store("s3://bucket/some/wh", tmp_path).names() == set()
    assert opened(tmp_path).fetch("sub/file", tmp_path / "new" / "copy")
    assert (tmp_path / "new/copy").read_bytes() == b"x" * 5000
    assert not opened(tmp_path).fetch("sub/none", tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("fault", ["500", "503", "stall", "reset"])
def test_a_fault_that_passes_is_not_noticed(store: FaultyStore, tmp_path: Path, fault: str) -> None:
    left = {"PUT": 2, "GET": 2, "HEAD": 2}

    def faults(method: str, path: str) -> str | None:
        left[method] = left.get(method, 0) - 1
        return fault if left[method] >= 0 else None

    store.faults = faults
    opened(tmp_path).send("sub/file")
    assert Store("s3://bucket/some/where", tmp_path).names() == {"sub/file"}
    left["GET"] = 1
    assert opened(tmp_path).fetch("sub/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "InternalError|500"),
        ("503", "SlowDown|503"),
        ("stall", "timeout|timed out"),
        ("reset", "onnection"),
    ],
)
def test_a_fault_that_stays_is_one_message(
    store: FaultyStore,
    tmp_path: Path,
    fault: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.faults = lambda method, path: fault
    for work in (
        lambda: opened(tmp_path).send("sub/file"),
        lambda: opened(tmp_path).names(),
        lambda: opened(tmp_path).fetch("sub/file", tmp_path / "copy"),
    ):
        store.requests.clear()
        with pytest.raises(UserError, match=reason) as caught:
            work()
        (problem,) = caught.value.problems
        assert problem.what.startswith("s3://bucket/some/where ") and "\n" not in problem.what
        assert problem.remedy.endswith("run the same command again to continue")
        assert (f"S3_ENDPOINT_URL, which is {store.url}" in problem.remedy) == (
            fault in ("stall", "reset")
        )
        assert len(store.requests) == stores.TRIES
        assert capsys.readouterr().err.count("; it is tried again for a while\n") == 1
    assert (tmp_path / "sub/file").exists() and not (tmp_path / "copy").exists()


def test_waits_grow_and_end_with_the_command(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FIRST_WAIT", 30.0)
    store.faults = lambda method, path: "500"
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    held = Store("s3://bucket/some", tmp_path, stop)
    with pytest.raises(UserError, match="InternalError"):
        held.names()
    assert len(store.requests) == 1

    class Waits(threading.Event):
        waited: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.waited.append(timeout or 0.0)
            return False

    monkeypatch.setattr(stores, "TRIES", 9)
    with pytest.raises(UserError, match="InternalError"):
        Store("s3://bucket/some", tmp_path, Waits()).names()
    assert len(Waits.waited) == 8 and max(Waits.waited) <= stores.LONGEST_WAIT
    assert min(Waits.waited[2:]) >= stores.LONGEST_WAIT / 2


def test_what_no_patience_mends_is_said_at_once(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = opened(tmp_path, "s3://nobody/x")
    for work in (
        lambda: nobody.send("sub/file"),
        lambda: nobody.names(),
        lambda: nobody.fetch("sub/file", tmp_path / "copy"),
        lambda: nobody.claim("mine", b"1"),
    ):
        store.requests.clear()
        with pytest.raises(UserError, match="s3://nobody/x: there is no bucket") as caught:
            work()
        assert "create it, or check the URL" in caught.value.problems[0].remedy
        assert len(store.requests) <= 2
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.delenv("GCS_KEY", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    for url, way_out in (
        ("s3://bucket/x", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ("gs://bucket/x", "GCS_KEY and GCS_SECRET"),
    ):
        with pytest.raises(UserError, match=f"{url} does not take what is written") as caught:
            opened(tmp_path, url).send("sub/file")
        (problem,) = caught.value.problems
        assert way_out in problem.remedy and "\n" not in problem.what
    with pytest.raises(UserError, match="library that is not installed .alipcs_py") as caught:
        opened(tmp_path, "alipan:///folder/x").send("sub/file")
    assert "mosaicml-streaming[alipan]" in caught.value.problems[0].remedy


@pytest.mark.parametrize(
    ("url", "written", "what"),
    [
        ("ftp://folder/x", False, "ftp://folder/x cannot be read: 'ftp:' is not among"),
        ("file:///tmp/x", True, "cannot be written to: 'file:' is not among"),
        ("S3://bucket/x", True, "'S3:' is not among"),
        ("hf://datasets/a/b/c", True, "cannot be written to"),
        ("s3:///x", False, "s3:///x names no bucket"),
        ("gs:/bucket/x", True, "names no bucket"),
    ],
)
def test_a_url_of_no_store_is_told_before_any_is_asked(
    url: str, written: bool, what: str, tmp_path: Path
) -> None:
    misfit = misfit_url(url, written)
    assert misfit is not None and what in misfit[0] and "://" in misfit[1]
    if not written:
        with pytest.raises(UserError, match=what):
            Store(url, tmp_path)


def test_urls_of_known_stores_fit() -> None:
    for url in ("s3://a/b", "gs://a", "dbfs:/Volumes/a", "alipan:///a", "azure-dl://a/b"):
        assert misfit_url(url, written=True) is None
    assert misfit_url("hf://datasets/a/b/c", written=False) is None


def test_a_file_is_claimed_by_one_alone(store: FaultyStore, tmp_path: Path) -> None:
    held = Store("s3://bucket/some", tmp_path)
    barrier, found = threading.Barrier(4), dict[bytes, bytes]()

    def claim(who: bytes) -> None:
        own = Store("s3://bucket/some", tmp_path)
        barrier.wait(20)
        found[who] = own.claim("mark", who)

    threads = [threading.Thread(target=claim, args=(b"%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and len(set(found.values())) == 1
    (winner,) = set(found.values())
    assert held.claim("mark", winner) == winner
    assert held.claim("mark", b"later") == winner
    assert held.remove("mark", b"other") and held.names() == {"mark"}
    assert held.remove("mark", winner) and held.names() == set()
    assert held.claim("mark", b"later") == b"later"
    store.faults = lambda method, path: "500"
    assert not held.remove("mark", b"later")


def test_places_are_told_apart() -> None:
    for url in ("s3://a/b", "gs://a", "hf://datasets/a/b", "dbfs:/Volumes/a"):
        assert is_url(url)
    for folder in ("a/b", "/a", "s3", Path("s3://a"), None):
        assert not is_url(folder)


def test_what_a_downloader_holds_is_given_back(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file, and each try: of sftp, a connection."""
    freed: list[object] = []
    monkeypatch.setattr(S3Downloader, "clean_up", lambda self: freed.append(self))
    opened(tmp_path).send("sub/file")
    turn = iter(["500", None, None])
    store.faults = lambda method, path: next(turn, None)
    assert opened(tmp_path).fetch("sub/file", tmp_path / "copy")
    assert len(freed) == 2


def test_names_on_the_way_are_nobody_elses(tmp_path: Path) -> None:
    """Two machines may have processes of one number."""
    assert beside(tmp_path / "file") != beside(tmp_path / "file")
