"""Reading YAML: exact scalars, positions, and everything that is refused."""

from __future__ import annotations

import contextlib
import warnings
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from plan_files import curriculum, problem, stage

from ncamix.errors import UserError
from ncamix.loading import load_curriculum
from ncamix.reading import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Document,
    Tree,
    parse_document,
    read_document,
)

FIRST = "ncamix: 1\n"


def parse(text: str) -> Document:
    return parse_document(text, "x.yaml")


def values(text: str) -> object:
    return parse(f"{FIRST}a: [{text}]\n").tree.plain()["a"]


def test_numbers_are_exact() -> None:
    read = values("1e-4, 1E-4, 0.30, .5, 1., -2.5E+3, 7, +5, 007, -0")
    assert read == [
        Decimal("0.0001"),
        Decimal("0.0001"),
        Decimal("0.3"),
        Decimal("0.5"),
        Decimal(1),
        Decimal(-2500),
        7,
        5,
        7,
        0,
    ]
    assert not any(isinstance(value, float) for value in read)


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "12:30",
        "2024-01-01",
        "0x1F",
        "0o17",
        "1_000",
        "1e-4x",
        "1:30",
        "0..11",
        ".inf",
        ".nan",
        "15%",
        "1.2.3",
    ],
)
def test_what_yaml_1_1_took_for_other_things_is_text(text: str) -> None:
    assert values(text) == [text]


def test_words_and_quotes() -> None:
    assert values('true, False, null, ~, "1e-4", \'true\', "null"') == [
        True,
        False,
        None,
        None,
        "1e-4",
        "true",
        "null",
    ]


def test_numbers_of_absurd_size_stay_text() -> None:
    long = "0." + "3" * 60
    assert values(f"1e999999999, {'9' * 60}, {long}") == ["1e999999999", "9" * 60, long]


def test_positions_and_paths() -> None:
    document = parse(FIRST + "stages:\n  - name: one\n    mixture: {code: 1}\n")
    found = document.problem(("stages", 0, "mixture", "code"), "what", "way out")
    assert (found.line, found.column, found.value) == (4, 21, "1")
    assert found.path == "stages.one.mixture.code"
    missing = document.problem(("stages", 0, "duration"), "missing")
    assert (missing.line, missing.path) == (3, "stages.one.duration")
    assert str(found) == (
        "x.yaml:4:21: stages.one.mixture.code: what\n"
        "    mixture: {code: 1}\n"
        "              ^^^^^^^\n"
        "    way out"
    )
    assert missing.excerpt == "- name: one\n  ^"


def test_a_block_is_located_by_its_key() -> None:
    document = parse(FIRST + "stages:\n  - one:\n      two: 3\nb:\n  c: 1\nb: 2\n")
    found = document.problem(("stages", 0, "one"), "what")
    assert (found.line, found.column, found.value) == (3, 5, "")
    assert found.excerpt == "- one:\n  ^^^"
    assert "first on line 5" in document.problems[0].what
    assert document.problems[0].excerpt == "b: 2\n^"


def test_duplicate_keys_name_both_lines_and_leave_the_rest_readable() -> None:
    document = parse(FIRST + 'a: 1\nb: {c: 1, c: 2}\n"a": 3\n')
    inner, outer = document.problems
    assert (inner.line, inner.column, inner.path) == (3, 11, "b")
    assert "'c' stands twice (first on line 3)" in inner.what
    assert (outer.line, outer.column) == (4, 1)
    assert "'a' stands twice (first on line 2)" in outer.what


def test_aliases_are_expanded_and_anchors_may_be_set_anew() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = parse(FIRST + "a: &x [1, 2]\nb: *x\nc: &x 3\nd: *x\n").tree.plain()
    assert read == {"ncamix": 1, "a": [1, 2], "b": [1, 2], "c": 3, "d": 3}


