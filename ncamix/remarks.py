"""Remarks: what works but is probably not meant, found in a plan before anything runs.

    Plan -> sentences, each saying what and what to do

Each remark is a pure function of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from ncamix.documents import package_of
from ncamix.entry import Enter
from ncamix.forecast import even_batches
from ncamix.formats import format_of
from ncamix.groups import all_parts, parts
from ncamix.optimizer import peaks
from ncamix.plan import Plan
from ncamix.quantities import counted
from ncamix.sources import NcaSource, TextSource
from ncamix.splits import HELD_OUT, split_of_group

LOW_RATE = 0.1  # of the stage's peak: what is learned below it leaves little trace
RATE_POINTS = 500  # of a stage at which rate and mixture are compared
DOMINANT = 0.75  # of the vocabulary's rows
FEW_FRAMES = 16
MODEL_DEVIATION = 0.02  # standard deviation of a fresh model's embeddings


def remarks(plan: Plan) -> list[str]:
    """Every remark on a plan."""
    return [
        *unsampled_sources(plan),
        *wasted_sources(plan),
        *absolute_rates(plan),
        *rates_of_other_kinds(plan),
        *moments_of_other_weights(plan),
        *short_rollouts(plan),
        *dominant_alphabets(plan),
        *frozen_noise(plan),
        *frozen_models(plan),
        *other_embedding_scales(plan),
        *unseen_evidence(plan),
        *unseen_cycles(plan),
        *empty_holdouts(plan),
        *pretrained_rows(plan),
    ]


def wasted_sources(plan: Plan) -> Iterator[str]:
    """Sources that come mostly while their stage's learning rate is near zero."""
    for stage in plan.stages:
        if stage.mixture.is_constant:
            continue  # all sources meet the same rates
        points = even_batches(stage, RATE_POINTS)
        rates = [stage.rate.at(t) for t in points]
        bound = LOW_RATE * max(rates)
        weights = [stage.mixture.at(t) for t in points]
        low = [w for w, rate in zip(weights, rates, strict=True) if rate < bound]
        if 2 * len(low) > len(points):
            continue  # the stage itself is slow, not the order of its sources
        for i, name in enumerate(stage.mixture.leaves):
            total, late = sum(w[i] for w in weights), sum(w[i] for w in low)
            if name in stage.sources and 2 * late > total:
                yield (
                    f"stage '{stage.name}': {late / total:.0%} of the source '{name}' comes while "
                    "the learning rate is below a tenth of its peak and teaches little; move it "
                    "elsewhere in the mixture, or give the decay a floor"
                )


def absolute_rates(plan: Plan) -> Iterator[str]:
    """Stages whose peak rate stays what it is under trainers of other sizes."""
    for stage in plan.stages:
        written = stage.spec.optimizer.lr
        rates = [rate.value for rate in peaks(written) if rate.unit == ""] if written else []
        peak = max(rates, default=Fraction(0))
        if peak:
            times = float(peak / plan.trainer.trainer.optimizer.base_rate())
            yield (
                f"stage '{stage.name}': the peak rate {float(peak):g} is absolute; for trainers "
                f"of other sizes, write it relative to the trainer's: {times:.4g}x"
            )


def rates_of_other_kinds(plan: Plan) -> Iterator[str]:
    """Stages that change between Muon and Adam, and keep a rate that was meant for the other."""
    trainer = plan.trainer.trainer.optimizer
    for stage in plan.stages:
        kinds = trainer.algorithm, stage.optimizer.algorithm
        if "muon" in kinds and kinds[0] != kinds[1] and stage.spec.optimizer.lr is None:
            yield (
                f"stage '{stage.name}' is trained with {kinds[1]} at the rate that the trainer has "
                f"for {kinds[0]}, and they lie far apart; give the stage an `lr`"
            )


def moments_of_other_weights(plan: Plan) -> Iterator[str]:
    """Stages that begin with an average of weights, and with the moments of the last ones."""
    if plan.trainer.trainer.averaging is None:
        return
    for stage in plan.stages:
        if stage.enter is not None and stage.enter.optimizer_state == "keep":
            yield (
                f"stage '{stage.name}' keeps an optimizer's state, which is of the last weights, "
                "and begins with their average; write optimizer_state: fresh, or remove the "
                "trainer's averaging"
            )


def unsampled_sources(plan: Plan) -> Iterator[str]:
    """Sources of a stage's mixture whose share is too small to ever yield a sample."""
    for stage in plan.stages:
        named = {
            name
            for clocked in stage.mixture.curves.values()
            for value in clocked.curve.values
            for name, weight in zip(clocked.columns, value, strict=True)
            if weight
        }
        for name in stage.mixture.leaves:
            if name in named and name not in stage.sources:
                yield (
                    f"stage '{stage.name}': the source '{name}' gets no sample, its share is too "
                    "small for the stage; raise it, or leave the source out"
                )


def dominant_alphabets(plan: Plan) -> Iterator[str]:
    """Synthetic ranges that take most rows of a vocabulary that others share."""
    rows, ranges = plan.vocabulary.rows, plan.vocabulary.ranges
    for name, (_, size) in ranges.items():
        if name != "text" and len(ranges) > 1 and size >= DOMINANT * rows:
            yield (
                f"'{name}' takes {size / rows:.0%} of the vocabulary's {rows:,} rows, and of the "
                "embeddings' parameters with them; use a smaller alphabet or patch, or a larger "
                "tokenizer"
            )


