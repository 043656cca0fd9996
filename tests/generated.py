"""Curricula drawn at random, of every key that a plan decides by, and mutations of YAML files.

All randomness comes from a `random.Random` that the caller seeds.
"""

from __future__ import annotations

from random import Random

SOURCES = {
    "simple": "{kind: nca, alphabet: 10, band: {gzip: [0.30, 0.40]}}",
    "rich": "{kind: nca, alphabet: 10, band: {gzip: [0.50, 1.00]}}",
    "binary": "{kind: nca, alphabet: 2, band: {gzip: [0.10, 0.30]}}",
    "hiss": "{kind: noise, symbols: 100}",
    "nested": "{kind: dyck, style: nested, symbols: 30, depth: 16}",
}
TRAINER = """\
ncamix: 1
name: small
model: {{kind: llama, layers: 4, heads: 2, width: 8}}
sequence_length: 64
batch_size: {batch_size}
budget: {budget}tok
optimizer: {{lr: 1e-3}}
"""
GROUPS = ("embeddings", "embedding", "{attention: 0..1}", "{mlp: 3}", "norms", "final_norm")


def trainer(random: Random) -> str:
    """A trainer of 50 to 200 batches."""
    size = random.choice((4, 6, 8, 12))
    return TRAINER.format(batch_size=size, budget=64 * size * random.randint(50, 200))


def curriculum(random: Random) -> str:
    """A curriculum that can be planned under `trainer`, but for what only planning can tell."""
    leaves = random.sample(sorted(SOURCES), random.randint(1, 4))
    sources = [f"  {name}: {SOURCES[name]}" for name in leaves]
    names = list(leaves)
    if len(leaves) > 1 and random.random() < 0.5:
        clock = random.choice(("stage", "run", "self"))
        mixture = _keyframes(random, leaves, "mix", units=("%",))
        sources.append(f"  span: {{kind: blend, clock: {clock}, mixture: {mixture}}}")
        names.append("span")
        if random.random() < 0.3:
            mixture = f"{{span: 1, {leaves[0]}: {random.randint(0, 3)}}}"
            sources.append(f"  outer: {{kind: blend, mixture: {mixture}}}")
            names.append("outer")
    num_stages = random.randint(1, 3)
    stages, drawn = [], set[str]()
    for i in range(num_stages):
        last = i == num_stages - 1
        share = 100 // num_stages
        duration = "rest" if last else random.choice((f"{share}%", "20ba", "7680tok"))
        keys = {"name": f"s{i}", "duration": duration}
        mixed = random.sample(names, random.randint(1, len(names)))
        keys["mixture"] = _keyframes(random, mixed, "mix")
        if random.random() < 0.25 and "ba" not in keys["mixture"]:
            keys["cycle"] = random.choice(("10ba", "33%", "5ba", "7.5ba"))
        if random.random() < 0.25:
            keys["transform"] = random.choice(("reverse", "flatten"))
        if random.random() < 0.2:
            keys["batch_size"] = str(random.choice((4, 8, 16)))
        if random.random() < 0.2:
            keys["sequence_length"] = str(random.choice((32, 64, 128)))
        again = [n for n in mixed if n in drawn]
        if again and random.random() < 0.5:
            keys["draw"] = f"{{{again[0]}: replay}}"
        drawn |= {n for n in mixed if n in SOURCES} - set(again)
        if random.random() < 0.5:
            keys["optimizer"] = f"{{lr: {_rate(random, first=i == 0)}}}"
        if i and random.random() < 0.5:
            keys["enter"] = _enter(random)
        if random.random() < 0.2:
            keys["until"] = f"{{loss/{leaves[0]}: {{below: 2.0}}}}"
        stages.append("  - {" + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}")
    every = random.choice(("10%", "30ba", "3ktok"))
    return "\n".join(
        [
            "ncamix: 1",
            "name: drawn",
            f"seed: {random.choice(('17', '{init: 1, order: 2, rules: 3}'))}",
            "sources:",
            *sources,
            "stages:",
            *stages,
            f"evaluate: {{every: {every}, sources: [{leaves[0]}]}}",
            "",
        ]
    )


def _weights(random: Random, names: list[str]) -> str:
    """A mixture of some of `names`, in bare weights or in percent."""
    chosen = random.sample(names, random.randint(1, len(names)))
    if random.random() < 0.3:
        cuts = sorted(random.sample(range(1, 100), len(chosen) - 1))
        shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        return "{" + ", ".join(f"{n}: {s}%" for n, s in zip(chosen, shares, strict=True)) + "}"
    weights = [random.choice(("1", "2", "0.5", "1e-3", "1e-9", "0")) for _ in chosen]
    weights[0] = "1"
    return "{" + ", ".join(f"{n}: {w}" for n, w in zip(chosen, weights, strict=True)) + "}"


