"""Record the output of the vision tower; encode long inputs in groups of frames, and repeated inputs only once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Kind
from ..errors import UnsupportedModelError
from ..models.base import Adapter, FramePixels, StandbySettings
from ..models.devices import device_of
from ..models.items import features_of
from ..utils.method_patch import replaced
from ..utils.timing import DeviceTimer
from .shared import SharedPrefill
from .token_layout import MediaItem, as_video, with_shown

_UNREAD = {"hidden_states", "attentions"}  # the tower's own, read by no model and larger than the features


Items = dict[Kind, list[MediaItem]]
"""Videos and images in the order of their placeholders, per kind."""


class VisionRecorder:
    """Records a model's encodings while it is attached: grids and, if requested, the importance of each visual token.

    The model receives the output of one call of the stock tower (in groups, without the tower's hidden states and
    attentions, and up to the rounding of kernels that depend on the number of frames).

    Attributes:
        items: encodings since the last `take()`.
    """

    def __init__(
        self,
        adapter: Adapter,
        standby: StandbySettings | None,
        group: int | None = None,
        timer: DeviceTimer | None = None,
        shared: SharedPrefill | None = None,
    ) -> None:
        """Make a recorder; `attached` starts it.

        Args:
            adapter: adapter of the model.
            standby: measurement of importance; None for none.
            group: maximum visual tokens encoded at once, None for no limit. A call within it is unchanged, bit for bit.
                Frames and any-resolution images are never cut.
            timer: measures the vision tower under `"prefill"`.
            shared: recorded encodings to use and extend.
        """
        self.items: Items = {}
        self._adapter = adapter
        self._standby = standby
        self._group = group
        self._timer = timer or DeviceTimer(device_of(adapter.text_model))
        self._shared = shared
        self._importance: list[Tensor] = []
        self._depth = 0

    @property
    def attentive(self) -> bool:
        """Whether importance is requested."""
        return self._standby is not None

    def take(self) -> Items:
        """Return the encodings of the current prompt and reset, so that the next prompt cannot use them."""
        taken, self.items = self.items, {}
        return taken

    def drop(self, kinds: Set[Kind]) -> None:
        """Drop the encodings of some kinds."""
        self.items = {kind: items for kind, items in self.items.items() if kind not in kinds}

    def encode(self, inputs: Any) -> tuple[Tensor, Tensor | None, MediaItem]:
        """Encode the frames of one piece of video.

        Args:
            inputs: the output of the model's processor, on the model's device.

        Returns:
            The embeddings of the visual tokens in the prompt (tokens, d), deepstack features (tokens, levels·d) or
            None, and the encoded item.
        """
        features, aligned = self._adapter.encode(inputs)
        [mine] = with_shown(self.take(), self._adapter.shown(inputs)).values()
        item = as_video(mine)
        return features if item.shown is None else features[item.shown.to(features.device)], aligned, item

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context manager that records."""
        with ExitStack() as undo:
            if self._standby is not None:
                for handle in self._adapter.watch_vision(self._standby, self._note_importance):
                    undo.callback(handle.remove)
            for kind, name in self._adapter.encoders.items():
                undo.enter_context(replaced(self._adapter.inner, name, partial(self._recorded, kind)))
            undo.callback(self.take)
            yield

    def _note_importance(self, importance: Tensor) -> None:
        if self._depth:  # a deep copy of the model has the same hooks, without a recorder
            self._importance.append(importance)

    def _recorded(self, kind: Kind, encode: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(encode)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return encode(*args, **kwargs)
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            arguments |= arguments.pop("kwargs", {})
            with self._timer.timing("prefill"):
                encoded, self.items[kind] = self._known(kind, encode, arguments)
            return encoded

        return call

    def _known(self, kind: Kind, encode: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, list[MediaItem]]:
        """Encode the items, or reuse the features of equal ones; return features and items."""
        if self._shared is None:
            return self._read(kind, encode, arguments)
        self._shared.belongs_to(self._adapter.model)
        settings = (kind, self._group, self._standby and self._standby.n)
        given = {**arguments, "standby": self._standby and self._standby.tokens}
        known = self._shared.encoded(given, settings)
        if known is None:
            encoded, items = self._read(kind, encode, arguments)
            known = _lean(encoded, _UNREAD | {"last_hidden_state"}), items
            self._shared.keep_encoded(given, settings, known)
        encoded, items = known
        return encoded, list(items)

    def _read(self, kind: Kind, encode: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, list[MediaItem]]:
        self._importance.clear()
        self._depth += 1
        try:
            encoded, order = self._encode(kind, encode, arguments)
        finally:
            self._depth -= 1
        items = self._adapter.items(kind, arguments, features_of(encoded))
        return encoded, self._with_importance(items, order)

    def _encode(self, kind: Kind, encode: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, list[int]]:
        """Encode the items; return the features and, for each item, the index of the one encoded for it."""
        given = self._adapter.unpack(kind, arguments)
        if given is None:
            return encode(**arguments), []
        if self._group is None or sum(item.grid.tokens for item in given) <= self._group:
            return encode(**arguments), list(range(len(given)))
        first = first_equal(given)
        encoded = sorted(set(first))
        order = [encoded.index(number) for number in first]
        distinct = [given[number] for number in encoded]
        outputs = []
        for frames in grouped(distinct, self._group):
            call = self._adapter.pack(kind, arguments, frames)
            _check_whole(arguments, call)
            outputs.append(_lean(encode(**call)))
        return self._adapter.join(outputs, [item.grid for item in distinct], order), order

    def _with_importance(self, items: Sequence[MediaItem], order: Sequence[int]) -> list[MediaItem]:
        sizes = {number: item.grid.tokens for number, item in zip(order, items, strict=False)}
        found = torch.cat(self._importance) if self._importance else torch.empty(0)
        if not len(found) or len(found) != sum(sizes.values()):
            return list(items)
        parts = found.split(list(sizes.values()))
        return [replace(item, importance=parts[number]) for item, number in zip(items, order, strict=True)]


def first_equal(items: Sequence[FramePixels]) -> list[int]:
    """Return for each item the index of the first one with the same pixels.

    All pixels are compared only if a sample of them is equal.
    """
    seen: dict[tuple, int] = {}
    found = []
    for number, (grid, pixels) in enumerate(items):
        flat = pixels.flatten()
        sample = flat[:: max(1, len(flat) // 16)].tolist()
        first = seen.setdefault((*grid, *sample), number)
        found.append(first if first == number or torch.equal(pixels, items[first].pixels) else number)
    return found


def grouped(items: Sequence[FramePixels], most: int) -> list[list[FramePixels]]:
    """Return the frames of all items in groups of at most `most` visual tokens and at least one frame."""
    groups: list[list[FramePixels]] = [[]]
    room = most
    for grid, pixels in items:
        done = 0
        while done < grid.frames:
            if groups[-1] and room < grid.patches:
                groups.append([])
                room = most
            count = min(max(room // grid.patches, 1), grid.frames - done)
            groups[-1].append(FramePixels(grid._replace(frames=count), pixels[done : done + count]))
            done += count
            room -= count * grid.patches
    return groups


def _lean(output: Any, unread: Set[str] = _UNREAD) -> Any:
    if not isinstance(output, dict):
        return output
    lean: Any = type(output)(**{name: value for name, value in output.items() if name not in unread})
    if "pooler_output" not in output and hasattr(output, "pooler_output"):  # set on a type without such a field
        lean.pooler_output = output.pooler_output
    return lean


def _check_whole(arguments: dict[str, Any], call: dict[str, Any]) -> None:
    fixed = [name for name, value in arguments.items() if isinstance(value, Tensor) and call[name] is value]
    if fixed:
        raise UnsupportedModelError(
            f"The vision tower was given {', '.join(fixed)} for all of its input, which is encoded in parts here: "
            "leave these arguments out, the model computes them itself."
        )
