"""Completions: drawn from the right distribution, each by a stream of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finished_runs import finished_run
from hypothesis import given
from hypothesis import strategies as st

from ncamix.evals.sampling import Sampler, Sampling, _Drawn, cut_at_stop
from ncamix.exporting import export_run

SAMPLING = Sampling(temperature=1.0, top_p=0.95, seed=3, longest=20, stops=("\n",))


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("sampled")
        patch.setenv("NCAMIX_CACHE", str(folder / "cache"))
        run, _ = finished_run(folder)
        return Sampler(export_run(run, None, None, None, None)[1], "cpu")


def test_a_sample_does_not_depend_on_those_beside_it(sampler: Sampler) -> None:
    together = sampler.complete("a", "def f(", range(6), SAMPLING)
    assert len(set(together)) > 1
    assert sampler.complete("a", "def f(", [4], SAMPLING) == [together[4]]
    assert sampler.complete("a", "def f(", [5, 0], SAMPLING) == [together[5], together[0]]
    assert sampler.complete("b", "def f(", range(6), SAMPLING) != together
    other = Sampling(**{**vars(SAMPLING), "seed": 4})
    assert sampler.complete("a", "def f(", range(6), other) != together


def test_completions_end_at_stops_and_are_no_longer_than_asked(sampler: Sampler) -> None:
    free = Sampling(**{**vars(SAMPLING), "stops": ()})
    texts = sampler.complete("a", "x = ", range(20), free)
    stop = max(set("".join(texts)) - {"\ufffd"}, key="".join(texts).count)
    stopped = sampler.complete("a", "x = ", range(20), Sampling(**{**vars(free), "stops": (stop,)}))
    assert stopped == [cut_at_stop(text, (stop,)) for text in texts]
    assert any(text != cut for text, cut in zip(texts, stopped, strict=True))
    brief = sampler.complete("a", "x = ", [0], Sampling(**{**vars(free), "longest": 2}))
    assert texts[0].startswith(brief[0].rstrip("\ufffd"))


def test_a_prompt_that_is_too_long_loses_its_beginning(sampler: Sampler) -> None:
    long = Sampling(**{**vars(SAMPLING), "longest": 500})
    assert sampler.room(long) == (32, 32)
    assert sampler.is_cut("x" * 33, long) and not sampler.is_cut("x" * 32, long)
    ends = sampler.complete("a", "y" * 99 + "x" * 32, [0], long)
    assert ends == sampler.complete("a", "x" * 32, [0], long)


def test_without_temperature_it_is_the_likeliest(sampler: Sampler) -> None:
    cold = Sampling(**{**vars(SAMPLING), "temperature": 0.0, "stops": ()})
    one, two = sampler.complete("a", "def", [0, 1], cold)
    ids = sampler.tokenizer("def", return_tensors="pt").input_ids
    with torch.no_grad():
        likeliest = sampler.model(ids).logits[0, -1].argmax()
    assert one == two and one.startswith(sampler.tokenizer.decode(likeliest))


def test_tokens_are_drawn_as_their_probabilities_say() -> None:
    num = 20_000
    scores = torch.tensor([2.0, -torch.inf, 0.0, 1.0, -torch.inf]).expand(num, -1)
    drawn = _Drawn(list(range(num)), 3, prompt=1)
    for step in range(3):
        chosen = drawn(torch.zeros(num, 1 + step, dtype=torch.int64), scores).argmax(-1)
        shares = np.bincount(chosen, minlength=5) / num
        expected = torch.softmax(scores[0], 0).numpy()
        assert shares[1] == shares[4] == 0
        np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / num**0.5)


def test_the_last_numbers_still_fall_on_a_token() -> None:
    drawn = _Drawn([1, 2], 1, prompt=1)
    drawn.uniforms = np.array([[0.0], [np.nextafter(1, 0)]])
    scores = torch.tensor([[-torch.inf, 0.1, 0.2, -torch.inf]]).expand(2, -1)
    assert drawn(torch.zeros(2, 1, dtype=torch.int64), scores).argmax(-1).tolist() == [2, 1]


@given(
    st.text("ab\n#", max_size=30), st.lists(st.text("ab\n#", min_size=1, max_size=3), max_size=4)
)
def test_a_text_is_cut_where_the_first_stop_begins(text: str, stops: list[str]) -> None:
    cut = cut_at_stop(text, stops)
    assert text.startswith(cut) and not any(stop in cut for stop in stops)
    assert cut == text or any(text[len(cut) :].startswith(stop) for stop in stops)
