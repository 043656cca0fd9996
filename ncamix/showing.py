"""`ncamix show`: what synthetic sources look like, drawn without a trainer.

    automata -> the first rules of each, some frames of each rule -> contact sheet, animation
    sources  -> about a million tokens of each                    -> rank-frequency plot
    pictures -> files

Pictures are pure functions of the selection and the options. The rules are those that a run of the
curriculum trains on first. The initial grids, and so the frames and tokens, are others: they depend
on where a run places ids and on how long its samples are. A score is of a rollout of its own, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from ncamix.charts import source_colours
from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.quantities import format_count
from ncamix.selection import Selection
from ncamix.sources.nca import NcaGenerator
from ncamix.spreading import describe
from ncamix.waiting import Say, Waiting

if TYPE_CHECKING:
    from ncamix.frequencies import TokenCounts
    from ncamix.pictures import Rollouts

SHEET_FRAMES, ANIMATED_FRAMES = 12, 48
COUNTED_TOKENS = 1_000_000  # of each source, about
BLOCK_IDS = 1 << 17  # generated at a time
MAX_SIDE, MAX_PIXELS = 30_000, 60_000_000  # of a contact sheet


@dataclass(frozen=True)
class Options:
    """How much is drawn.

    num_frames: None is 12 in the contact sheet and 48 in the animation. num_samples: of `length`
    tokens, to count tokens in; None is as many as make about a million tokens.
    """

    num_rules: int = 6
    num_frames: int | None = None
    gif: bool = False
    num_samples: int | None = None
    length: int = 1024

    @property
    def samples(self) -> int:
        return self.num_samples or max(1, round(COUNTED_TOKENS / self.length))


def write_pictures(selection: Selection, out: Path, options: Options, console: Console) -> None:
    """Draw a selection into the folder `out`, and say which files were written.

    Raises:
        UserError: a source cannot be drawn, or `out` cannot be written.
    """
    with Waiting(console if console.is_terminal else None, "drawing") as waiting:
        pictures = draw(selection, options, waiting.say)
    for name in selection.left_out:
        line = f"left out {name}: text is compiled, not generated"
        console.print(line, highlight=False, markup=False)
    if not selection.automata:
        console.print("no automaton among the sources: no frames to draw", highlight=False)
    for name, data in pictures.items():
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / name, data)
        except OSError as error:
            raise fail(
                f"{out / name} cannot be written ({error.strerror})",
                "choose another folder with --out",
            ) from None
        console.print(f"wrote {out / name}", highlight=False, markup=False, soft_wrap=True)


def draw(selection: Selection, options: Options, say: Say) -> dict[str, bytes]:
    """All pictures of a selection: file name -> PNG or GIF.

    Raises:
        UserError: a band that no rule reaches, or a picture too large.
    """
    return {**_draw_rules(selection, options, say), **_draw_tokens(selection, options, say)}


def _draw_rules(selection: Selection, options: Options, say: Say) -> dict[str, bytes]:
    from ncamix.pictures import animation, contact_sheet

    automata = selection.automata
    if not automata:
        return {}
    in_sheet = options.num_frames or SHEET_FRAMES
    animated = (options.num_frames or ANIMATED_FRAMES) if options.gif else 0
    most = options.num_rules
    num_rules = [min(most, spec.rules or most) for spec in automata.values()]  # a pool has an end
    _check_size([spec.grid for spec in automata.values()], num_rules, in_sheet)
    rollouts: list[Rollouts] = []
    for name, rules in zip(automata, num_rules, strict=True):
        say(f"rules of {name}", len(rollouts) / len(automata))
        rollouts.append(
            _roll_out(selection, name, rules, max(in_sheet, animated), options.length, say)
        )
    name, title = selection.name, selection.title
    about = (
        "One row is one rule: its score and band, and frames of one of its rollouts, numbered by "
        f"step. Seed {selection.seed}."
    )
    sheet = contact_sheet(title, about, [r.cut(in_sheet) for r in rollouts])
    pictures = {f"{name}_rules.png": sheet}
    if options.gif:
        pictures[f"{name}.gif"] = animation(title, [r.cut(animated) for r in rollouts])
    return pictures


def _check_size(grids: list[tuple[int, int]], num_rules: list[int], num_frames: int) -> None:
    from ncamix.pictures import sheet_size

    height, width = sheet_size(grids, num_rules, num_frames)
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise fail(
            f"the contact sheet would be {width:,} x {height:,} pixels",
            f"ask for fewer --rules or --frames, or for one source: at most {MAX_SIDE:,} pixels a "
            f"side and {MAX_PIXELS:,} in all are drawn",
        )


def _roll_out(
    selection: Selection, name: str, num_rules: int, num_frames: int, length: int, say: Say
) -> Rollouts:
    from ncamix.pictures import Rollouts

    spec, generator = selection.automata[name], selection.generator(name, length, say)
    assert isinstance(generator, NcaGenerator)
    frames, scores = generator.frames(num_rules, num_frames)
    return Rollouts(
        name=name,
        settings=describe(spec.automaton),
        band=str(spec.band),
        alphabet=spec.alphabet,
        frames=frames,
        scores=scores,
        first_step=spec.burn_in,
        stride=spec.stride,
    )


def _draw_tokens(selection: Selection, options: Options, say: Say) -> dict[str, bytes]:
    from ncamix.frequencies import rank_frequency_plot

    counts = [count_tokens(selection, name, options, say) for name in selection.sources]
    about = (
        f"How often each id occurs among {format_count(options.samples * options.length)} tokens "
        "a source" + ("; delimiters of frames are left out." if selection.automata else ".")
    )
    colours = source_colours({name: spec.kind for name, spec in selection.sources.items()})
    plot = rank_frequency_plot(selection.title, about, counts, colours)
    return {f"{selection.name}_tokens.png": plot}


def count_tokens(selection: Selection, name: str, options: Options, say: Say) -> TokenCounts:
    """How often a source emits each id, without the delimiters of frames."""
    from ncamix.frequencies import TokenCounts

    generator = selection.generator(name, options.length, say)
    counts = np.zeros(selection.sources[name].num_ids(), np.int64)
    block = max(1, BLOCK_IDS // options.length)
    for first in range(0, options.samples, block):
        say(f"tokens of {name}", first / options.samples)
        ids = generator.samples(first, min(block, options.samples - first))
        counts += np.bincount(ids.ravel(), minlength=len(counts))
    if isinstance(generator, NcaGenerator):
        counts = counts[: generator.automaton().frame_start]
    return TokenCounts(name, counts)