def _keyframes(
    random: Random, names: list[str], key: str, units: tuple[str, ...] = ("%", "%", "ba")
) -> str:
    """A mixture schedule in one of its forms."""
    form = random.choice(("constant", "short", "full"))
    if form == "constant":
        return _weights(random, names)
    if random.choice(units) == "%":
        at = sorted(random.sample(range(101), random.randint(1, 4)))
        places = [f"{x}%" for x in at]
        if random.random() < 0.3 and at[-1] < 90:
            places.append("-3%")
    else:
        places = ["0ba", f"{random.randint(1, 9)}ba", "-2ba"][: random.randint(1, 3)]
    if form == "short":
        return "{" + ", ".join(f"{x}: {_weights(random, names)}" for x in places) + "}"
    eases = ("linear", "cosine", "step")
    frames = [
        f"{{at: {x}, {key}: {_weights(random, names)}, ease: {random.choice(eases)}}}"
        for x in places
    ]
    return "[" + ", ".join(frames) + "]"


def _rate(random: Random, first: bool) -> str:
    forms = ["3e-4", "0.2x", "{peak: 0.5x, warmup: 10%, decay: cosine}", "{0%: 1x, 100%: 0.1x}"]
    forms += ["{peak: 1x, warmup: 2ba, decay: linear, floor: 0.1x}", "{decay: inverse_sqrt}"]
    if not first:
        forms += ["{start: continue}", "{start: continue, decay: cosine}"]
        forms += ["{start: continue, peak: 1x, warmup: 20%}"]
    return random.choice(forms)


def _enter(random: Random) -> str:
    keys = []
    groups = ", ".join(random.sample(GROUPS, random.randint(1, 3)))
    keys.append(f"{random.choice(('reinitialize', 'keep_only'))}: [{groups}]")
    if random.random() < 0.3:
        keys.append(f"initializer: {random.choice(('model', 'torch', '{normal: 0.02}'))}")
    if random.random() < 0.3:
        keys.append("freeze: {attention: {layers: 0..2, until: 20%}}")
    return "{" + ", ".join(keys) + "}"


ABSURD = ("-1", "0", "1e30", "1e-30", "999999999999", "1e400", "0.5", "-3%", "101%", "5Mtok", "nan")
OTHER_TYPES = (
    "[]",
    "{}",
    "null",
    "true",
    "text",
    "[1, 2]",
    "{a: 1}",
    "'12:30'",
    "on",
    "2001-01-01",
)


def mutated(random: Random, text: str) -> str:
    """A YAML file with one to three things gone wrong in it."""
    for _ in range(random.randint(1, 3)):
        text = random.choice((_dropped, _retyped, _absurd, _truncated, _swapped))(random, text)
    return text


def _tokens(text: str) -> list[tuple[int, int]]:
    """Where words and numbers stand in a YAML text, comments aside."""
    spans, start = [], None
    in_comment = False
    for i, c in enumerate(text + " "):
        in_comment = (in_comment or c == "#") and c != "\n"
        inside = not in_comment and (c.isalnum() or c in "._%-/")
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            spans.append((start, i))
            start = None
    return spans


def _replace(random: Random, text: str, choices: tuple[str, ...]) -> str:
    spans = _tokens(text)
    if not spans:
        return text
    a, b = random.choice(spans)
    return text[:a] + random.choice(choices) + text[b:]


def _dropped(random: Random, text: str) -> str:
    """Without one word, or without one line."""
    if random.random() < 0.5:
        lines = text.split("\n")
        del lines[random.randrange(len(lines))]
        return "\n".join(lines)
    return _replace(random, text, ("",))


def _retyped(random: Random, text: str) -> str:
    return _replace(random, text, OTHER_TYPES)


def _absurd(random: Random, text: str) -> str:
    numbers = [(a, b) for a, b in _tokens(text) if text[a].isdigit()]
    if not numbers:
        return text
    a, b = random.choice(numbers)
    return text[:a] + random.choice(ABSURD) + text[b:]


def _truncated(random: Random, text: str) -> str:
    return text[: random.randrange(len(text) + 1)]


def _swapped(random: Random, text: str) -> str:
    """One word in the place of another."""
    spans = _tokens(text)
    if not spans:
        return text
    (a, b), (c, d) = random.choice(spans), random.choice(spans)
    return text[:a] + text[c:d] + text[b:]
