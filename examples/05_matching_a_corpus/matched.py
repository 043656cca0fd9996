"""From what `ncamix measure --json` found to a table, and to a curriculum for one of the corpora.

    measured.json           -> a row a corpus: gzip ratios with intervals, the bands nearest to it
    measured.json, a corpus -> a curriculum: automata of the nearest band, then the corpus

Usage: python matched.py results/measured.json [CORPUS]
"""

import json
import sys
from pathlib import Path
from typing import Any

CURRICULUM = """\
# Automata whose frames compress like {name}, then {name}.
# Windows of 360 tokens gzip to {mean:.3f} ({low:.3f} to {high:.3f}, 95%); scores of this band lie
# {distance:.3f} away (earth mover's distance). As near within chance:
# {others}.
ncamix: 1
name: matched
seed: 17
tokenizer: {{bpe: 4096, train_on: [corpus]}}

sources:
  matched: {source}
  corpus:  {{kind: text, files: [{files}], holdout: {{share: 0.02}}}}

stages:
  - name: automata
    duration: 15%
    mixture: {{matched: 1}}
    optimizer: {{lr: {{peak: 0.2x, warmup: 10%, decay: cosine}}}}
  - name: corpus
    duration: rest
    enter: {{reinitialize: [embeddings]}}
    mixture: {{corpus: 1}}

evaluate: {{sources: [corpus, matched]}}
"""


def ratio(found: dict[str, Any]) -> str:
    """A value with its interval of 95%, where there is one."""
    if found["interval"] is None:
        return f"{found['value']:.3f}"
    return "{:.3f} ({:.3f} to {:.3f})".format(found["value"], *found["interval"])


def band(near: dict[str, Any]) -> str:
    low, high = near["band"]
    return f"{near['alphabet']} states, {low:g} to {high:g}"


def as_near(corpus: dict[str, Any]) -> list[str]:
    """The bands that cannot be told from the nearest one."""
    return [band(near) for near in corpus["nearest"][1:] if near["as_near"]]


def table(measured: dict[str, Any]) -> str:
    lines = [
        "| corpus | raw text, 4,096 bytes | 360 tokens | nearest band | as near |",
        "|---|---|---|---|---|",
    ]
    for corpus in measured["corpora"]:
        raw = next(row for row in corpus["raw_gzip"] if row["window_bytes"] == 4096)
        cells = [
            f"`{corpus['name']}`",
            ratio(raw),
            ratio(corpus["token_gzip"]),
            band(corpus["nearest"][0]),
            "; ".join(as_near(corpus)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curriculum(measured: dict[str, Any], name: str) -> str:
    """A curriculum for a corpus by its name, as YAML."""
    corpus = next(corpus for corpus in measured["corpora"] if corpus["name"] == name)
    nearest, tokens = corpus["nearest"][0], corpus["token_gzip"]
    low, high = tokens["interval"] or (tokens["value"],) * 2
    return CURRICULUM.format(
        name=name,
        mean=tokens["value"],
        low=low,
        high=high,
        distance=nearest["distance"],
        others="; ".join(as_near(corpus)) or "none",
        source=nearest["source"],
        files=name if name == "python-stdlib" else json.dumps(name),
    )


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text())
    print(curriculum(measured, sys.argv[2]).rstrip() if sys.argv[2:] else table(measured))
