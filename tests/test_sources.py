"""Sources: samples are pure functions of meaning and number; shuffled ones are permutations."""

from __future__ import annotations

import multiprocessing
import re
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meanings import LENGTH, meaning
from plan_files import SOURCES, curriculum, plan_of, problems, stage
from pydantic import TypeAdapter, ValidationError

from ncamix import random
from ncamix.automata import Automaton
from ncamix.keys import derive_key, fingerprint
from ncamix.library import shipped
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.sources import GENERATORS, KINDS, open_generator
from ncamix.sources.base import plain
from ncamix.sources.blend import MixtureSchedule
from ncamix.sources.nca import NcaGenerator, NcaSource
from ncamix.sources.noise import NoiseSource
from ncamix.trainer import load_trainer


def nca(low: float = 0, high: float = 1, **keys: Any) -> dict[str, Any]:
    defaults = {"alphabet": 2, "grid": 6, "burn_in": 2}
    band = {"gzip": [Decimal(str(low)), Decimal(str(high))]}
    return meaning("nca", **{**defaults, "band": band, **keys})


ALL = [
    nca(),
    nca(rules=3),
    nca(alphabet=3, grid=[6, 8]),
    meaning("noise", symbols=50),
    meaning("noise", symbols=50, distribution="zipf"),
    meaning("dyck", style="nested"),
    meaning("dyck", style="shuffle", symbols=20, depth=4),
    meaning("noise", symbols=50, transform="shuffle_tokens"),
    nca(transform="shuffle_frames"),
]
NOISE, NESTED, SHUFFLE, SHUFFLED = ALL[3], ALL[5], ALL[6], ALL[7]


LIVELY = nca(
    0.3, 1, alphabet=4, grid=12
)  # two states on a small grid often die out, and look alike


@pytest.mark.parametrize("full", ALL)
def test_any_split_of_a_range_gives_the_same_rows(full: dict[str, Any]) -> None:
    generator = open_generator(full)
    whole = generator.samples(0, 40)
    assert whole.shape == (40, LENGTH + 1) and whole.dtype == np.uint32

    @given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 10))
    @settings(max_examples=8)
    def check(sizes: list[int], start: int) -> None:
        for size in sizes:
            size = min(size, 40 - start)
            if size:
                rows = open_generator(full).samples(start, size, num_threads=1 + size % 2)
                assert np.array_equal(rows, whole[start : start + size])
            start += size

    check()
    far = open_generator(full).samples(2**33, 2)  # numbers beyond 32 bits
    assert np.array_equal(far[1], open_generator(full).samples(2**33 + 1, 1)[0])
    assert not np.array_equal(far[0], whole[0])


@pytest.mark.parametrize("full", ALL)
@pytest.mark.parametrize("first_id", [0, 70_000])
def test_ids_lie_in_their_range(full: dict[str, Any], first_id: int) -> None:
    if full["kind"] == "nca":
        size = {2: 18, 3: 83}[full["alphabet"]]
    else:
        size = full["symbols"] * (2 if full["kind"] == "dyck" else 1)
    keys = {"first_id": first_id}
    rows = open_generator({**full, **keys}).samples(0, 200)
    assert rows.min() >= first_id and rows.max() < first_id + size
    assert len(np.unique(rows)) > 10


@pytest.mark.parametrize("full", [LIVELY, NOISE, NESTED, SHUFFLE, SHUFFLED])
def test_every_part_of_the_meaning_matters(full: dict[str, Any]) -> None:
    rows = [open_generator(full).samples(0, 8)]
    for change in ({"seed": 1}, {"seed": "evaluation"}, {"seed": "0"}):
        rows.append(open_generator({**full, **change}).samples(0, 8))
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert not np.array_equal(a, b)
            assert not (a == b).all(axis=1).any()


def test_evaluation_is_not_what_is_trained_on() -> None:
    trained = {row.tobytes() for row in open_generator(LIVELY).samples(0, 500)}
    held = open_generator({**LIVELY, "seed": "evaluation"}).samples(0, 64)
    assert len(trained) == 500
    assert not {row.tobytes() for row in held} & trained


