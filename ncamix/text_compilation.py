"""Text -> tokenizer -> samples on disk: what must happen before a text source can be streamed.

    documents or pairs -> copies dropped -> split -> tokenizer (trained on the train split)
    -> ids, each document closed by the end of text -> samples -> shards in the cache

A source is compiled once for all runs of a user. Its entry appears when it is whole; what a killed
process left is continued, a second process waits for the first, and damage is mended. Of a data
set on the hub as much is compiled as a plan needs; a plan that needs more extends the entry, and
what is there stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncamix import cache, tokenization
from ncamix.curation import split_documents
from ncamix.errors import UserError
from ncamix.files import write_whole
from ncamix.hashing import changed
from ncamix.keys import fingerprint
from ncamix.omissions import worded
from ncamix.overlap import Evaluation, check_overlap, overlap_counter, overlap_remarks
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource, too_small
from ncamix.planning import make_plan
from ncamix.quantities import counted
from ncamix.shard_log import damaged, read_log
from ncamix.shards import read_index
from ncamix.sources.text import TextSource
from ncamix.splits import HELD_OUT, SPLITS
from ncamix.stored import known_index, stored_sizes, with_index
from ncamix.text_entry import TextEntry, empty, split_folder
from ncamix.waiting import Say, quiet, tell

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

_hashed: set[tuple[str, int]] = set()  # entries whose hashes this process has compared, and sizes


def prepare_text(plan: Plan, say: Say = quiet, names: Collection[str] | None = None) -> Plan:
    """Compile every text source of a plan that the cache lacks, and fetch the indexes of stored
    ones; the plan with exact sizes, and with remarks on what texts share with evaluation sets.

    names: of the sources that matter; None is all.

    Raises:
        UserError: a corpus is empty, cannot be read, or is too small for its share; an index cannot
            be fetched.
    """
    evaluation = Evaluation(plan, say)
    infos = {
        name: compile_text(plan, source, say, evaluation)
        for name, source in plan.sources.items()
        if source.text is not None and (names is None or source.name in names)
    }
    sizes = {name: int(info["num_samples"]) for name, info in infos.items()}
    plan = with_sizes(plan, sizes | stored_sizes(plan, say, names))
    found = {plan.sources[name].name: info["report"]["overlap"] for name, info in infos.items()}
    remarks = [text for name in found for text in overlap_remarks(name, found[name])]
    return replace(plan, warnings=tuple(dict.fromkeys([*plan.warnings, *remarks])))


def with_sizes(plan: Plan, sizes: Mapping[str, int]) -> Plan:
    """A plan with the exact sizes of its texts, by dataset.

    Raises:
        UserError: a text is too small for its share.
    """
    if plan.estimated:  # a stage's length counts epochs: only now is it known
        plan = make_plan(plan.curriculum, plan.trainer, sizes=sizes)
    sources = dict(plan.sources)
    for name, size in sizes.items():
        index = known_index(sources[name]) if sources[name].stored is not None else None
        if index is not None:
            sources[name] = with_index(sources[name], index)
        sources[name] = replace(sources[name], num_samples=size)
    problems = [too_small(plan.curriculum, sources[name], size) for name, size in sizes.items()]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise UserError(found)
    return replace(plan, sources=sources)


def hold_texts(plan: Plan) -> None:
    """Keep the plan's entries of the cache, there or not yet, until this process ends."""
    for source in plan.sources.values():
        if source.text is not None:
            cache.hold(source.fingerprint)
    if plan.tokenizer is not None:
        cache.hold(_tokenizer_entry(plan.tokenizer))


def _tokenizer_entry(meaning: Mapping[str, Any]) -> str:
    return fingerprint({k: v for k, v in meaning.items() if k != "file"})


def tokenizer_file(plan: Plan, say: Say = quiet) -> Path | None:
    """The plan's tokenizer.json, trained first if the cache lacks it; None without text."""
    meaning = plan.tokenizer
    if meaning is None:
        return None
    shown = {k: v for k, v in meaning.items() if k != "file"}
    digest = _tokenizer_entry(meaning)
    file = cache.entry(digest) / "tokenizer.json"
    cache.hold(digest)
    if not _is_sound(file, digest):
        with cache.building(digest, "the tokenizer", say):
            if not _is_sound(file, digest):  # no other process was faster
                if cache.entry_info(digest) is not None:
                    tell("the tokenizer in the cache was damaged; made again")
                data = _make_tokenizer(plan, meaning, say).to_str().encode()
                write_whole(file, data)
                info = {"kind": "tokenizer", "meaning": shown, "content": _hash(data)}
                cache.write_info(digest, {**info, "ranges": plan.vocabulary.id_map(["text"])})
    cache.note_use(digest, plan.name)
    return file


