"""The plan: durations, counts, counters, vocabulary, fingerprints, and what cannot work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, problem, problems, stage
from rich.console import Console

from ncamix import durations, planning
from ncamix.cache import entry
from ncamix.errors import UserError
from ncamix.library import shipped
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.plan_tables import print_plan
from ncamix.planning import make_plan
from ncamix.reading import parse_document
from ncamix.schedule import SCALE
from ncamix.trainer import load_trainer

BATCH = 4 * 64  # tokens
BYTES = "tokenizer: bytes\n"


def text_source(folder: Path, size: int = 100_000, more: str = ", repeat: refuse") -> str:
    (folder / "a.txt").write_text("x" * size)
    return SOURCES + f"  code: {{kind: text, files: [a.txt]{more}}}\n"


def batches(plan: Plan) -> list[int]:
    return [s.num_batches for s in plan.stages]


def ranges(plan: Plan) -> list[tuple[str, int, int]]:
    return [(name, first, size) for name, (first, size) in plan.vocabulary.ranges.items()]


# -- the shipped example ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def code_target() -> Plan:
    return make_plan(
        load_curriculum(shipped("curricula") / "code_target.yaml"),
        load_trainer(shipped("trainers") / "cpu.yaml"),
    )


def test_code_target_in_exact_numbers(code_target: Plan) -> None:
    automata, code = code_target.stages
    assert batches(code_target) == [73, 415]
    assert code_target.num_tokens == 488 * 8 * 256
    # integrals of the mixture at batch midpoints: 80% and 20% fall to 0 at 60%, where span begins
    quotas = dict.fromkeys(automata.mixture.leaves, 0)
    for t in range(73):
        for name, weight in zip(automata.mixture.leaves, automata.mixture.at(t), strict=True):
            quotas[name] += weight * 8
    assert automata.counts == {"binary": 35, "rich": 273, "simple": 276}
    assert all(abs(quotas[n] / SCALE - count) < 1 for n, count in automata.counts.items())
    assert automata.apportionment.largest_deviation < 1
    assert code.counts == {"code": 3320}
    assert automata.apportionment.counts.sum(axis=1).tolist() == [8] * 73
    assert ranges(code_target) == [
        ("text", 0, 4096),
        ("nca 2 states 2x2", 4096, 18),
        ("nca 10 states 2x2", 4114, 10002),
    ]
    assert code_target.vocabulary.rows == 14_116
    assert code_target.sources["simple"].loss_start == 38


@pytest.mark.parametrize("width", [80, 140])
def test_the_printed_plan_breaks_no_number(code_target: Plan, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_plan(code_target, "trainer cpu", console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for whole in ("149,504", "849,920", "3,320", "10,002", "219/256", "nca 10 states 2x2"):
        assert whole in text
    for source in code_target.sources.values():
        assert source.fingerprint[:12] in text
        assert source.spec.summary() in text


def test_globs_are_printed_as_written(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("x" * 50_000)
    sources = "  code: {kind: text, files: ['[a-c].txt'], holdout: {share: 0.1}}\n"
    plan = plan_of(tmp_path, curriculum(stage("{code: 1}"), sources, BYTES))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_plan(plan, "trainer [small]", console)
    text = console.export_text()
    assert "text, [a-c].txt" in text
    assert "trainer [small]" in text


def test_the_plan_as_json(code_target: Plan) -> None:
    read = json.loads(json.dumps(plan_json(code_target)))
    assert read["num_tokens"] == code_target.num_tokens
    assert [s["num_batches"] for s in read["stages"]] == [73, 415]
    assert read["stages"][0]["mixture_curve"]["weights"]["rich"][-1] > 0.97
    assert read["sources"]["rich"]["fingerprint"] == code_target.sources["rich"].fingerprint


# -- durations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        (["rest"], [100]),
        (["15%", "rest"], [15, 85]),
        (["rest", "15%"], [85, 15]),
        (["2560tok", "rest", "20ba"], [10, 70, 20]),
        (["33.3%", "33.3%", "33.4%"], [33, 33, 34]),  # what rounding leaves goes on
        (["30ba", "70%"], [30, 70]),
        (["5ba", "1000tok"], [5, 3]),
        (["99.9%"], [99]),
    ],
)
def test_durations(tmp_path: Path, durations: list[str], expected: list[int]) -> None:
    stages = "".join(stage("{hiss: 1}", d, f"s{i}") for i, d in enumerate(durations))
    plan = plan_of(tmp_path, curriculum(stages))
    assert batches(plan) == expected
    first, used = [s.first_token for s in plan.stages], 0
    for start, count in zip(first, expected, strict=True):
        assert start == used
        used += count * BATCH


def test_all_absolute_durations_ignore_the_budget_and_say_so(tmp_path: Path) -> None:
    stages = stage("{hiss: 1}", "500ba") + stage("{hiss: 1}", "25600tok", "two")
    plan = plan_of(tmp_path, curriculum(stages))
    assert batches(plan) == [500, 100]
    assert any("budget of 25.6k tokens is not used" in w for w in plan.warnings)
    assert plan.stages[0].evaluations == tuple(range(60, 500, 60))  # 10% of the run, not of it


@pytest.mark.parametrize(
    ("durations", "path", "what"),
    [
        (["40%", "50%"], "s1", "add up to 23k tokens, the trainer's budget is 25.6k tokens"),
        (["60%", "50%"], "s1", "add up to 28.2k tokens"),
        (["100%", "rest"], "s1", "nothing is left for this stage"),
        (["rest", "200ba"], "s0", "nothing is left for this stage"),
        (["100tok", "rest"], "s0", "gets 100 tokens, less than one batch of 4 x 64 = 256 tokens"),
        (["0.5%", "rest"], "s0", "less than one batch"),
        (["1Gtok", "1Ttok"], "s1", "5,000,000 a stage at most"),
    ],
)
def test_durations_that_cannot_work(
    tmp_path: Path, durations: list[str], path: str, what: str
) -> None:
    stages = "".join(stage("{hiss: 1}", d, f"s{i}") for i, d in enumerate(durations))
    found = problem(plan_of, tmp_path, curriculum(stages))
    assert found.path == f"stages.{path}.duration"
    assert what in found.what
    assert found.remedy


def test_a_budget_under_one_batch_is_refused(tmp_path: Path) -> None:
    trainer = TRAINER.replace("25600tok", "255tok")
    found = problem(plan_of, tmp_path, curriculum(stage("{hiss: 1}")), trainer)
    assert "less than one batch" in found.what
    assert "larger budget" in found.remedy


def test_a_stage_may_have_its_own_batch_size(tmp_path: Path) -> None:
    stages = stage("{hiss: 1}", "50%", more=", batch_size: 10") + stage("{hiss: 1}", name="two")
    first, second = plan_of(tmp_path, curriculum(stages)).stages
    assert (first.num_batches, first.batch_size) == (20, 10)
    assert (second.num_batches, second.batch_size) == (50, 4)
    assert second.first_token == 20 * 10 * 64


# -- mixtures and counters ----------------------------------------------------------------------


def test_sample_counters_run_on_across_stages(tmp_path: Path) -> None:
    stages = (
        stage("{hiss: 1, simple: 1}", "50%")
        + stage("{simple: 1}", "25%", "two")
        + stage("{hiss: 1, simple: 3}", name="three")
    )
    plan = plan_of(tmp_path, curriculum(stages))
    assert [s.first_sample for s in plan.stages] == [
        {"hiss": 0, "simple": 0},
        {"simple": 100},
        {"hiss": 100, "simple": 200},
    ]
    assert plan.sources["simple"].samples_needed == 275
    assert plan.sources["hiss"].samples_needed == 125


def test_nested_blends_multiply_through(tmp_path: Path) -> None:
    blends = (
        "  inner: {kind: blend, mixture: {simple: 1, rich: 3}}\n"
        "  outer: {kind: blend, mixture: {0%: {inner: 1}, 100%: {hiss: 1}}}\n"
    )
    text = curriculum(stage("{outer: 50%, rich: 50%}"), SOURCES + blends)
    (planned,) = plan_of(tmp_path, text).stages
    assert planned.mixture.leaves == ("hiss", "rich", "simple")
    hiss, rich, simple = planned.mixture.at(24)  # the inner blend has fallen to 0.755
    assert hiss + rich + simple == SCALE
    assert simple / SCALE == pytest.approx(0.5 * 0.755 / 4, rel=1e-15)
    assert rich / SCALE == pytest.approx(0.5 + 0.5 * 0.755 * 3 / 4, rel=1e-15)
    assert planned.counts == {"hiss": 100, "rich": 275, "simple": 25}


def test_a_share_too_small_for_the_stage_is_remarked_on(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1, simple: 1e-6}")))
    assert any("'simple' gets no sample" in w for w in plan.warnings)
    assert plan.stages[0].sources == ("hiss",)
    assert plan.sources["simple"].samples_needed == 0  # its ids stay where they are
    assert any("'rich' is declared but never used" in w for w in plan.warnings)


def test_keyframes_that_do_not_fit_are_refused_with_the_stage(tmp_path: Path) -> None:
    text = curriculum(stage("{0%: {hiss: 1}, 101ba: {rich: 1}}"))
    found = problem(plan_of, tmp_path, text)
    assert found.path == "stages.one.mixture"
    assert "101ba lies outside the stage" in found.what
    assert found.remedy == "stage 'one' has 100 batches"
    late = ", optimizer: {lr: {peak: 1x, warmup: 200ba}}"
    found = problem(plan_of, tmp_path, curriculum(stage("{hiss: 1}", more=late)))
    assert found.path == "stages.one.optimizer.lr"


def test_evaluations_fall_on_multiples_of_the_interval(tmp_path: Path) -> None:
    for every, first, number in (("10%", 10, 9), ("25ba", 25, 3), ("1tok", 1, 99), ("9Mtok", 0, 0)):
        text = curriculum(stage("{hiss: 1}"), rest=f"evaluate: {{every: {every}}}\n")
        found = plan_of(tmp_path, text).stages[0].evaluations
        assert len(found) == number
        assert not found or found[0] == first


def test_too_many_evaluations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (durations, planning):
        monkeypatch.setattr(module, "MAX_EVALUATIONS", 50)
    text = curriculum(stage("{hiss: 1}"), rest="evaluate: {every: 1ba}\n")
    assert problem(plan_of, tmp_path, text).path == "evaluate.every"


def test_absolute_rates_are_remarked_on(tmp_path: Path) -> None:
    for rate in ("5e-4", "{peak: 5e-4}", "{0%: 5e-4, 100%: 0.1x}"):
        text = curriculum(stage("{hiss: 1}", more=f", optimizer: {{lr: {rate}}}"))
        assert any("0.5x" in w for w in plan_of(tmp_path, text).warnings)
    for rate in ("0.5x", "{start: continue, decay: cosine}", "{0%: 0, 100%: 1x}"):
        stages = stage("{hiss: 1}", "50%") + stage(
            "{hiss: 1}", name="two", more=f", optimizer: {{lr: {rate}}}"
        )
        assert not any("absolute" in w for w in plan_of(tmp_path, curriculum(stages)).warnings)


# -- vocabulary ---------------------------------------------------------------------------------

ALL = "{code: 1, simple: 1, binary: 1, hiss: 1}"


@pytest.mark.parametrize(
    ("vocabulary", "firsts", "rows"),
    [
        ("{layout: disjoint}", [0, 257, 275, 10277], 10377),
        ("{alphabets: shared}", [0, 257, 257, 10259], 10359),
        ("{layout: overlay}", [0, 0, 0, 0], 10002),
        ("{layout: overlay, rows: 12000}", [0, 0, 0, 0], 12000),
    ],
)
def test_layouts(tmp_path: Path, vocabulary: str, firsts: list[int], rows: int) -> None:
    rest = BYTES + f"vocabulary: {vocabulary}\n"
    plan = plan_of(tmp_path, curriculum(stage(ALL), text_source(tmp_path), rest))
    names = ["text", "nca 2 states 2x2", "nca 10 states 2x2", "noise 100"]
    assert ranges(plan) == list(zip(names, firsts, [257, 18, 10002, 100], strict=True))
    assert plan.vocabulary.rows == rows
    assert plan.vocabulary.text_rows == 257
    assert plan.sources["hiss"].first_id == firsts[-1]


def test_brackets_stand_in_a_range_of_their_own(tmp_path: Path) -> None:
    sources = SOURCES + (
        "  nested: {kind: dyck, style: nested, symbols: 64}\n"
        "  shuffled: {kind: dyck, style: shuffle}\n"
        "  shallow: {kind: dyck, style: shuffle, symbols: 3, depth: 4, p_open: 0.4}\n"
    )
    mixture = "{hiss: 1, nested: 1, shuffled: 1, shallow: 1}"
    plan = plan_of(tmp_path, curriculum(stage(mixture), sources))
    assert ranges(plan) == [("dyck 3", 0, 6), ("dyck 64", 6, 128), ("noise 100", 134, 100)]
    assert plan.stages[0].counts == dict.fromkeys(("hiss", "nested", "shuffled", "shallow"), 100)
    assert plan.sources["nested"].first_id == plan.sources["shuffled"].first_id == 6
    assert plan.sources["shallow"].loss_start == 1
    assert len(set(prints(plan).values())) == 4


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1}"), rest="vocabulary: {rows: 99}\n")
    found = problem(plan_of, tmp_path, text)
    assert (found.path, found.value) == ("vocabulary.rows", "99")
    assert "the sources emit 100 ids" in found.what


def test_active_ranges_are_merged(tmp_path: Path) -> None:
    stages = "".join(
        stage(mixture, "25%", name)
        for name, mixture in {
            "apart": "{hiss: 1, code: 1}",
            "beside": "{binary: 1, code: 1}",
            "absent": "{code: 1, hiss: 0}",
            "everything": ALL,
        }.items()
    )
    plan = plan_of(tmp_path, curriculum(stages, text_source(tmp_path), BYTES))
    assert [plan.active_ranges(planned) for planned in plan.stages] == [
        [(0, 257), (10277, 10377)],
        [(0, 275)],
        [(0, 257)],
        [(0, 10377)],
    ]


# -- fingerprints -------------------------------------------------------------------------------


def prints(plan: Plan) -> dict[str, str]:
    return {name: source.fingerprint for name, source in plan.sources.items()}


def test_fingerprints_are_of_meaning(tmp_path: Path) -> None:
    stages = stage("{simple: 1, rich: 1}", "50%") + stage("{hiss: 1, binary: 1}", name="two")
    first = plan_of(tmp_path, curriculum(stages))
    backwards = "".join(reversed(SOURCES.splitlines(keepends=True)))
    spelled = backwards.replace("0.30", "0.3").replace("alphabet: 10, ", "")
    spelled = "# a remark\n" + spelled.replace(
        "kind: noise, symbols: 100", "symbols: 1e2, kind: noise"
    )
    again = plan_of(
        tmp_path,
        curriculum(stages.replace("{simple: 1, rich: 1}", "{rich: 5, simple: 5}"), spelled),
    )
    assert prints(again) == prints(first)
    assert again.fingerprint == first.fingerprint
    moved = plan_of(
        tmp_path, curriculum(stages.replace("50%", "60%").replace("rich: 1", "rich: 2"))
    )
    assert prints(moved) == prints(first)  # stages decide how much of a source, not what it is
    assert moved.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("gzip: [0.30, 0.40]", "gzip: [0.30, 0.41]", {"simple"}),
        ("symbols: 100", "symbols: 100, distribution: zipf", {"hiss"}),
        ("symbols: 100", "symbols: 101", {"hiss"}),
        ("alphabet: 2,", "alphabet: 2, stride: 2,", {"binary"}),
        ("name: tried", "name: tried\nseed: 1", {"simple", "rich", "binary", "hiss"}),
        ("name: tried", "name: tried\nseed: {init: 9, order: 9, rules: 0}", set()),
        ("name: tried", "name: renamed", set()),
    ],
)
def test_what_changes_bytes_changes_fingerprints(
    tmp_path: Path, old: str, new: str, changed: set[str]
) -> None:
    text = curriculum(stage("{simple: 1, rich: 1, hiss: 1, binary: 1}"))
    first, second = (
        prints(plan_of(tmp_path, text)),
        prints(plan_of(tmp_path, text.replace(old, new))),
    )
    assert {name for name in first if first[name] != second[name]} == changed


def test_text_fingerprints_follow_the_documents(tmp_path: Path) -> None:
    bpe = "tokenizer: {bpe: 300, train_on: [code]}\n"
    text = curriculum(stage("{code: 1}"), text_source(tmp_path), bpe)
    first = prints(plan_of(tmp_path, text))
    assert prints(plan_of(tmp_path, text.replace("rest", "50ba"))) == first
    assert prints(plan_of(tmp_path, text + "seed: 4\n")) == first  # no seed reaches text
    assert prints(plan_of(tmp_path, text.replace("bpe: 300", "bpe: 301"))) != first
    (tmp_path / "a.txt").write_text("y" * 100_000)
    assert prints(plan_of(tmp_path, text)) != first


def test_held_out_samples_know_no_seed(tmp_path: Path) -> None:
    text = curriculum(stage("{simple: 1}"))
    one = plan_of(tmp_path, text).sources["simple"]
    other = plan_of(tmp_path, text + "seed: 3\n").sources["simple"]
    assert one.fingerprint != other.fingerprint
    assert one.evaluation_meaning() == other.evaluation_meaning()
    assert one.evaluation_meaning() != one.meaning


def test_trainers_change_the_plan_but_not_their_names(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1}"))
    first = plan_of(tmp_path, text).fingerprint
    assert plan_of(tmp_path, text, TRAINER.replace("small", "other")).fingerprint == first
    assert plan_of(tmp_path, text, TRAINER.replace("1e-3", "0.0010")).fingerprint == first
    for old, new in (
        ("1e-3", "2e-3"),
        ("width: 8", "width: 16"),
        ("batch_size: 4", "batch_size: 2"),
    ):
        assert plan_of(tmp_path, text, TRAINER.replace(old, new)).fingerprint != first


# -- what cannot work ---------------------------------------------------------------------------


def test_an_unreachable_band_is_refused_with_the_measured_spread(tmp_path: Path) -> None:
    sources = SOURCES.replace("[0.10, 0.30]", "[0.50, 0.60]")
    found = problem(plan_of, tmp_path, curriculum(stage("{binary: 1}"), sources))
    assert found.path == "sources.binary.band"
    assert "no rule with 2 states reaches the band gzip 0.50-0.60" in found.what
    assert "of 4,000 random rules, gzip finds" in found.remedy
    assert "5.7% at 0.20-0.25" in found.remedy


def test_a_rare_band_is_remarked_on(tmp_path: Path) -> None:
    sources = SOURCES.replace("[0.10, 0.30]", "[0.24, 0.30]")
    plan = plan_of(tmp_path, curriculum(stage("{binary: 1}"), sources))
    assert any("'binary' is slow to generate" in w for w in plan.warnings)


def test_a_mask_longer_than_the_sequence_is_refused(tmp_path: Path) -> None:
    trainer = TRAINER.replace("sequence_length: 64", "sequence_length: 32")
    found = problem(plan_of, tmp_path, curriculum(stage("{simple: 1}")), trainer)
    assert found.path == "sources.simple"
    assert "first 38 tokens of a sample are masked, and a sample has 32" in found.what
    sources = SOURCES.replace("kind: nca,", "kind: nca, loss_from_frame: 0,")
    plan = plan_of(tmp_path, curriculum(stage("{simple: 1}"), sources), trainer)
    assert plan.sources["simple"].loss_tokens == 32


def test_text_that_can_never_suffice_is_refused(tmp_path: Path) -> None:
    text = curriculum(stage("{code: 1}"), text_source(tmp_path, 6400), BYTES)
    found = problem(plan_of, tmp_path, text)
    assert found.path == "sources.code"
    assert "400 samples are needed, it has at most 300 (1.3 epochs, 1 allowed)" in found.what
    assert "`repeat: 2`" in found.remedy
    for repeat in ("4", "free"):
        more = f", repeat: {repeat}"
        plan_of(tmp_path, curriculum(stage("{code: 1}"), text_source(tmp_path, 6400, more), BYTES))


def test_text_that_may_not_suffice_is_remarked_on(tmp_path: Path) -> None:
    bpe = "tokenizer: {bpe: 300, train_on: [code]}\n"
    plan = plan_of(tmp_path, curriculum(stage("{code: 1}"), text_source(tmp_path, 30_000), bpe))
    assert any("'code' may be too small: about 2.9 epochs" in w for w in plan.warnings)


def test_text_of_known_size_is_judged_by_it(tmp_path: Path) -> None:
    text = curriculum(stage("{code: 1}"), text_source(tmp_path), BYTES)
    folder = entry(plan_of(tmp_path, text).sources["code"].fingerprint)
    folder.mkdir(parents=True)
    (folder / "source.json").write_text('{"num_samples": 399}')
    assert "it has 399" in problem(plan_of, tmp_path, text).what
    (folder / "source.json").write_text('{"num_samples": 800}')
    assert plan_of(tmp_path, text).sources["code"].epochs() == 0.5


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ("[none.txt]", "no file matches 'none.txt'"),
        ("['*.md']", "no file matches '*.md'"),
        ("[a.txt, none.txt]", "no file matches 'none.txt'"),
        ("[.]", "'.' is a folder"),
        ("[empty.txt]", "the text is empty"),
        ("['~no_such_user/a.txt']", "no file matches"),
    ],
)
def test_texts_that_are_not_there(tmp_path: Path, files: str, what: str) -> None:
    (tmp_path / "empty.txt").touch()
    sources = text_source(tmp_path).replace("[a.txt]", files)
    found = problem(plan_of, tmp_path, curriculum(stage("{code: 1}"), sources, BYTES))
    assert found.path == "sources.code.files"
    assert what in found.what
    assert found.remedy


def test_folders_with_odd_names_hold_texts_too(tmp_path: Path) -> None:
    folder = tmp_path / "[1] texts*"
    folder.mkdir()
    plan = plan_of(folder, curriculum(stage("{code: 1}"), text_source(folder), BYTES))
    text = plan.sources["code"].text
    assert text is not None and text.files is not None
    assert [file.name for file in text.files] == ["a.txt"]


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    sources, rest = text_source(tmp_path), "tokenizer: {pretrained: mine.json}\n"
    for content in (b"{}", b"\xff\xfe", b'{"model": {"vocab": []}}'):
        (tmp_path / "mine.json").write_bytes(content)
        found = problem(plan_of, tmp_path, curriculum(stage("{code: 1}"), sources, rest))
        assert found.path == "tokenizer.pretrained"


RICH = """\
ncamix: 1
name: f
seed: {init: 1, order: 2, rules: 3}
tokenizer: {bpe: 300, train_on: [code]}
vocabulary: {layout: disjoint, alphabets: shared, rows: 20000, softmax: all}
sources:
  simple: {kind: nca, alphabet: 10, band: {gzip: [0.3, 0.4]}, grid: [12, 12], temperature: 1e-4}
  hiss: {kind: noise, distribution: zipf, exponent: 1.07, symbols: 100}
  nested: {kind: dyck, style: nested, symbols: 8, depth: [2, 9], p_open: 0.45}
  span: {kind: blend, mixture: {0%: {simple: 1}, 100%: {hiss: 1}}, cycle: 10ba}
  code: {kind: text, files: [a.txt], holdout: {share: 0.1, by: document}, repeat: free}
