"""Splits: by what a document is, whatever stands beside it; half of what is held out each."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.documents import Document
from ncamix.splits import HELD_OUT, SPLITS, split_of, split_of_group

SHARES = st.fractions(0, 1).filter(lambda share: 0 < share < 1)
DOCUMENTS = st.builds(Document, st.text(), st.text(), st.text())


@given(DOCUMENTS, DOCUMENTS, SHARES)
def test_a_document_is_split_by_its_text_or_its_package_alone(
    one: Document, other: Document, share: Fraction
) -> None:
    same_text = Document(other.name, other.package, one.text)
    assert split_of(same_text, (share, "document")) == split_of(one, (share, "document"))
    same_package = Document(other.name, one.package, other.text)
    assert split_of(same_package, (share, "package")) == split_of(one, (share, "package"))
    assert split_of(one, None) == "train"


@given(st.text(), SHARES, SHARES)
def test_a_larger_share_takes_what_a_smaller_one_took(
    group: str, one: Fraction, other: Fraction
) -> None:
    small, large = (split_of_group(group, share) for share in sorted((one, other)))
    assert small in SPLITS
    assert small in ("train", large)


@pytest.mark.parametrize("share", [Fraction(1, 50), Fraction(1, 5), Fraction(2, 3)])
def test_the_share_is_held_out_half_of_it_each(share: Fraction) -> None:
    counts = Counter(split_of_group(f"group {i}", share) for i in range(20_000))
    for split in HELD_OUT:
        expected = 10_000 * float(share)
        assert abs(counts[split] - expected) < 4 * expected**0.5


def test_these_splits_are_frozen() -> None:
    """The salt is fixed: data held out by one release is held out by every other."""
    splits = [split_of_group(f"g{i}", Fraction(1, 2)) for i in range(12)]
    assert "".join(split[1] for split in splits) == "arrrrrrerrrr"  # of train, validation, test