def _is_sound(file: Path, digest: str) -> bool:
    """Whether a tokenizer's entry is whole."""
    info = cache.entry_info(digest)
    return info is not None and file.is_file() and info.get("content") == _hash(file.read_bytes())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _make_tokenizer(plan: Plan, meaning: dict[str, Any], say: Say) -> HubTokenizer:
    if meaning["kind"] == "bytes":
        return tokenization.byte_tokenizer()
    if meaning["kind"] == "pretrained":
        tokenizer = tokenization.open_pretrained(Path(meaning["file"]))
        if tokenization.read_pretrained(Path(meaning["file"])).content != meaning["content"]:
            raise changed(Path(meaning["file"]))
        return tokenizer
    say(f"training a tokenizer of {meaning['size']:,} ids", 0.0)

    def texts() -> Iterator[str]:
        for documents in meaning["train_on"]:
            source = next(
                s for s in plan.sources.values() if s.text and s.text.documents == documents
            )
            size = 0
            for document, split in split_documents(source):
                if split == "train":
                    yield document.text
                    size += len(document.text)
                    if size > tokenization.TRAIN_CHARACTERS:
                        break
            if not size:
                raise empty(plan, source)

    return tokenization.train_bpe(texts(), meaning["size"], meaning.get("special", ()))


def compile_text(
    plan: Plan, source: PlannedSource, say: Say = quiet, evaluation: Evaluation | None = None
) -> dict[str, Any]:
    """Have a text or pairs source in the cache, compiled, extended or mended as far as it must be.

    What the entry says of itself (its source.json), with the samples of each split that the source
    has under its limit; the process holds the entry until it ends.

    Raises:
        UserError: the corpus is empty, cannot be read or has changed since it was planned, nothing
            is held out where something should be, a pair is too long, it shares what it must not
            with an evaluation set, or the cache cannot be written.
    """
    digest, evaluation = source.fingerprint, evaluation or Evaluation(plan, say)
    cache.hold(digest)
    info = cache.entry_info(digest)
    if not _serves(source, info, say):
        with cache.building(digest, f"the text '{source.name}'", say) as folder:
            info = cache.entry_info(digest)
            if not _serves(source, info, say):  # no other process was faster
                info = _complete(plan, source, folder, info or {}, say, evaluation)
    assert info is not None
    cache.note_use(digest, plan.name)
    info = {**info, **_under_limit(source, info)}
    overlap = check_overlap(plan, source, evaluation, info["num_documents"], say)
    return {**info, "report": {**info["report"], "overlap": overlap}}


def held_out_samples(source: PlannedSource, split: str) -> int:
    """Samples of a held-out split that a compiled source has: those of an entry that was extended
    for another plan are no more than its own."""
    info = cache.entry_info(source.fingerprint)
    assert info is not None, "text is compiled before it is evaluated on"
    return _under_limit(source, info)[f"{split}_samples"]


def held_out_steps(source: PlannedSource) -> list[list[int]]:
    """How much a compiled source holds out, by how much of it is read: [samples to train on,
    *held-out samples of each split] wherever that grows, up to all that its entry holds."""
    steps: list[list[int]] = []
    num_samples = 0
    for shard in read_log(cache.entry(source.fingerprint))[0]:
        num_samples += shard.num_samples
        if not steps or steps[-1][1:] != list(shard.held):
            steps.append([num_samples, *shard.held])
    return steps


def _under_limit(source: PlannedSource, info: Mapping[str, Any]) -> dict[str, int]:
    """Samples of each split under a source's limit, and documents that were read for them."""
    num_samples = source.samples_in(info)
    assert num_samples is not None, "the entry is large enough by now"
    held = [int(info[f"{split}_samples"]) for split in HELD_OUT]
    num_documents = int(info["num_documents"])
    if source.limit is not None and source.limit <= info["num_samples"]:
        before = 0
        for shard in read_log(cache.entry(source.fingerprint))[0]:
            before, held = before + shard.num_samples, list(shard.held)
            if before >= source.limit:
                num_documents = shard.after[0] + 1  # the mark lies in the last one
                break
    named = {f"{split}_samples": n for split, n in zip(HELD_OUT, held, strict=True)}
    return {"num_samples": num_samples, **named, "num_documents": num_documents}


def is_compiled(source: PlannedSource) -> bool:
    """Whether the cache holds a text source, all that its limit asks for, by the sizes of files."""
    return _serves(source, cache.entry_info(source.fingerprint), None)