def test_a_repeated_keyframe_names_both_lines() -> None:
    text = "mixture:\n  0%: {a: 1}\n  60%: {b: 1}\n  60%: {c: 1}\n"
    (found,) = parse(FIRST + text).problems
    assert (found.line, found.column, found.path) == (5, 3, "mixture")
    assert found.what == "the key '60%' stands twice (first on line 4)"
    assert found.excerpt == "60%: {c: 1}\n^^^"


def test_what_stands_at_the_root_has_its_first_character_marked() -> None:
    found = parse(FIRST + "a: |\n  b\n  c\n").problem(("a",), "what")
    assert (found.line, found.value, found.excerpt) == (2, "b\nc\n", "a: |\n^^^^")
    assert "value:" not in str(found)


def test_alias_bombs_are_refused() -> None:
    bomb = FIRST + "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n"
    found = problem(parse, bomb)
    assert f"more than {MAX_NODES:,} values" in found.what
    assert found.line > 1
    assert reads_counted(bomb) < 2 * MAX_NODES


def reads_counted(text: str) -> int:
    """How many values the reader made of a text before it was done, or gave up."""
    made = 0

    def count(*args: object, **named: object) -> Tree:
        nonlocal made
        made += 1
        return Tree(*args, **named)  # type: ignore[arg-type]

    with mock.patch("ncamix.reading.Tree", count), contextlib.suppress(UserError):
        parse(text)
    return made


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: {c: *a}}\n"])
def test_aliases_that_contain_themselves_are_refused(text: str) -> None:
    found = problem(parse, FIRST + text)
    assert "contains itself" in found.what
    assert found.line == 2


@pytest.mark.parametrize("depth", [60, 90_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    found = problem(parse, FIRST + "a: " + "[" * depth + "]" * depth)
    assert (found.line, found.column) == (2, 4 + MAX_DEPTH)
    assert found.what == f"values are nested more than {MAX_DEPTH} deep"
    assert len(str(found)) < 500


def test_deep_nesting_by_indentation_and_by_aliases_is_refused() -> None:
    found = problem(parse, FIRST + "".join(f"{' ' * i}a:\n" for i in range(400)))
    assert (found.line, found.column) == (2 + MAX_DEPTH, 1 + MAX_DEPTH)
    half = "[" * (MAX_DEPTH // 2)
    aliased = f"a: &a {half}1{half.replace('[', ']')}\nb: [{half}*a{half.replace('[', ']')}]\n"
    assert problem(parse, FIRST + aliased).what == found.what


def test_ways_out_of_broken_yaml() -> None:
    assert problem(parse, FIRST + "a:\n\tb: 1\n").remedy == "indent with spaces, not tabs"
    assert "`: `" in problem(parse, FIRST + "a: b: c\n").remedy
    assert "begins with `*`" in problem(parse, FIRST + "files: *.txt\n").remedy
    assert "one document" in problem(parse, FIRST + "---\na: 1\n").remedy


def test_merge_keys_complex_keys_and_tags_are_refused() -> None:
    text = "a: &a {x: 1}\nb: {<<: *a}\n? [c, d]\n: 1\ne: !!str 1\nf: &g !foo {x: 1}\ng: '!'\n"
    found = parse(FIRST + text).problems
    assert [(p.line, p.what.split(" (")[0]) for p in found] == [
        (3, "merge keys"),
        (4, "a key must be plain text"),
        (6, "tags"),
        (7, "tags"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a:\n\tb: 1\n", 3, "cannot start any token"),
        ("a: [1, 2\n", 3, "expected ',' or ']', but got '<stream end>' (begun on line 2)"),
        ("a: b: c\n", 2, "mapping values are not allowed here"),
        ("a: 1\n  b: 2\n", 3, "mapping values are not allowed here"),
        ("a: *zz\n", 2, "undefined alias"),
        ("---\na: 1\n", 2, "single document"),
        ("...\na: 1\n", 3, "single document"),
        ("%YAML 1.2\n", 3, "expected '<document start>'"),
        ("a: 'x\n", 3, "found unexpected end of stream (begun on line 2)"),
        ("a: @x\n", 2, "cannot start any token"),
        ("a: x\0\n", 2, "U+0000"),
    ],
)
def test_broken_yaml_names_its_line(text: str, line: int, what: str) -> None:
    found = problem(parse, FIRST + text)
    assert found.line == line
    assert found.what.startswith("not valid YAML")
    assert what in found.what
    assert found.remedy


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("# only a remark\n", "the file is empty"),
        ("hello\n", "not a mapping"),
        ("- 1\n", "not a mapping"),
        ("name: a\n", "the language version is missing"),
        ("name: a\nncamix: 1\n", "not the first key"),
        ("ncamix: 2\n", "unknown language version"),
        ('ncamix: "1"\n', "unknown language version"),
        ("ncamix: true\n", "unknown language version"),
        ("ncamix:\n", "unknown language version"),
        ("ncamix: [1]\n", "unknown language version"),
    ],
)
def test_the_language_version_comes_first(text: str, what: str) -> None:
    found = problem(parse, text)
    assert what in found.what
    assert "`ncamix: 1`" in found.remedy


def test_old_directives_change_no_meaning() -> None:
    assert parse("%YAML 1.1\n---\n" + FIRST + "a: [on, 0o7, 1:30]\n...\n").tree.plain() == {
        "ncamix": 1,
        "a": ["on", "0o7", "1:30"],
    }
    assert "incompatible" in problem(parse, "%YAML 2.0\n---\n" + FIRST).what


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path, end: str) -> None:
    file = tmp_path / "c.yaml"
    written = f"\ufeffncamix: 1{end}a: on{end}b: c{end}".encode()
    file.write_bytes(written)
    document = read_document(file)
    assert document.tree.plain() == {"ncamix": 1, "a": "on", "b": "c"}
    assert document.text.encode() == written
    found = document.problem(("b",), "what")
    assert (found.line, found.column, found.excerpt) == (3, 4, "b: c\n^^^^")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert problem(read_document, tmp_path / "none.yaml").what == "no such file"
    assert "cannot be read" in problem(read_document, tmp_path).what
    file = tmp_path / "c.yaml"
    file.write_bytes(b"ncamix: 1\nname: caf\xe9\n")
    found = problem(read_document, file)
    assert (found.line, found.remedy) == (2, "save the file as UTF-8")
    assert "0xe9" in found.what
    file.write_text(FIRST, encoding="utf-16")
    assert "not UTF-8 text (byte 0xff)" in problem(read_document, file).what
    file.write_text(FIRST + "#" * MAX_BYTES)
    assert "larger than" in problem(read_document, file).what


