"""The retained patches of a video, drawn over its frames, method beside method."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compressor.registry import UNCOMPRESSED, UNCOMPRESSED_BUDGET
from ..errors import MissingInputError, VideoError
from .style import FAINT, INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..cache.layer import CompressedLayer
    from ..video.reader import Frames, Seconds, Video

CAPTION = (
    "A patch is as bright as the share of layers and heads that kept it; evicted ones are dark. Bars: entries kept of "
    "each frame of the video, per layer and head; frames that are shown have dark bars. Where a method merges entries, "
    "as average-pooling does, the patch nearest the centre of those merged stands for them."
)
_QUESTION = "Describe the video."
_LONGEST = 224  # pixels of a picture's longer side
_DARK = 0.24  # of an evicted patch's light is left
_LABEL, _CELL, _GAP, _STRIP = 1.55, 0.95, 0.05, 0.34  # inches


@dataclass(frozen=True)
class Retained:
    """What one method kept.

    Attributes:
        method, budget: as asked.
        ratio: visual entries held over visual tokens.
        shares: share of layers and heads that kept each patch, (frames, rows, columns) fp64.
        answer: to the question, if one was asked.
    """

    method: str
    budget: str
    ratio: float
    shares: NDArray[np.float64]
    answer: str | None = None

    @property
    def entries(self) -> NDArray[np.float64]:
        """Entries kept of each frame, mean over layers and heads, (frames,)."""
        return self.shares.sum(axis=(1, 2))


@dataclass(frozen=True)
class Overlay:
    """What several methods kept of one video.

    Attributes:
        title: names the video.
        pictures: the frames shown, (shown, height, width, 3) uint8, cropped to what the model sees.
        shown: which frames they are, (shown,).
        times: when each frame of the model is shown, in seconds, (frames,).
        retained: one per method.
        question: that was asked, if one was.
    """

    title: str
    pictures: Frames
    shown: NDArray[np.int64]
    times: Seconds
    retained: tuple[Retained, ...]
    question: str | None = None


def look(
    model: Any,
    processor: Any,
    video: Video,
    methods: Sequence[str],
    budget: str,
    question: str | None = None,
    *,
    shown: int = 8,
    title: str = "",
    done: Callable[[], None] = lambda: None,
) -> Overlay:
    """Compress a video with each method, and see which patches stay.

    Args:
        model, processor: from `load` or `load_bundled`.
        video: from `read_video`.
        methods: names, or `"name:setting=value,…"`; `full` keeps all whatever the budget.
        budget: as in `compress`.
        question: asked after each compression, so that the answers can be compared.
        shown: how many frames to show, evenly chosen.
        title: names the video; its file's name by default.
        done: called after each method.

    Raises:
        VideoError: no frame is to be shown.
        MissingInputError: no method is named.
        BudgetError: the budget cannot be read or reached.
        UnknownNameError: unknown method or setting.
        UnsupportedModelError: the model cannot be compressed.
    """
    from ..models import adapter_for
    from ..video.prompt import prepare

    if shown < 1:
        raise VideoError(f"At least one frame must be shown, got {shown}.")
    if not methods:
        raise MissingInputError("No method is named whose patches are to be shown.")
    retained = []
    inputs = prepare(processor, video, question or _QUESTION).to(model.device)
    for method in methods:
        retained.append(_retained(model, processor, inputs, method, budget, asked=question is not None))
        done()
    frames = len(retained[0].shares)
    step = adapter_for(model).frames_per_step
    chosen = np.unique(np.linspace(0, frames - 1, min(shown, frames)).round().astype(np.int64))
    pictures = _pictures(processor, video, np.minimum(chosen * step, len(video) - 1))
    times = video.times[np.minimum(np.arange(frames) * step, len(video) - 1)]
    name = title or (video.path.name if video.path else "video")
    return Overlay(name, pictures, chosen, times, tuple(retained), question)


def _retained(model: Any, processor: Any, inputs: Any, method: str, budget: str, asked: bool) -> Retained:
    from ..cache.layer import layers_of
    from ..compression import compress

    held = UNCOMPRESSED_BUDGET if method == UNCOMPRESSED else budget
    with compress(model, method, held) as run:
        output = model.generate(
            **inputs, max_new_tokens=16 if asked else 1, do_sample=False, return_dict_in_generate=True
        )
    reply = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    answer = processor.tokenizer.decode(reply, skip_special_tokens=True).strip() if asked else None
    return Retained(method, held, run.report.ratio, kept_shares(layers_of(output.past_key_values)), answer)


def kept_shares(layers: Sequence[CompressedLayer]) -> NDArray[np.float64]:
    """The share of layers and heads that hold an entry of each patch of the first row's video.

    Args:
        layers: of the cache that a prompt with one video was read into.

    Returns:
        (frames, rows, columns).

    Raises:
        VideoError: the row holds several videos or images.
    """
    from ..compressor.entries import Context, Tags

    grids = layers[0].rows[0].grids
    (segment, grid), *others = grids.items()
    if others:
        raise VideoError(f"The prompt holds {len(grids)} videos and images: patches are drawn for one.")
    heads = layers[0].keys.shape[1]
    held = np.zeros((len(layers), heads, grid.frames, grid.rows, grid.columns))
    for number, layer in enumerate(layers):
        tags = layer.entries(Context()).tags[0].expand(heads, -1, -1).cpu().numpy()
        for head in range(heads):
            mine = tags[head][tags[head][:, Tags.SEGMENT] == segment]
            held[number, head, mine[:, Tags.FRAME], mine[:, Tags.ROW], mine[:, Tags.COLUMN]] = 1
    return held.mean(axis=(0, 1))


def _pictures(processor: Any, video: Video, chosen: NDArray[np.int64]) -> Frames:
    """Frames as the model sees them, made smaller: where its processor crops to the centre, so does this."""
    from PIL import Image

    frames = video.frames[chosen]
    vision = getattr(processor, "video_processor", None) or processor.image_processor
    if getattr(vision, "do_center_crop", False):
        height, width = frames.shape[1:3]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top : top + side, left : left + side]
    height, width = frames.shape[1:3]
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])


def shaded(pictures: Frames, shares: NDArray[np.float64]) -> Frames:
    """Pictures whose patches are as bright as their share, the others dark and grey.

    Args:
        pictures: (shown, height, width, 3) uint8.
        shares: (shown, rows, columns), between 0 and 1.
    """
    _, height, width, _ = pictures.shape
    rows, columns = shares.shape[1:]
    spread = shares[:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width, None]
    dark = pictures.mean(axis=-1, keepdims=True) * _DARK
    mixed: Frames = np.rint(dark + (pictures - dark) * np.sqrt(spread)).astype(np.uint8)
    return mixed


def draw_overlay(overlay: Overlay) -> Figure:
    """The figure: one row per method, frames as columns, and beneath each row what is kept of every frame."""
    from matplotlib.figure import Figure

    shown, height, width, _ = overlay.pictures.shape
    step, tall = _CELL + _GAP, _CELL * height / width
    across = _LABEL + shown * step + 0.3
    head = 0.74 if overlay.question else 0.52
    first, row = head + tall + 0.22, tall + _STRIP + 0.26
    caption = textwrap.fill(CAPTION, int(across * 12.5))
    whole = first + len(overlay.retained) * row + 0.15 + 0.165 * (1 + caption.count("\n"))
    with drawing():
        figure = Figure(figsize=(across, whole))

        def axes(left: float, top: float, wide: float, high: float) -> Axes:
            return figure.add_axes((left / across, 1 - (top + high) / whole, wide / across, high / whole))

        def write(left: float, top: float, words: str, **how: Any) -> None:
            figure.text(left / across, 1 - top / whole, words, va="top", linespacing=1.25, **how)

        def mosaic(top: float, pictures: Frames) -> None:
            for column, picture in enumerate(pictures):
                place = axes(_LABEL + column * step, top, _CELL, tall)
                place.imshow(picture, interpolation="none", aspect="auto")
                place.set_axis_off()

        write(0.08, 0.08, overlay.title, weight="bold", fontsize=11)
        if overlay.question:
            write(0.08, 0.29, f"“{overlay.question}”", color=FAINT)
        for number, time in enumerate(overlay.times[overlay.shown]):
            write(_LABEL + number * step + _CELL / 2, head - 0.2, f"{time:.3g} s", color=FAINT, ha="center")
        mosaic(head, overlay.pictures)
        write(0.08, head, "the video", weight="bold")
        write(0.08, head + 0.17, f"{len(overlay.times)} frames", color=FAINT)
        most = max((mine.entries.max() for mine in overlay.retained), default=1)
        for number, mine in enumerate(overlay.retained):
            top = first + number * row
            name = _wrapped(mine.method)
            said = [] if mine.answer is None else [_wrapped(f"“{mine.answer}”")]
            write(0.08, top, name, weight="bold")
            write(
                0.08,
                top + 0.17 * (1 + name.count("\n")),
                "\n".join([f"{mine.ratio * 100:.3g}% kept", *said]),
                color=FAINT,
            )
            mosaic(top, shaded(overlay.pictures, mine.shares[overlay.shown]))
            _strip(axes(_LABEL, top + tall + 0.05, shown * step - _GAP, _STRIP), mine.entries, overlay.shown, most)
        write(0.08, first + len(overlay.retained) * row + 0.02, caption, color=FAINT)
    return figure


def _strip(place: Axes, entries: NDArray[np.float64], shown: NDArray[np.int64], most: float) -> None:
    place.stairs(entries, np.arange(len(entries) + 1) - 0.5, fill=True, color=FAINT, alpha=0.5, linewidth=0)
    place.bar(shown, entries[shown], width=1, color=INK, linewidth=0)
    place.set_xlim(-0.5, len(entries) - 0.5)
    place.set_ylim(0, most * 1.05 or 1)
    place.set_yticks([])
    place.set_xticks([])
    place.grid(visible=False)
    place.spines["left"].set_visible(False)
    place.text(1.006, 1, f"{most:.3g}", transform=place.transAxes, va="top", color=FAINT)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 19, max_lines=3, placeholder=" …")
