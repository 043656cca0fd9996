"""What is evaluated: an exported model, and where its results belong.

RUN        -> its export of that stage, made if it is missing -> RUN/evaluations/STAGE
EXPORT_DIR -> as it is                                        -> evaluations/STAGE beside it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ncamix.compilation.compiled import Data
from ncamix.errors import fail
from ncamix.export import WHOLE
from ncamix.exporting import export_run, find_export
from ncamix.hashing import file_hashes
from ncamix.hub_folder import read_mark
from ncamix.keys import fingerprint
from ncamix.waiting import Say, quiet


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    model: the folder that transformers loads. stage: that it was exported after; of a model that
    ncamix did not export, the folder's name. results: where what is found is written. digest: of
    the model's files.
    """

    model: Path
    stage: str
    results: Path
    digest: str


def find_subject(
    place: Path, stage: str | None, out: Path | None, data: Data | None = None, say: Say = quiet
) -> Subject:
    """The model that is meant by a run's folder or an export's, exported first where need be.

    Raises:
        UserError: it is neither, or cannot be exported, or has rows beyond the text's.
    """
    if (place / "config.json").is_file():
        if stage is not None:
            raise fail(f"{place} is one model", "leave --stage out, or name the run's folder")
        mark = read_mark(place) or {}
        if mark.get("vocabulary") == WHOLE:
            raise fail(
                f"the model in {place} has rows beyond those of text, which would take part in "
                "every probability",
                "name the run's folder, or export it with --vocabulary text",
            )
        name, model = str(mark.get("stage", place.resolve().name)), place
        results = place.resolve().parent / "evaluations" / name
    else:
        name, model = find_export(place, stage) or export_run(place, stage, "text", None, data, say)
        results = place / "evaluations" / name
    say("reading the model's files", 0.0)
    files = sorted(p for p in model.resolve().iterdir() if p.suffix in (".safetensors", ".json"))
    digests = {p.name: h.digest.hex() for p, h in zip(files, file_hashes(files), strict=True)}
    digests.pop("export.json", None)  # versions stand there, too
    return Subject(model, name, out or results, fingerprint(digests))
