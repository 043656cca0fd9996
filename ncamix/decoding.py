"""Ids -> what a reader understands: text, symbols, brackets, frames of cells.

text   the tokenizer's text
noise  numbers of symbols
dyck   brackets: ( ) [ ] { } < > if they suffice, otherwise (17 and )17
nca    frames of cell states, and the score of the rule that made them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ncamix.cells import ABSENT
from ncamix.compilation.compiled import Data, local_part
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource
from ncamix.sources import NcaSource
from ncamix.sources.nca import NcaGenerator
from ncamix.text_compilation import tokenizer_file
from ncamix.waiting import Say, quiet

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

PAIRS = ("()", "[]", "{}", "<>")


def open_tokenizer(plan: Plan, data: Data | None, say: Say = quiet) -> HubTokenizer | None:
    """The tokenizer of a plan, or of datasets compiled of it; None if it has no text."""
    file = local_part(data) / "tokenizer.json" if data is not None else tokenizer_file(plan, say)
    if not plan.vocabulary.text_rows or file is None:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def as_text(source: PlannedSource, ids: NDArray[np.uint32], tokenizer: HubTokenizer | None) -> str:
    """The ids of a sample, uint32 [length], as text. tokenizer: for text sources.

    Characters that a terminal would obey become the replacement character.
    """
    local = (ids.astype(np.int64) - source.first_id).tolist()
    if source.spec.finite:
        assert tokenizer is not None, "a plan with text has a tokenizer"
        decoded = tokenizer.decode(local, skip_special_tokens=False)
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in decoded)
    if source.kind == "dyck":
        return _brackets(local, source.num_ids // 2)
    return " ".join(map(str, local))


def _brackets(ids: list[int], kinds: int) -> str:
    """Ids below `kinds` open a bracket, the others close one."""
    if kinds <= len(PAIRS):
        return " ".join(PAIRS[i % kinds][i // kinds] for i in ids)
    return " ".join(f"{'()'[i // kinds]}{i % kinds}" for i in ids)


def frames_of(source: PlannedSource, ids: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Frames of an automaton's samples, uint8 [num_samples, num_frames, height, width].

    ids: uint32 [num_samples, length]. A cell whose token is cut off, or is none of a patch, is
    ABSENT.
    """
    assert isinstance(source.spec, NcaSource)
    automaton = source.spec.automaton
    (height, width), patch = automaton.grid, automaton.patch
    per_frame, digits = automaton.tokens_per_frame, patch * patch
    num_frames = max(1, -(-(ids.shape[1] - 1) // per_frame))  # a delimiter alone shows nothing
    tokens = np.full((len(ids), num_frames * per_frame), -1, np.int64)
    ids = ids[:, : num_frames * per_frame]
    tokens[:, : ids.shape[1]] = ids.astype(np.int64) - source.first_id
    patches = tokens.reshape(len(ids), num_frames, per_frame)[..., 1:-1, None]
    whole = (patches >= 0) & (patches < automaton.alphabet**digits)
    states = patches // automaton.alphabet ** np.arange(digits) % automaton.alphabet
    cells: NDArray[np.uint8] = np.where(whole, states, ABSENT).astype(np.uint8)
    rows, columns = height // patch, width // patch
    cells = cells.reshape(len(ids), num_frames, rows, columns, patch, patch)
    return cells.swapaxes(3, 4).reshape(len(ids), num_frames, height, width)


def rule_scores(source: PlannedSource, samples: list[int]) -> NDArray[np.float64]:
    """Scores of the rules that made an automaton's samples, float64 [num_samples]."""
    generator = NcaGenerator(source.meaning)
    pool = source.meaning["rules"]
    slots = np.array(samples, np.int64)
    _, scores = generator.automaton().find_rules(
        generator.rules_key(), generator.band(), slots % pool if pool else slots
    )
    return scores
