"""What curating the standard library costs beside tokenizing it: copies, and overlap.

    python tests/benchmarks/bench_curation.py

Texts lie in memory. Overlap is counted with an index of the library's own runs of 13 words from
every fiftieth file, and of a million others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from timing import alternate, write_results

from ncamix.documents import BATCH_DOCUMENTS, read_documents
from ncamix.duplicates import Digests, Signatures
from ncamix.gram_index import GramIndex
from ncamix.overlap import SIZE
from ncamix.sources.corpus import STDLIB, corpus_files
from ncamix.tokenization import train_bpe
from ncamix.words import grams

ROUNDS = 5
NUM_OTHERS = 1_000_000
PART = 2000  # characters of the shorter documents that the library is cut into


def copies(kind: type[Digests] | type[Signatures], texts: list[str]) -> int:
    found, known = 0, kind()
    for i in range(0, len(texts), BATCH_DOCUMENTS):
        found += int(known.add(texts[i : i + BATCH_DOCUMENTS]).sum())
    return found


def main() -> None:
    texts = [d.text for d in read_documents(corpus_files((STDLIB,), Path()), None)]
    parts = [text[i : i + PART] for text in texts for i in range(0, len(text), PART)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = train_bpe(iter(texts[::10]), 4096)
    others = np.random.default_rng(0).integers(0, 1 << 64, NUM_OTHERS, np.uint64, endpoint=False)
    keys = np.unique(np.concatenate([others, *(grams(text, SIZE) for text in texts[::50])]))
    index = GramIndex(SIZE, keys, np.ones(len(keys), np.uint64))
    found = np.zeros(len(keys), np.int32)
    taken = alternate(
        {
            "tokenizing": lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
            "exact copies": lambda: copies(Digests, texts),
            "near copies": lambda: copies(Signatures, texts),
            "near copies, 2 kB": lambda: copies(Signatures, parts),
            "overlap": lambda: [index.meet(text, 1, found) for text in texts],
        },
        ROUNDS,
    )
    results = {}
    for name, seconds in taken.items():
        num = len(parts) if "2 kB" in name else len(texts)
        results[name] = {
            "megabytes_per_second": megabytes / seconds,
            "documents_per_second": num / seconds,
            "share_of_tokenizing": seconds / taken["tokenizing"],
        }
        print(
            f"{name:18} {megabytes / seconds:8.1f} MB/s {num / seconds:10,.0f} documents/s, "
            f"{seconds / taken['tokenizing']:.1%} of tokenizing"
        )
    write_results("curation", results)


if __name__ == "__main__":
    main()
