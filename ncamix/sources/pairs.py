"""Source kind `pairs`: prompts and responses, from JSON lines, Parquet or the Hugging Face hub.

A pair becomes one text by its template; the loss is on the response and on its end of text alone.
Packing pairs into samples is the compiler's work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix.formats import format_of
from ncamix.quantities import refuse
from ncamix.sources.base import Meaning
from ncamix.sources.corpus import CorpusFile, CorpusSource, Misfit

PLACES = ("{prompt}", "{response}")
PLAIN = "{prompt}\n{response}"


def _template(written: Any) -> str:
    way_out = 'write "{prompt}\\n{response}"'
    if not isinstance(written, str):
        raise refuse("a template is text", way_out)
    for place in PLACES:
        if written.count(place) != 1:
            raise refuse(f"the template does not hold {place} once", way_out)
    rest = re.sub("|".join(map(re.escape, PLACES)), "", written)
    found = re.search(r"\{[^{}]*\}|[{}]", rest)
    if found:
        raise refuse(
            f"the template holds '{found[0]}'; only {' and '.join(PLACES)} may stand in braces",
            way_out,
        )
    return written


class PairsSource(CorpusSource):
    """YAML keys of `kind: pairs`: `files` with columns or `hub`, and how a pair becomes text."""

    version: ClassVar[int] = 1
    column_keys: ClassVar[tuple[str, ...]] = ("prompt", "response")

    kind: Literal["pairs"] = Field(description="Prompts and responses; loss on the response alone.")
    prompt: str = Field(description="The column, or key of a JSON line, that holds the prompt.")
    response: str = Field(description="The column, or key of a JSON line, that holds the response.")
    template: Annotated[
        str,
        PlainValidator(_template),
        WithJsonSchema(
            {"type": "string", "allOf": [{"pattern": re.escape(place)} for place in PLACES]}
        ),
    ] = Field(PLAIN, description="The text of a pair, which holds {prompt} and {response}.")
    pack: Literal["isolated", "padded"] = Field(
        "isolated",
        description="isolated: pairs share a sample and do not see each other; padded: one each.",
    )
    too_long: Literal["refuse", "truncate"] = Field(
        "refuse", description="What becomes of a pair that is longer than a sample."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt == self.response:
            raise refuse(
                f"the column '{self.prompt}' is both prompt and response",
                "name the column that holds the responses",
                ("response",),
            )
        return self

    def misfits(self, files: Sequence[CorpusFile]) -> Iterator[Misfit]:
        rowless = next((file for file in files if not format_of(file.name).has_rows), None)
        if rowless is not None:
            what = f"pairs are rows, and '{rowless.name}' has none, by its suffix"
            yield ("files",), what, "name files of JSON lines (.jsonl, .jsonl.gz, ...) or Parquet"

    def attends_within_documents(self) -> bool:
        return self.pack == "isolated"

    def own_meaning(self) -> Meaning:
        """Everything but the pairs themselves, whose hash the plan adds."""
        return {
            **self.document_meaning(),
            "template": self.template,
            "pack": self.pack,
            "too_long": self.too_long,
        }
