"""Pages of help: the language page, whole or a section at a time."""

from __future__ import annotations

from plan_files import problem

from ncamix.handbook import find_page, topics


def test_a_topic_is_the_page_or_a_section_of_it() -> None:
    page = find_page("language")
    assert page.startswith("# The ncamix language\n")
    assert list(topics())[0] == "language"
    for name, text in list(topics().items())[1:]:
        assert text.lower().startswith(f"## {name}\n")
        assert text in page


def test_parts_of_sections_are_found_by_their_titles() -> None:
    assert find_page("Muon").startswith("### Muon\n")
    assert find_page("loggers").startswith("### Loggers\n")
    assert "### Loggers" not in find_page("models of").removeprefix("### Models")


def test_topics_may_be_shortened() -> None:
    assert find_page("sched") == find_page("Schedules")
    found = problem(find_page, "schedlues")
    assert found.what == "no such topic: 'schedlues'"
    assert "did you mean 'schedules'?" in found.remedy
    several = problem(find_page, "st").remedy
    assert several == "topics: stages that end on evidence, studies"