stages:
  - name: a
    duration: 15%
    mixture: [{at: 0%, mix: {simple: 80%, span: 20%}, ease: cosine},
              {at: 50%, mix: {hiss: 1, nested: 2}}]
    cycle: 20ba
    optimizer: {kind: adam, lr: {peak: 0.2x, warmup: 10%, decay: cosine}, betas: [0.9, 0.95]}
  - name: b
    duration: rest
    enter: {reinitialize: [embeddings], permute: {mlp: all}, initializer: {normal: 0.02}}
    optimizer: {lr: {0%: 1e-3, 100%: 1e-4}, cycle: 5ba}
    mixture: {code: 1}
evaluate: {every: 10%, sources: [code, simple], samples: 10}
"""
ODD = ["~", "-1", "1e90", "x", "[]", "{kind: [1]}", "[5, x, ~]", "1e999tok", "{0%: {a: 1}}"]


def replaced(tree: object, odd: object) -> Iterator[object]:
    """The tree with each of its values in turn replaced."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield {**tree, key: odd}
            for inner in replaced(value, odd):
                yield {**tree, key: inner}
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            for inner in [odd, *replaced(value, odd)]:
                yield [*tree[:i], inner, *tree[i + 1 :]]


def written(tree: object) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {written(value)}" for key, value in tree.items()) + "}"
    return "[" + ", ".join(map(written, tree)) + "]" if isinstance(tree, list) else str(tree)


@pytest.mark.parametrize("odd", ODD)
def test_no_value_anywhere_ends_in_anything_but_a_located_message(tmp_path: Path, odd: str) -> None:
    (tmp_path / "a.txt").write_text("x" * 100_000)
    plan_of(tmp_path, RICH)
    for tree in replaced(parse_document(RICH, "x.yaml").tree.plain(), odd):
        try:
            plan_of(tmp_path, written(tree))
        except UserError as error:
            assert all(p.line and p.file and p.what for p in error.problems)


def test_everything_that_cannot_work_is_found_at_once(tmp_path: Path) -> None:
    sources = text_source(tmp_path).replace("a.txt", "none.txt").replace("0.10, 0.30", "0.5, 0.6")
    stages = stage("{binary: 1}", "1tok") + stage("{code: 1}", name="two")
    found = problems(
        plan_of, tmp_path, curriculum(stages, sources, BYTES + "vocabulary: {rows: 5}\n")
    )
    assert [p.path for p in found] == [
        "vocabulary.rows",
        "sources.binary.band",
        "sources.code.files",
        "stages.one.duration",
    ]