def _serves(source: PlannedSource, info: Mapping[str, Any] | None, say: Say | None) -> bool:
    """Whether an entry has what a source needs, undamaged. Sizes are compared always; hashes, if
    there is somebody to tell, when this process first uses it as it is."""
    if info is None or source.samples_in(info) is None:
        return False
    folder = cache.entry(source.fingerprint)
    this = (str(folder), int(info["num_samples"]))
    checked = 0

    def told(number: int) -> None:
        nonlocal checked
        checked += number
        if say is not None:
            say(f"checking '{source.name}'", min(1.0, checked / total))

    try:
        indexes = {split: read_index(split_folder(folder, split)) for split in SPLITS}
        total = max(1, sum(map(len, indexes.values())))
        for split, index in indexes.items():
            place = split_folder(folder, split)
            lines, torn = read_log(place)
            key = "num_samples" if split == "train" else f"{split}_samples"
            if torn or len(lines) < len(index) or sum(e["samples"] for e in index) < info[key]:
                return False
            if damaged(place, index, None if say is None or this in _hashed else told):
                return False
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if say is not None:
        _hashed.add(this)
    return True


def _complete(
    plan: Plan,
    source: PlannedSource,
    folder: Path,
    known: Mapping[str, Any],
    say: Say,
    evaluation: Evaluation,
) -> dict[str, Any]:
    """Mend an entry, add what it lacks, and say what it holds. known: what it says now."""
    from tokenizers import Tokenizer

    spec, text = source.spec, source.text
    if text and text.files and isinstance(spec, TextSource) and spec.overlap == "refuse":
        check_overlap(plan, source, evaluation, None, say)  # hours before it is tokenized
    file = tokenizer_file(plan, say)
    assert file is not None
    tokenizer = Tokenizer.from_file(str(file))
    entry = TextEntry(plan, source, folder, tokenizer, say)
    names = {split: f"{split}_samples" for split in HELD_OUT} | {"train": "num_samples"}
    entry.check({split: int(known.get(name, 0)) for split, name in names.items()})
    kept: dict[str, Any] = {
        name: known.get(name) for name in ("num_documents", "exhausted", "report")
    }
    counter = None
    if source.samples_in(known) is None or not entry.num_samples("train"):
        counter = None if entry.num_samples("train") else overlap_counter(source, evaluation)
        num_documents, exhausted = entry.fill(counter)
        kept = {"num_documents": num_documents, "exhausted": exhausted, "report": entry.report()}
    entry.finish()
    if counter is not None:
        counter.keep(folder, kept["num_documents"])
    num_samples = entry.num_samples("train")
    info = {
        "kind": source.kind,
        "name": source.name,
        **{name: entry.num_samples(split) for split, name in names.items()},
        **kept,
        "num_tokens": num_samples * source.sequence_length,
        "sequence_length": source.sequence_length,
        "meaning": source.meaning,
        "ranges": plan.vocabulary.id_map(["text"]),
    }
    cache.write_info(source.fingerprint, info)
    _hashed.add((str(folder), num_samples))
    return info


@dataclass(frozen=True)
class TextFacts:
    """What evaluation and export need of the tokenizer."""

    file: Path
    end_of_text_id: int
    bytes_per_id: list[int]


def text_facts(file: Path, size: int) -> TextFacts:
    """Read a tokenizer.json for a text range of `size` ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return TextFacts(
        file, tokenization.end_of_text_id(tokenizer), tokenization.bytes_per_id(tokenizer, size)
    )


def report_lines(plan: Plan, before: Plan) -> list[str]:
    """What was left out of a plan's compiled texts, and found in them: a line a source, one on a
    tokenizer that came out smaller than it was to be, and the remarks that the plan did not have
    `before` they were compiled."""
    lines = {}
    for source in plan.sources.values():
        info = cache.entry_info(source.fingerprint) if source.text is not None else None
        told = [_finding(*item) for item in sorted((info or {}).get("report", {}).items())]
        if any(told):
            lines[source.name] = f"{source.name}: " + ", ".join(filter(None, told))
    found = (text for text in plan.warnings if text not in before.warnings)
    return [*lines.values(), *_unused_ids(plan), *found]


def _unused_ids(plan: Plan) -> Iterator[str]:
    """A line where a trained tokenizer has fewer ids than it was to have."""
    meaning = plan.tokenizer or {}
    if meaning.get("kind") != "bpe" or cache.entry_info(_tokenizer_entry(meaning)) is None:
        return
    file = cache.entry(_tokenizer_entry(meaning)) / "tokenizer.json"
    yielded = tokenization.read_pretrained(file).num_ids
    if yielded < meaning["size"]:
        unused = meaning["size"] - yielded
        yield (
            f"tokenizer: {meaning['size']:,} ids were asked for, and its texts yield {yielded:,}; "
            f"{counted(unused, 'row')} of the embeddings will never be used: write "
            f"{{bpe: {yielded}, ...}}, or train it on more text"
        )


def _finding(what: str, found: Any) -> str:
    """One entry of a report in words; nothing for what was not found."""
    words = worded(what)
    if isinstance(found, Mapping):
        return f"{found['count']:,} {words} (first: {found['first']})"
    if not found:
        return ""
    if isinstance(found, float):
        return f"{found:.1%} {words}"
    return counted(found, words.replace("copies", "copy"), words)
