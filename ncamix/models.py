"""Models: what a trainer's `model` says, and what a plan knows of it.

    {kind: llama, layers, heads, width} -----------------------> sizes, meaning
    {kind: huggingface, path | config} -> its files (`located`) -> sizes, meaning

A Llama is built from sizes. Any other causal model of transformers comes from its config.json, with
its own weights or fresh ones.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag
from pydantic import model_validator as check

from ncamix.errors import nearest
from ncamix.model_files import ModelFiles, find_model
from ncamix.quantities import AboveZero, Positive, refuse
from ncamix.sources.base import Spec, plain


class Model(Spec):
    """What the plan asks of a model, whatever its kind."""

    kind: str

    if TYPE_CHECKING:

        @property
        def layers(self) -> int: ...
        @property
        def heads(self) -> int: ...
        @property
        def width(self) -> int: ...

    @property
    def title(self) -> str:
        """The architecture, in a word."""
        raise NotImplementedError

    @property
    def positions(self) -> int | None:
        """Tokens that a sequence may have; None for any number."""
        return None

    @property
    def files(self) -> ModelFiles | None:
        """The files of a model that comes from some."""
        return None

    @property
    def pretrained(self) -> bool:
        """Whether it begins with weights of its own."""
        return self.files is not None and self.files.content is not None

    def fresh(self) -> Self:
        """The same architecture, which begins with weights that are drawn."""
        return self

    def num_parameters(self, rows: int) -> int:
        """Trained numbers of the model with `rows` vocabulary rows."""
        raise NotImplementedError

    def meaning(self) -> Any:
        """What determines the model before its first batch, beside rows and seed: plain JSON."""
        raise NotImplementedError

    def located(self, folder: Path) -> Model:
        """The model with its files; relative paths start from `folder`.

        Raises:
            UserError: they cannot be had, or trained; the problem's path is the key.
        """
        raise NotImplementedError


class Llama(Model):
    """A Llama-style decoder. Widths in units, `mlp_width` is of the gated MLP."""

    kind: Annotated[Literal["llama"], Field(description="A Llama of the sizes given.")] = "llama"
    layers: Annotated[Positive, Field(description="Number of decoder layers.")]
    heads: Annotated[Positive, Field(description="Attention heads of a layer.")]
    kv_heads: Annotated[
        Positive | None,
        Field(description="Heads of keys and values: as many as `heads` by default."),
    ] = None
    width: Annotated[Positive, Field(description="Width of the hidden states.")]
    mlp_width: Annotated[
        Positive | None, Field(description="Width of the gated MLP: 4 x width by default.")
    ] = None
    rope_theta: Annotated[AboveZero, Field(description="Base of the rotary positions.")] = Fraction(
        10_000
    )
    tie_embeddings: Annotated[
        bool, Field(description="Whether the output head is the embedding.")
    ] = False

    attention: ClassVar[str] = "sdpa"
    dropout: ClassVar[float] = 0.0

    @check(mode="before")
    @classmethod
    def _from_files(cls, written: Any) -> Any:
        for key in ("path", "config"):
            if isinstance(written, dict) and key in written:
                raise refuse(
                    "a model of kind llama is built from sizes, and reads no files",
                    "write kind: huggingface, and leave layers, heads and width out",
                    (key,),
                )
        return written

    @check(mode="after")
    def _check(self) -> Llama:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise refuse(
                f"the width {self.width} does not split into {self.heads} heads of even size",
                "choose a width that is a multiple of 2 x heads",
            )
        if self.kv_heads and self.heads % self.kv_heads:
            raise refuse(
                "heads is not a multiple of kv_heads",
                "choose kv_heads that divides it",
                ("kv_heads",),
            )
        return self

    @property
    def title(self) -> str:
        return self.kind

    def num_parameters(self, rows: int) -> int:
        mlp = self.mlp_width or 4 * self.width
        kv = self.width * (self.kv_heads or self.heads) // self.heads
        layer = 2 * self.width**2 + 2 * self.width * kv + 3 * self.width * mlp + 2 * self.width
        return self.layers * layer + self.width + rows * self.width * (2 - self.tie_embeddings)

    def meaning(self) -> Any:
        return plain(self)

    def located(self, folder: Path) -> Model:
        return self


class HuggingFaceModel(Model):
    """A causal language model of transformers: with its weights (`path`), or its architecture alone
    (`config`)."""

    kind: Annotated[
        Literal["huggingface"], Field(description="Any causal language model of transformers.")
    ]
    path: Annotated[
        str | None,
        Field(description="A model's folder, or its hub id: architecture and weights."),
    ] = None
    config: Annotated[
        str | None,
        Field(description="A config.json, its folder or a hub id: the architecture alone."),
    ] = None
    revision: Annotated[
        str | None, Field(description="Branch, tag or commit of a model on the hub.")
    ] = None
    _files: ModelFiles | None = PrivateAttr(None)

    @check(mode="after")
    def _check(self) -> HuggingFaceModel:
        if (self.path is None) == (self.config is None):
            raise refuse(
                "a model of kind huggingface has either `path` or `config`",
                "write path: FOLDER or HUB ID for its weights, too, config: for fresh ones",
            )
        return self

    def located(self, folder: Path) -> HuggingFaceModel:
        name = self.path if self.path is not None else self.config
        assert name is not None
        found = self.model_copy()
        found._files = find_model(name, folder, self.revision, self.path is not None)
        return found

    def fresh(self) -> Self:
        found = self.model_copy()
        found._files = replace(self.files, content=None)
        return found

    @property
    def files(self) -> ModelFiles:
        assert self._files is not None, "trainers are loaded with their models located"
        return self._files

    @property
    def layers(self) -> int:
        return self.files.layers

    @property
    def heads(self) -> int:
        return self.files.heads

    @property
    def width(self) -> int:
        return self.files.width

    @property
    def positions(self) -> int | None:
        return self.files.positions

    @property
    def title(self) -> str:
        name = self.path if self.path is not None else self.config
        weights = "weights of" if self.pretrained else "fresh weights, config of"
        return f"{self.files.config['model_type']} ({weights} {name})"

    def num_parameters(self, rows: int) -> int:
        """Exact where the weights' headers tell, else about."""
        return self.files.fixed + rows * self.files.per_row

    def meaning(self) -> Any:
        return self.files.meaning()


MODELS: dict[str, type[Model]] = {"llama": Llama, "huggingface": HuggingFaceModel}


def _kind(written: Any) -> Any:
    return written.get("kind", "llama") if isinstance(written, dict) else written.kind


def _check_kind(written: Any) -> Any:
    if isinstance(written, Model):
        return written
    if not isinstance(written, dict):
        raise refuse("a model is a mapping of keys to values", "write {layers: 4, heads: 4, ...}")
    kind = _kind(written)
    if not isinstance(kind, str) or kind not in MODELS:
        raise refuse("not one of the choices", nearest(str(kind), MODELS, "choices"), ("kind",))
    return written


if TYPE_CHECKING:
    AnyModel = Llama | HuggingFaceModel
else:
    AnyModel = Annotated[
        Annotated[Llama, Tag("llama")] | Annotated[HuggingFaceModel, Tag("huggingface")],
        Discriminator(_kind),
        BeforeValidator(_check_kind),
    ]