def test_bands_of_one_automaton_share_rules_and_their_scores() -> None:
    low, high, wide = (NcaGenerator(nca(*band)) for band in ((0, 0.2), (0.2, 1), (0, 1)))
    assert low.rules_key() == high.rules_key() == wide.rules_key()
    assert len({g.grid_key() for g in (low, high, wide)}) == 3
    automaton, slots = wide.automaton(), np.arange(20)
    first = automaton.find_rules(wide.rules_key(), wide.band(), slots)
    assert (first[0] == 0).all()  # any rule lies in [0, 1)
    for generator in (low, high):
        band = generator.band()
        attempts, scores = automaton.find_rules(generator.rules_key(), band, slots)
        inside = (first[1] >= band.low) & (first[1] < band.high)
        assert np.array_equal(attempts == 0, inside)
        assert np.array_equal(scores[inside], first[1][inside])
        assert ((band.low <= scores) & (scores < band.high)).all()
    for other in (nca(seed=1), nca(burn_in=3), nca(grid=8), nca(stride=2), nca(alphabet=3)):
        assert NcaGenerator(other).rules_key() != wide.rules_key()
    assert NcaGenerator(nca(first_id=9, rules=5)).rules_key() == wide.rules_key()


def test_a_sample_is_frames_with_their_delimiters() -> None:
    source = NcaSource(kind="nca", alphabet=2, grid=6, band={"gzip": [0, 1]})  # type: ignore
    assert (source.num_ids(), source.automaton.tokens_per_frame) == (18, 11)
    assert source.loss_start() == 11
    rows = open_generator(nca(first_id=100)).samples(0, 30) - 100
    assert (rows[:, ::11] == 16).all() and (rows[:, 10::11] == 17).all()
    inner = np.delete(rows, np.r_[0:33:11, 10:33:11], axis=1)
    assert inner.max() < 16


def test_a_pool_of_rules_meets_ever_new_grids() -> None:
    pooled = open_generator({**LIVELY, "rules": 3}).samples(0, 9)
    fresh = open_generator(LIVELY).samples(0, 9)
    assert len({row.tobytes() for row in pooled}) == 9
    assert not (pooled == fresh).all(axis=1).any()


def test_pictured_frames_are_those_of_the_samples() -> None:
    generator = NcaGenerator(nca(first_id=5))
    frames, scores = generator.frames(3, 4)
    assert frames.shape == (3, 4, 6, 6) and ((scores >= 0) & (scores < 1)).all()
    tokens = generator.automaton().tokens(frames, LENGTH + 1) + 5
    assert np.array_equal(tokens, generator.samples(0, 3))


def rows_into(connection: Any, full: dict[str, Any]) -> None:
    connection.send(open_generator(full).samples(0, 100, num_threads=2))


@pytest.mark.parametrize("full", [NOISE, NESTED, SHUFFLE])
def test_a_forked_child_makes_the_same(full: dict[str, Any]) -> None:
    here, there = multiprocessing.Pipe()
    own = open_generator(full).samples(0, 100, num_threads=2)
    child = multiprocessing.get_context("fork").Process(target=rows_into, args=(there, full))
    child.start()
    assert np.array_equal(here.recv(), own)
    child.join(60)
    assert child.exitcode == 0


def test_nca_bytes_stay_what_they_are() -> None:
    rows = open_generator(nca(low=0.1, high=0.4)).samples(3, 2)
    assert fingerprint({"rows": rows.tolist()}) == "7b40e18e773fbf9c357d1999c7d46783"


def test_every_endless_kind_has_a_generator() -> None:
    endless = {name for name, kind in KINDS.items() if not kind.finite and name != "blend"}
    assert endless == set(GENERATORS)


def test_plain_keeps_numbers_exact() -> None:
    source = NoiseSource(kind="noise", distribution="zipf", symbols=9)
    assert plain({"a": (1, None, source)})["a"][2]["symbols"] == 9
    assert source.meaning()["exponent"] == "1" and source.num_ids() == 9


# Transforms


