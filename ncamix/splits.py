"""Splits: which documents are trained on, and which are kept from training.

A document, or the whole package or repository that it belongs to, goes to one of three splits by a
hash with a fixed salt. No seed changes it, and neither do other documents; a larger share takes
what a smaller one took. Of what is held out, one half is for validation, the other for testing.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

from ncamix.documents import Document, Pair

HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)


def split_of(document: Document, holdout: tuple[Fraction, str] | None) -> str:
    """'train', 'validation' or 'test': a document's split depends on its content, package or
    repository alone; a pair's on its prompt, so that all responses to a prompt are on one side.

    holdout: the share that is held out (0 to 1), and by what.
    """
    if holdout is None:
        return "train"
    share, by = holdout
    own = document.prompt if isinstance(document, Pair) else document.text
    group = {"package": document.package, "repository": document.repository}.get(by, own)
    assert group is not None, "documents without a repository are refused where they are read"
    return split_of_group(group, share)


def split_of_group(group: str, share: Fraction) -> str:
    """The split of all documents of a group, by its name, or by its text if it is a document."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, person=b"ncamix-holdout").digest()
    number = int.from_bytes(digest, "big")
    if number >= share * (1 << 64):
        return "train"
    return HELD_OUT[number % 2]
