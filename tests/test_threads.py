"""Threads: every item once, whatever their number, and nothing left behind."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.threads import count_threads, spread


@given(st.integers(0, 300), st.integers(1, 5), st.integers(1, 40))
@settings(max_examples=50)
def test_blocks_are_the_items_each_once(items: int, threads: int, largest: int) -> None:
    blocks: list[slice] = []
    spread(blocks.append, items, threads, largest)
    blocks.sort(key=lambda block: block.start)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(items))
    assert all(1 <= block.stop - block.start <= largest for block in blocks)
    assert {t for t in threading.enumerate() if t.name.startswith("ncamix")} == set()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failed_block_is_told(threads: int) -> None:
    def work(block: slice) -> None:
        if block.start > 30:
            raise RuntimeError(f"block {block.start}")

    with pytest.raises(RuntimeError, match="block"):
        spread(work, 100, threads, 10)


def test_threads_are_those_wanted_or_one_a_core() -> None:
    assert count_threads(3) == 3 and count_threads() >= 1
    with pytest.raises(ValueError, match="not 0"):
        count_threads(0)