def frozen_noise(plan: Plan) -> Iterator[str]:
    """Groups that a stage draws anew and freezes at once."""
    layers = plan.trainer.trainer.model.layers
    for stage in plan.stages:
        enter = stage.enter or Enter()
        drawn = enter.redrawn(layers)
        names = [str(group.name) for group in enter.freeze if drawn & parts([group], layers)]
        if names:
            yield (
                f"stage '{stage.name}': {_listed(names)} {'is' if len(names) == 1 else 'are'} "
                "re-initialised and frozen, so random values stay; remove one of the two"
            )


def frozen_models(plan: Plan) -> Iterator[str]:
    """Stages that train no parameter at all."""
    layers = plan.trainer.trainer.model.layers
    for stage in plan.stages:
        enter = stage.enter or Enter()
        frozen = parts([group for group in enter.freeze if group.until is None], layers)
        if frozen == all_parts(layers):
            yield (
                f"stage '{stage.name}' freezes every group all through it, so nothing is learned; "
                "leave one out of `freeze`, or thaw one with `until`"
            )


def short_rollouts(plan: Plan) -> Iterator[str]:
    """Automaton samples of too few frames to infer a rule from."""
    short: dict[float, list[str]] = {}
    for name, source in plan.sources.items():
        if isinstance(source.spec, NcaSource):
            frames = (source.sequence_length + 1) / source.spec.automaton.tokens_per_frame
            if frames < FEW_FRAMES:
                short.setdefault(round(frames, 1), []).append(f"'{name}'")
    for frames, names in short.items():
        yield (
            f"samples of {_listed(names)} hold {frames:g} frames each, and fewer than {FEW_FRAMES} "
            "leave little to infer a rule from; raise the trainer's sequence_length, or use a "
            "smaller grid or larger patches"
        )


def other_embedding_scales(plan: Plan) -> Iterator[str]:
    """Stages that draw embeddings on another scale than a fresh model, and so than a control."""
    layers = plan.trainer.trainer.model.layers
    for stage in plan.stages[1:]:
        if stage.enter is None or ("embedding", None) not in stage.enter.redrawn(layers):
            continue
        way = stage.enter.initializer
        deviation = float(way) if isinstance(way, Fraction) else {"torch": 1.0}.get(way)
        if deviation not in (None, MODEL_DEVIATION):
            yield (
                f"stage '{stage.name}' draws embeddings with a standard deviation of "
                f"{deviation:g}, a fresh model with {MODEL_DEVIATION}: a control from scratch "
                "would differ in that, too; write `initializer: model`, or give the control's "
                "first stage the same `enter`"
            )


def unseen_cycles(plan: Plan) -> Iterator[str]:
    """Cycles that batches, which take their value at their middle, cannot follow."""
    for stage in plan.stages:
        clocked = stage.mixture.curves.values()
        periods = [c.curve.cycle / c.step for c in clocked if c.curve.cycle and c.step]
        rate = stage.rate.curve
        periods += [rate.cycle / rate.unit] if rate.cycle else []
        if periods and min(periods) < 2:
            yield (
                f"stage '{stage.name}' has a cycle of {min(periods):.3g} batches: shorter than "
                "two, it is met at a few of its points only; write a longer one"
            )


def unseen_evidence(plan: Plan) -> Iterator[str]:
    """Stages that would end on evidence that no evaluation ever looks for."""
    for stage in plan.stages:
        if stage.spec.until is not None and not stage.evaluations:
            yield (
                f"stage '{stage.name}' says `until`, but no evaluation falls inside it, so it "
                "never ends early; evaluate more often (evaluate.every)"
            )


def empty_holdouts(plan: Plan) -> Iterator[str]:
    """Texts that hold out whole packages, none of which comes into a held-out split."""
    for source in {source.name: source for source in plan.sources.values()}.values():
        spec, text = source.spec, source.text
        if not isinstance(spec, TextSource) or text is None or text.files is None:
            continue
        if spec.holdout is None or spec.holdout.by != "package":
            continue
        if any(format_of(file.name).holds != "text" for file in text.files):
            continue  # what packages they hold is known when they are read
        packages = {package_of(file.name) for file in text.files}
        splits = {split_of_group(package, spec.holdout.share) for package in packages}
        empty = [split for split in HELD_OUT if split not in splits]
        if empty:
            yield (
                f"the source '{source.name}' holds out by package, and none of its "
                f"{counted(len(packages), 'package')} comes into the {_listed(empty)} split; hold "
                "out by document, or raise the share"
            )


def pretrained_rows(plan: Plan) -> Iterator[str]:
    """What becomes of a pretrained model's rows, where they are not all the text's."""
    model = plan.trainer.trainer.model
    text, kept, files = plan.vocabulary.text_rows, plan.kept_rows, model.files
    if files is None or not model.pretrained:
        return
    if not kept:
        why = "its tokenizer is not the curriculum's" if text else "the curriculum has no text"
        yield (
            f"all rows of the pretrained model's embedding and head are drawn anew, for {why}; to "
            "keep those of text, write its own `tokenizer: {pretrained: ...}`"
        )
    elif files.rows > text:
        yield (
            f"the pretrained model has {files.rows:,} rows and its tokenizer {text:,} ids: rows "
            f"from {text:,} on, which no text trains, are dropped"
        )
    elif files.rows < text:
        yield (
            f"the tokenizer has {text:,} ids and the pretrained model {files.rows:,} rows: those "
            "of the ids beyond are drawn anew"
        )


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
