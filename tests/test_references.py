"""Names in a curriculum that refer to others."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import SOURCES, curriculum, problem, problems, stage

from ncamix.curriculum import Curriculum
from ncamix.loading import load_curriculum

BYTES = "tokenizer: bytes\n"
TEXT = SOURCES + "  code: {kind: text, files: [a.txt]}\n"
HELD_OUT = SOURCES + "  code: {kind: text, files: [a.txt], holdout: {share: 0.1}}\n"
SPAN = SOURCES + "  span: {kind: blend, mixture: {0%: {simple: 1}, 100%: {rich: 1}}}\n"
EVALUATED = "evaluate: {sources: [simple, hiss]}\n"


def load(folder: Path, text: str) -> Curriculum:
    (folder / "c.yaml").write_text(text)
    return load_curriculum(folder / "c.yaml").curriculum


def blend(name: str, mixture: str) -> str:
    return f"  {name}: {{kind: blend, mixture: {mixture}}}\n"


def two(more: str, mixture: str = "{hiss: 1}") -> str:
    """Two stages; `more` is of the second."""
    return stage("{hiss: 1}", "5ba", "zero") + stage(mixture, more=more)


@pytest.mark.parametrize(
    ("text", "path", "what", "remedy"),
    [
        (curriculum(stage("{simpel: 1}")), "stages.one.mixture.simpel", "unknown source", "simple"),
        (
            curriculum(stage("[{at: 0%, mix: {hiss: 1}}, {at: 50%, mix: {rihc: 1}}]")),
            "stages.one.mixture.1.mix.rihc",
            "unknown source 'rihc'",
            "did you mean 'rich'?",
        ),
        (
            curriculum(stage("{0%: {hiss: 1}, 50%: {rihc: 0, hiss: 1}}")),
            "stages.one.mixture.50%.rihc",
            "unknown source 'rihc'",
            "did you mean 'rich'?",
        ),
        (
            curriculum(stage("{b: 1}"), SOURCES + blend("b", "{hisz: 1}")),
            "sources.b.mixture.hisz",
            "unknown source 'hisz'",
            "did you mean 'hiss'?",
        ),
        (
            curriculum(stage("{b: 1}"), SOURCES + blend("b", "{b: 1}")),
            "sources.b",
            "contains itself",
            "circle",
        ),
        (
            curriculum(stage("{code: 1}"), TEXT),
            "tokenizer",
            "the text source 'code' needs a tokenizer",
            "bpe: 4096, train_on: [code]",
        ),
        (
            curriculum(stage("{code: 1}"), TEXT, "tokenizer: {bpe: 300, train_on: [code, hiss]}\n"),
            "tokenizer.train_on.1",
            "'hiss' is not a text source",
            "text sources: code",
        ),
        (
            curriculum(stage("{hiss: 1}", "5ba") + stage("{hiss: 1}")),
            "stages.one.name",
            "two stages are named 'one'",
            "rename",
        ),
        (
            curriculum(stage("{hiss: 1}") + stage("{hiss: 1}", name="two")),
            "stages.two.duration",
            "two stages say `rest`",
            "duration",
        ),
    ],
)
def test_names_that_are_not_there(
    tmp_path: Path, text: str, path: str, what: str, remedy: str
) -> None:
    refused(tmp_path, text, path, what, remedy)


def refused(folder: Path, text: str, path: str, what: str, remedy: str) -> None:
    found = problem(load, folder, text)
    assert found.path == path
    assert what in found.what
    assert remedy in found.remedy
    assert found.line > 2 or path == "tokenizer"


def test_longer_circles_of_blends_are_refused(tmp_path: Path) -> None:
    blends = "".join(blend(a, f"{{{b}: 1}}") for a, b in ("pq", "qr", "rp"))
    found = problems(load, tmp_path, curriculum(stage("{p: 1}"), SOURCES + blends))
    assert [p.path for p in found] == ["sources.p", "sources.q", "sources.r"]


@pytest.mark.parametrize(
    ("sources", "rest", "what", "remedy"),
    [
        (SOURCES, "evaluate: {sources: [hiss, his]}\n", "unknown source 'his'", "'hiss'?"),
        (SOURCES, "evaluate: {sources: [hiss, hiss]}\n", "'hiss' stands twice", "keep one"),
        (SPAN, "evaluate: {sources: [hiss, span]}\n", "'span' is a blend", "that it mixes"),
        (
            TEXT,
            BYTES + "evaluate: {sources: [hiss, code]}\n",
            "the text source 'code' holds nothing out",
            "add `holdout: {share: 0.02, by: document}`",
        ),
    ],
)
def test_what_can_be_evaluated(
    tmp_path: Path, sources: str, rest: str, what: str, remedy: str
) -> None:
    text = curriculum(stage("{hiss: 1}"), sources, rest)
    refused(tmp_path, text, "evaluate.sources.1", what, remedy)


# -- draw ---------------------------------------------------------------------------------------


def test_draws_of_what_a_stage_mixes(tmp_path: Path) -> None:
    found = load(tmp_path, curriculum(two(", draw: {rich: replay}", "{span: 1}"), SPAN))
    assert found.stages[1].draw == {"rich": "replay"}
    load(tmp_path, curriculum(stage("{hiss: 1}", more=", draw: {hiss: new}")))


@pytest.mark.parametrize(
    ("stages", "path", "what", "remedy"),
    [
        (two(", draw: {his: replay}"), "one.draw.his", "does not draw from 'his'", "'hiss'?"),
        (two(", draw: {rich: replay}"), "one.draw.rich", "does not draw from 'rich'", ": hiss"),
        (
            two(", draw: {span: replay}", "{span: 1}"),
            "one.draw.span",
            "'span' is a blend",
            "that it mixes",
        ),
        (
            stage("{hiss: 1}", more=", draw: {hiss: replay}"),
            "one.draw.hiss",
            "nothing was drawn before the first stage",
            "remove it",
        ),
    ],
)
def test_draws_that_cannot_be(
    tmp_path: Path, stages: str, path: str, what: str, remedy: str
) -> None:
    refused(tmp_path, curriculum(stages, SPAN), f"stages.{path}", what, remedy)


# -- until --------------------------------------------------------------------------------------


def until(conditions: str) -> str:
    return stage("{hiss: 1}", more=f", until: {conditions}")


def test_conditions_on_what_is_evaluated(tmp_path: Path) -> None:
    conditions = "{loss/simple: {below: 2}, perplexity/hiss: {below: 9}}"
    (found,) = load(tmp_path, curriculum(until(conditions), rest=EVALUATED)).stages
    assert found.until is not None
    assert [c.key for c in found.until.conditions] == ["loss/simple", "perplexity/hiss"]
    rest = BYTES + "evaluate: {sources: [code]}\n"
    load(tmp_path, curriculum(until("{bits_per_byte/code: {below: 2}}"), HELD_OUT, rest))


@pytest.mark.parametrize(
    ("condition", "what", "remedy"),
    [
        ("loss/simpel", "'simpel' is not evaluated", "did you mean 'simple'?"),
        ("loss/rich", "'rich' is not evaluated", "evaluate: {sources: [simple, hiss, rich]}"),
        ("bits_per_byte/hiss", "bits per byte are of text", "loss/hiss or perplexity/hiss"),
    ],
)
def test_conditions_that_never_hold(tmp_path: Path, condition: str, what: str, remedy: str) -> None:
    text = curriculum(until(f"{{{condition}: {{below: 2}}}}"), rest=EVALUATED)
    refused(tmp_path, text, f"stages.one.until.{condition}", what, remedy)


# -- epochs -------------------------------------------------------------------------------------


def test_epochs_of_the_one_finite_source(tmp_path: Path) -> None:
    for mixture in ("{code: 1}", "{code: 50%, hiss: 50%}", "{code: 1, span: 1}"):
        sources = TEXT + SPAN.removeprefix(SOURCES)
        (found,) = load(tmp_path, curriculum(stage(mixture, "10ep"), sources, BYTES)).stages
        assert str(found.duration) == "10ep"


@pytest.mark.parametrize(
    ("mixture", "what"),
    [
        ("{hiss: 1}", "no source of this mixture is finite"),
        ("{0%: {code: 1}, 100%: {code: 1, hiss: 1}}", "this one has keyframes"),
        ("{code: 1, more: 1}", "several are finite: code, more"),
        ("{code: 1, inner: 1}", "several are finite: code, more"),
        ("{inner: 1}", "'more' has no share of its own"),
        ("{code: 0, hiss: 1}", "'code' has no share of its own"),
    ],
)
def test_epochs_of_nothing_in_particular(tmp_path: Path, mixture: str, what: str) -> None:
    sources = TEXT + "  more: {kind: text, files: [b.txt]}\n" + blend("inner", "{more: 1}")
    text = curriculum(stage(mixture, "10ep"), sources, BYTES)
    refused(tmp_path, text, "stages.one.duration", what, "share of the budget")


# -- entering -----------------------------------------------------------------------------------


def test_spared_rows_by_kind_and_by_source(tmp_path: Path) -> None:
    sources = TEXT + "  noise: {kind: noise, symbols: 7}\n"
    enter = ", enter: {reinitialize: embeddings, spare: [nca, text, binary, noise]}"
    found = load(tmp_path, curriculum(two(enter), sources, BYTES))
    assert found.ranges_of("nca") == {"nca 10 states 2x2", "nca 2 states 2x2"}
    assert found.ranges_of("binary") == {"nca 2 states 2x2"}
    assert found.ranges_of("text") == {"text"}
    assert found.ranges_of("noise") == {"noise 7", "noise 100"}  # the kind, not the source
    assert found.ranges_of("dyck") == found.ranges_of("span") == set()


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("noize", "no source here is named 'noize' or of that kind", "did you mean 'noise'?"),
        ("dyck", "no source here is named 'dyck' or of that kind", "binary, hiss, nca, noise"),
        ("span", "'span' is a blend", "that it mixes"),
    ],
)
def test_rows_that_are_not_there(tmp_path: Path, name: str, what: str, remedy: str) -> None:
    text = curriculum(two(f", enter: {{spare: [nca, {name}]}}"), SPAN)
    refused(tmp_path, text, "stages.one.enter.spare.1", what, remedy)


def test_the_first_stage_has_no_rate_to_continue(tmp_path: Path) -> None:
    rate = ", optimizer: {lr: {start: continue}}"
    text = curriculum(stage("{hiss: 1}", more=rate))
    path = "stages.one.optimizer.lr.start"
    refused(tmp_path, text, path, "no stage comes before the first", "rises from zero")
    load(tmp_path, curriculum(two(rate)))


# -- faulty parts -------------------------------------------------------------------------------


def test_what_is_faulty_casts_no_doubt_on_what_refers_to_it(tmp_path: Path) -> None:
    sources = TEXT + (
        "  faulty: {kind: noise, symbols: 0}\n"
        "  nested: {kind: dyck}\n"
        "  b: {kind: blend, mixture: {faulty: 1, hiss: 1}}\n"
        "  worse: {kind: blend}\n"
    )
    stages = two(", draw: {rich: replay}, enter: {spare: [dyck, faulty]}", "{worse: 1}") + stage(
        "{b: 1}", "10ep", "two", ", until: {loss/none: {below: 1}}, draw: {none: new}"
    )
    text = curriculum(stages, sources, BYTES + "evaluate: {sources: [faulty], samples: 0}\n")
    assert [p.path for p in problems(load, tmp_path, text)] == [
        "evaluate.samples",
        "sources.faulty.symbols",
        "sources.nested.style",
        "sources.worse",
        "stages.two.draw.none",
    ]
