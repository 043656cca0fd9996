"""Loggers: who else is told of a run while it trains. The grammar of a trainer's `loggers`.

    loggers: {tensorboard: {}, wandb: {project: x}, mlflow: {experiment: x}}

A key switches its logger on. `metrics.jsonl` and its like are always written, and the console told.
No batch depends on any of this.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from ncamix.errors import UserError
from ncamix.reading import Document
from ncamix.sources.base import Spec

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Tensorboard(Spec):
    """Event files for TensorBoard."""

    folder: Annotated[
        str | None,
        Field(
            description="Where event files go, into a folder by the curriculum's name; "
            "by default loggers/tensorboard of the run folder."
        ),
    ] = None


class Wandb(Spec):
    """A run of Weights & Biases."""

    project: Annotated[str, Field(description="The project.")] = "ncamix"
    entity: Annotated[str | None, Field(description="The user or team; by default yours.")] = None
    group: Annotated[str | None, Field(description="A group of runs.")] = None
    name: Annotated[
        str | None, Field(description="The run's name; by default the curriculum's.")
    ] = None
    tags: Annotated[tuple[str, ...], Field(description="Tags of the run.")] = ()
    mode: Annotated[
        Literal["online", "offline"],
        Field(description="offline: into the run folder alone, for `wandb sync`."),
    ] = "online"


class Mlflow(Spec):
    """A run of MLflow."""

    experiment: Annotated[str, Field(description="The experiment.")] = "ncamix"
    tracking_uri: Annotated[
        str | None,
        Field(
            description="A server's address or a folder; by default what MLflow's own settings say."
        ),
    ] = None
    name: Annotated[
        str | None, Field(description="The run's name; by default the curriculum's.")
    ] = None
    tags: Annotated[dict[str, str], Field(description="Tags of the run, and their values.")] = {}


class Loggers(Spec):
    """Loggers that are switched on."""

    tensorboard: Annotated[Tensorboard | None, Field(description="Log to TensorBoard.")] = None
    wandb: Annotated[Wandb | None, Field(description="Log to Weights & Biases.")] = None
    mlflow: Annotated[Mlflow | None, Field(description="Log to MLflow.")] = None

    def wanted(self) -> dict[str, dict[str, Any]]:
        """What is switched on, as plain values, by name."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v is not None}


def check_packages(loggers: Loggers, document: Document) -> None:
    """Raise UserError for every logger whose package is not installed."""
    problems = [
        document.problem(
            ("loggers", name),
            f"the package {PACKAGES[name]} is not installed",
            f"pip install 'ncamix[{name}]', or remove the key",
        )
        for name in loggers.wanted()
        if find_spec(PACKAGES[name]) is None
    ]
    if problems:
        raise UserError(problems)