@pytest.mark.parametrize(
    ("written", "path", "what"),
    [
        ("alphabet: 1_0", "sources.a.alphabet", "not a number"),
        ("alphabet: 0x10", "sources.a.alphabet", "not a number"),
        ("alphabet: 0o7", "sources.a.alphabet", "not a number"),
        ("alphabet: '10'", "sources.a.alphabet", "not a number"),
        ("alphabet: on", "sources.a.alphabet", "not a number"),
        ("alphabet: 1:30", "sources.a.alphabet", "not a number"),
        ("alphabet: 2024-01-01", "sources.a.alphabet", "not a number"),
        ("alphabet: 12,000", "sources.a.000", "unknown key '000'"),
        ("alphabet: 4, temperature: 1e-4x", "sources.a.temperature", "not a number"),
        ("alphabet: 4, temperature: .inf", "sources.a.temperature", "not a number"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_shown_where_it_stands(
    tmp_path: Path, written: str, path: str, what: str
) -> None:
    file = tmp_path / "c.yaml"
    source = f"  a: {{kind: nca, band: {{gzip: [0.1, 0.3]}}, {written}}}\n"
    file.write_text(curriculum(stage("{a: 1}"), source))
    found = problem(load_curriculum, file)
    assert (found.path, found.line) == (path, 4)
    assert what in found.what
    assert written.split(", ")[-1].split(",")[-1] in str(found)


def test_every_problem_names_the_file() -> None:
    with pytest.raises(UserError, match=r"^x\.yaml:1:9: ncamix: unknown language version"):
        parse("ncamix: 2\n")
