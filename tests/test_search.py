"""The search for rules: every band looks through the same candidates, each scored once."""

import threading

import numpy as np
import pytest

from ncamix.automata import Automaton, Band, UnreachableBand, search
from ncamix.automata.search import Memory


@pytest.fixture(autouse=True)
def forgetful():
    search.MEMORY.forget()
    yield
    search.MEMORY.forget()


@pytest.fixture
def scored(monkeypatch):
    """Candidates that were scored, as (slot, attempt)."""
    candidates = []
    real = Automaton._amounts

    def counting(self, seed, measure, slots, attempts):
        candidates.extend(zip(slots.tolist(), attempts.tolist(), strict=True))
        return real(self, seed, measure, slots, attempts)

    monkeypatch.setattr(Automaton, "_amounts", counting)
    return candidates


def test_three_bands_cost_little_more_than_the_rarest(scored):
    automaton, slots = Automaton(alphabet=4), range(150)
    bands = [Band(0.4, 0.5), Band(0.1, 0.2), Band(0.3, 0.4)]
    automaton.find_rules(1, bands[0], slots)
    rarest = len(scored)
    answers = [automaton.find_rules(1, band, slots) for band in bands]
    assert len(scored) < 1.5 * rarest
    assert len(set(scored)) == len(scored)  # none was scored twice
    for band, (attempts, scores) in zip(bands, answers, strict=True):
        search.MEMORY.forget()
        alone = automaton.find_rules(1, band, slots)
        assert np.array_equal(attempts, alone[0]) and np.array_equal(scores, alone[1])
        assert ((float(band.low) <= scores) & (scores < float(band.high))).all()


def test_a_pool_is_searched_once(scored):
    automaton, band = Automaton(alphabet=4), Band(0.3, 0.5)
    first = automaton.samples(1, band, 20, 50, pool=5)
    num_scored = len(scored)
    second = automaton.samples(1, band, 20, 50, pool=5, first=20)
    assert len(scored) == num_scored and {slot for slot, _ in scored} == set(range(5))
    assert not (first == second).all(axis=1).any()


def test_other_seeds_and_measures_are_other_families(scored):
    automaton = Automaton(alphabet=4)
    for seed, measure in ((1, "gzip"), (2, "gzip"), (1, "change_rate"), (1, "zstd")):
        before = len(scored)
        automaton.find_rules(seed, Band(0.1, 1, measure), range(4))
        assert len(scored) > before


def test_memory_forgets_the_oldest_and_never_shrinks_an_entry():
    memory = Memory(limit=2 * (40 + search.ENTRY_BYTES))
    amounts = np.arange(10, dtype=np.int32).tobytes()
    for slot in range(3):
        memory.remember("family", slot, amounts)
    assert [memory.recall("family", slot) for slot in range(4)] == [b"", amounts, amounts, b""]
    memory.remember("family", 1, amounts[:16])  # by a thread that knew less
    assert memory.recall("family", 1) == amounts
    assert memory.recall("other", 1) == b""


def test_forgetting_changes_no_answer(monkeypatch):
    automaton, band = Automaton(alphabet=4), Band(0.3, 0.5)
    expected = automaton.samples(1, band, 60, 50)
    monkeypatch.setattr(search, "MEMORY", Memory(limit=3000))
    assert np.array_equal(automaton.samples(1, band, 60, 50), expected)


def test_threads_may_search_the_same_slots():
    automaton, band = Automaton(alphabet=4), Band(0.3, 0.5)
    answers = [None] * 6

    def work(i):
        answers[i] = automaton.samples(1, band, 40, 50, num_threads=2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_band_that_is_never_reached_is_given_up(monkeypatch):
    monkeypatch.setattr(search, "MAX_ATTEMPTS", 300)
    automaton = Automaton(alphabet=2, stride=2)  # not in the table
    message = r"no rule in 3\d\d attempts at one slot of Automaton\(alphabet=2.*gzip 0.60-0.70"
    with pytest.raises(UnreachableBand, match=message):
        automaton.find_rules(0, Band(0.6, 0.7), range(50))