def shuffled_twin(row: list[int], key: int, number: int, size: int) -> list[int]:
    """Runs of `size` ids in the order of Fisher and Yates; what is left at the end stays."""
    runs = [row[i : i + size] for i in range(0, len(row) // size * size, size)]
    for k in range(len(runs) - 1, 0, -1):
        words = random.philox(*map(np.uint64, (key, number, 0, k // 2)))
        bits = words[2 * (k % 2)] | words[2 * (k % 2) + 1] << 32
        other = bits * (k + 1) >> 64
        runs[k], runs[other] = runs[other], runs[k]
    return [*chain(*runs), *row[len(runs) * size :]]


@pytest.mark.parametrize("full", [LIVELY, NOISE, NESTED, SHUFFLE])
@pytest.mark.parametrize("transform", ["shuffle_tokens", "shuffle_frames"])
@given(first=st.integers(0, 2**33), length=st.integers(2, 200))
@settings(max_examples=12)
def test_a_shuffled_sample_is_the_sample_of_its_number_in_another_order(
    full: dict[str, Any], transform: str, first: int, length: int
) -> None:
    size = 1
    if transform == "shuffle_frames":
        if full is not LIVELY:
            return
        size = NcaGenerator(full).automaton().tokens_per_frame
    full = {**full, "sequence_length": length - 1}
    plain_rows = open_generator(full).samples(first, 2)
    rows = open_generator({**full, "transform": transform}).samples(first, 2, num_threads=1)
    assert np.array_equal(np.sort(rows), np.sort(plain_rows))
    key = derive_key(transform, fingerprint(full))
    twins = [shuffled_twin(row.tolist(), key, first + i, size) for i, row in enumerate(plain_rows)]
    assert rows.tolist() == twins


def test_frames_move_as_a_whole_and_a_cut_one_stays() -> None:
    length = 38 * 6 + 10
    full = {**LIVELY, "sequence_length": length - 1}
    rows = open_generator({**full, "transform": "shuffle_frames"}).samples(0, 20)
    drawn = open_generator(full).samples(0, 20)
    moved = 0
    for row, before in zip(rows, drawn, strict=True):
        frames, were = (r[: 38 * 6].reshape(6, 38).tolist() for r in (row, before))
        assert sorted(frames) == sorted(were)
        assert np.array_equal(row[38 * 6 :], before[38 * 6 :])
        moved += frames != were
    assert moved >= 18


def test_every_order_is_as_likely() -> None:
    generator = open_generator(meaning("noise", symbols=3, length=2, transform="shuffle_tokens"))
    key = derive_key("shuffle_tokens", fingerprint(generator.meaning))
    orders = [tuple(shuffled_twin([0, 1, 2], key, number, 1)) for number in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 500) for count in counts) < 5 * 500**0.5


@pytest.mark.parametrize("transform", ["shuffle_tokens", "shuffle_frames"])
def test_a_transform_changes_neither_rules_nor_grids(transform: str) -> None:
    full = {**LIVELY, "sequence_length": 120}
    own, changed = open_generator(full), open_generator({**full, "transform": transform})
    assert isinstance(own, NcaGenerator) and isinstance(changed, NcaGenerator)
    assert (own.rules_key(), own.grid_key()) == (changed.rules_key(), changed.grid_key())
    held, changed_held = (
        open_generator({**of, "seed": "evaluation"}).samples(0, 8)
        for of in (full, {**full, "transform": transform})
    )
    assert not np.array_equal(held, changed_held)
    assert np.array_equal(np.sort(held), np.sort(changed_held))


def test_shuffled_bytes_stay_what_they_are() -> None:
    rows = [
        open_generator({**LIVELY, "sequence_length": 100, "transform": transform}).samples(3, 1)
        for transform in ("shuffle_tokens", "shuffle_frames")
    ]
    assert (
        fingerprint({"rows": np.concatenate(rows).tolist()}) == "d0c3237c542b25f88fcf64e0d7ea7836"
    )


# Grammar


def test_what_changes_no_bytes_is_no_part_of_the_meaning() -> None:
    base = meaning("noise", symbols=9)
    assert meaning("noise", symbols=9, loss_weight=2, max_share="20%") == base
    assert meaning("noise", symbols=9, transform="shuffle_tokens") == {
        **base,
        "transform": "shuffle_tokens",
    }
    spec = NoiseSource(kind="noise", symbols=9, transform="shuffle_tokens", max_share="20%")  # type: ignore
    assert spec.summary() == "noise, uniform, 9 symbols, tokens shuffled"
    assert (spec.loss_weight, str(spec.max_share)) == (1, "20%")


TEXTS = """\
  one: {kind: text, files: [a.txt], holdout: {share: 0.02, by: package}, repeat: free}
  two: {kind: text, hub: a/b, split: test, duplicates: keep, repeat: free}
  open: {kind: dyck, style: nested, symbols: 8}
"""


def test_fingerprints_stay_what_they_are(tmp_path: Path) -> None:
    """A change here makes every compiled data set and every run a stranger to its curriculum."""
    (tmp_path / "a.txt").write_text("some text\n" * 2000)
    mixed = stage("{simple: 1, binary: 1, hiss: 1, open: 1, one: 1, two: 1}")
    bpe = "tokenizer: {bpe: 300, train_on: [one, two]}\n"
    plan = plan_of(tmp_path, curriculum(mixed, SOURCES + TEXTS, bpe))
    assert {name: source.fingerprint for name, source in plan.sources.items()} == {
        "simple": "6118b787d94b10c4fb673498aff5a601",
        "binary": "b27d69bbfa3e3f5c6349c4063e743299",
        "hiss": "61281f81cbc51e7dbf87a722fc11b432",
        "one": "49e702e6ab59aa021b0c849f163ab8b9",
        "two": "899ac985e8b4357331641b5ff4c09bc7",
        "open": "9fa5e1bbd955682ea84073ab571053f8",
    }
    main = make_plan(
        load_curriculum(shipped("curricula") / "code_target.yaml"),
        load_trainer(shipped("trainers") / "cpu.yaml"),
    )
    assert {n: s.fingerprint for n, s in main.sources.items() if s.text is None} == {
        "simple": "cdefd5ee159bde9b42dea6255bf16d02",
        "rich": "62ca8092c847dacffcf5280a24c9692e",
        "binary": "6a6668bc2ff3a670f22d7e76a377518d",
    }


REFUSED = {
    "{kind: noise, transform: shuffle_frames}": (".transform", "not one of the choices"),
    "{kind: noise, transform: shufle_tokens}": (".transform", "not one of the choices"),
    "{kind: noise, loss_weight: -1}": (".loss_weight", "negative"),
    "{kind: noise, loss_weight: 10%}": (".loss_weight", "not a number"),
    "{kind: noise, max_share: 0.5}": (".max_share", "'0.5' is not understood here"),
    "{kind: noise, max_share: 0%}": (".max_share", "not a share of the run"),
    "{kind: noise, max_share: 101%}": (".max_share", "not a share of the run"),
    "{kind: blend, mixture: {hiss: 1}, transform: shuffle_tokens}": (".transform", "unknown key"),
    "{kind: blend, mixture: {hiss: 1}, max_share: 5%}": (".max_share", "unknown key"),
    "{kind: blend, mixture: {hiss: 1}, clock: runs}": (".clock", "not one of the choices"),
    "{kind: blend, mixture: {0%: {hiss: 1}, 9ba: {rich: 1}}, clock: run}": (
        ".mixture",
        "batches are counted in a stage, and this clock is `run`",
    ),
    "{kind: blend, mixture: {hiss: 1}, cycle: 5ba, clock: self}": (".cycle", "batches are counted"),
    "{kind: text, files: [a], attention: none}": (".attention", "not one of the choices"),
    "{kind: text, files: [a], duplicates: far}": (".duplicates", "not one of the choices"),
    "{kind: text, files: [a], holdout: {share: 0.1, by: folder}}": (
        ".holdout.by",
        "not one of the choices",
    ),
}


@pytest.mark.parametrize("source", REFUSED)
def test_mistakes_are_located(tmp_path: Path, source: str) -> None:
    path, what = REFUSED[source]
    (found,) = refusals_of(tmp_path, source)
    assert found.path == "sources.new" + path
    assert what in found.what and found.remedy and found.line == 8


def refusals_of(folder: Path, source: str) -> Any:
    (folder / "c.yaml").write_text(curriculum(stage("{hiss: 1}"), SOURCES + f"  new: {source}\n"))
    return problems(load_curriculum, folder / "c.yaml")


def test_all_mistakes_of_one_source_are_told_at_once(tmp_path: Path) -> None:
    band = "band: {gzip: [0.1, 0.4]}"
    many = (
        f"{{kind: nca, {band}, alphabet: 65, patch: 5, burn_in: 2000000, stride: 1024, grid: 2, "
        "temperature: 0, identity_bias: 1e7, rules: 0, transform: shuffle, max_share: 2}"
    )
    keys = [found.path.removeprefix("sources.new.") for found in refusals_of(tmp_path, many)]
    assert keys == [
        *("alphabet", "patch", "burn_in", "stride", "grid"),
        *("temperature", "identity_bias", "rules", "transform", "max_share"),
    ]
    both = f"{{kind: nca, {band}, alphabet: 60, patch: 3, grid: [12, 13]}}"
    keys = [found.path.removeprefix("sources.new.") for found in refusals_of(tmp_path, both)]
    assert keys == ["patch", "grid"]


@given(
    st.fixed_dictionaries(
        {
            "alphabet": st.sampled_from([1, 2, 10, 45, 46, 64, 65]),
            "patch": st.integers(0, 5),
            "grid": st.tuples(*[st.sampled_from([2, 3, 4, 6, 12, 256, 257])] * 2).map(list),
            "burn_in": st.sampled_from([0, 10, 2**20 - 1, 2**20]),
            "stride": st.sampled_from([0, 1, 1023, 1024]),
            "temperature": st.sampled_from(["0", "1e-30", "1e-4", "1", "1.1"]),
            "identity_bias": st.sampled_from(["-1e6", "0", "1e6", "1000001"]),
        }
    )
)
def test_the_grammar_knows_the_bounds_of_automata(keys: dict[str, Any]) -> None:
    """What it lets through is an automaton, and it refuses no automaton of up to 2**22 ids."""
    numbers = {key: Decimal(keys[key]) for key in ("temperature", "identity_bias")}
    written = {**keys, **numbers, "kind": "nca", "band": {"gzip": [0, 1]}}
    try:
        NcaSource(**written)
        accepted = True
    except ValidationError:
        accepted = False
    try:
        floats = {key: float(number) for key, number in numbers.items()}
        automaton = Automaton(**{**keys, **floats, "grid": tuple(keys["grid"])})
        possible = automaton.num_symbols <= 1 << 22 and min(keys["grid"]) >= 3
        possible = possible and max(keys["grid"]) <= 256
    except ValueError:
        possible = False
    assert accepted == possible


# JSON Schema


def parts(schema: Any) -> Any:
    """A schema and all that it is made of."""
    if isinstance(schema, dict):
        yield schema
        for item in schema.values():
            yield from parts(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from parts(item)


@pytest.mark.filterwarnings("ignore:Default value")
@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described_and_says_what_it_accepts(kind: str) -> None:
    schema = KINDS[kind].model_json_schema()
    models = [schema, *schema.get("$defs", {}).values()]
    assert schema["additionalProperties"] is False
    for name, key in [item for model in models for item in model["properties"].items()]:
        assert key["description"].endswith("."), name
        saying = {"type", "enum", "const", "anyOf", "oneOf", "$ref"}
        assert saying & set(key), name
        for form in (key, *key.get("anyOf", ()), *key.get("oneOf", ())):
            assert saying & set(form), name
            if form.get("type") == "array":
                assert form["items"] and form["minItems"]
            if form.get("type") == "object":
                assert form["additionalProperties"] is not None


def matches(schema: dict[str, Any], written: Any) -> bool:
    """Whether a value passes the parts of JSON Schema that a mixture's uses."""
    kinds = {"object": dict, "array": list, "string": str, "number": int | Decimal}
    if "oneOf" in schema:
        return sum(matches(form, written) for form in schema["oneOf"]) == 1
    if "anyOf" in schema:
        return any(matches(form, written) for form in schema["anyOf"])
    if "enum" in schema:
        return written in schema["enum"]
    if not isinstance(written, kinds[schema["type"]]):
        return False
    if isinstance(written, str):
        return bool(re.search(schema.get("pattern", ""), written))
    if isinstance(written, list):
        return len(written) >= schema["minItems"] and all(
            matches(schema["items"], item) for item in written
        )
    if not isinstance(written, dict):
        return written >= schema["minimum"]
    known, more = schema.get("properties", {}), schema["additionalProperties"]
    if len(written) < schema.get("minProperties", 0) or set(schema.get("required", ())) - {
        *written
    }:
        return False
    named = schema.get("propertyNames", {}).get("pattern", "")
    return all(
        re.search(named, key) and (key in known or more) and matches(known.get(key, more), item)
        for key, item in written.items()
    )


@pytest.mark.parametrize(
    ("written", "valid"),
    [
        ({"a": 1}, True),
        ({"a": "80%", "b": "20%"}, True),
        ({"a": Decimal("0.5"), "b-2": 0}, True),
        ({"0%": {"a": 1}, "1.5Mtok": {"a": 1}, "-10%": {"b": 1}}, True),
        ([{"at": "0%", "mix": {"a": 1}}, {"at": "9ba", "mix": {"b": 1}, "ease": "cosine"}], True),
        ({}, False),
        ([], False),
        ("a", False),
        ({"a": -1}, False),
        ({"a": "-5%"}, False),
        ({"a": {"b": 1}}, False),
        ({"0%": 5}, False),
        ({"0%": {"a": 1}, "b": 1}, False),
        ({"1ep": {"a": 1}}, False),
        ([{"at": "0%"}], False),
        ([{"at": "0%", "mix": {"a": 1}, "to": 3}], False),
        ([{"at": "0%", "mix": {"a": 1}, "ease": "fast"}], False),
        ([{"at": 0, "mix": {"a": 1}}], False),
    ],
)
def test_the_schema_of_mixtures_agrees_with_their_grammar(written: Any, valid: bool) -> None:
    mixture = TypeAdapter(MixtureSchedule)
    assert matches(mixture.json_schema(), written) == valid
    try:
        mixture.validate_python(written)
        assert valid
    except ValidationError:
        assert not valid
