"""Two-turn generation with a model: stock, and with a compressed cache; comparison of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

from ..budget import Budget
from ..cache.layer import CompressedLayer
from ..compressor.base import Compressor
from ..compressor.entries import Entries, Tags, is_visual
from ..models.cache_argument import CACHE
from ..models.general import General
from ..prefill.hooks import ModelHooks
from ..prefill.options import Positions, Prefill, PrefillOptions, Stage
from .masked_reference import Passes

STEPS = 3
"""Output tokens per turn."""

_LIMITS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.08}


class Disagreement(Exception):
    """A failed check."""


@dataclass(frozen=True)
class Scattered(Compressor):
    """Keep pseudo-random entries, different in each head and layer, independent of padding."""

    def scores(self, entries: Entries) -> Tensor:
        """Hash frame, row, column, head and layer."""
        frame, row, column = entries.tags[..., Tags.FRAME :].long().unbind(-1)
        head = torch.arange(entries.keys.shape[1], device=frame.device)[:, None]
        mixed = frame * 7919 + row * 1031 + column * 613 + head * 3571 + entries.context.layer * 2971
        return (mixed * 48271 % 65537).float()


@dataclass(frozen=True)
class Outcome:
    """Logits, (batch, steps, vocabulary) fp32, and compressed layers after the second turn."""

    logits: Tensor
    layers: Sequence[CompressedLayer] = ()


@dataclass(frozen=True)
class Conversation:
    """Inputs of two turns: a prompt with media, and a text that continues it.

    Attributes:
        inputs: inputs of the first turn.
        said: forced output tokens of both turns, (batch, 2·STEPS).
        more: input tokens of the second turn, (batch, n).
    """

    inputs: Mapping[str, Tensor]
    said: Tensor
    more: Tensor

    @torch.no_grad()
    def run(self, model: Any, config: Any) -> tuple[Tensor, Any]:
        """Generate both turns; return logits and the final cache."""
        cache = DynamicCache(config=config)
        first, rest = self.said[:, :STEPS], self.said[:, STEPS:]
        begun = generated(model, self.inputs, first, cache)
        ids = torch.cat([begun.sequences, self.more], dim=1)
        length = self.inputs["attention_mask"].shape[1]
        mask = torch.nn.functional.pad(self.inputs["attention_mask"], (0, ids.shape[1] - length), value=1)
        ended = generated(model, {"input_ids": ids, "attention_mask": mask}, rest, cache)
        return torch.stack([*begun.logits, *ended.logits], dim=1).float(), cache


def generated(model: Any, inputs: Mapping[str, Tensor], said: Tensor, cache: Any = None) -> Any:
    """Generate the tokens `said`, (batch, n), without the model's own settings."""
    length = inputs["input_ids"].shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        step = ids.shape[1] - length
        return torch.full_like(scores, -torch.inf).scatter(1, said[:, step : step + 1], 0.0)

    with _plain_generation(model):
        return model.generate(
            **inputs,
            **{CACHE: cache},
            max_new_tokens=said.shape[1],
            do_sample=False,
            num_beams=1,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
            logits_processor=[force],
        )


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Generate without the model's own settings, which may stop early, sample, or bring a cache of another kind."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@dataclass
class Trials:
    """Checks of one model.

    Attributes:
        adapter: of the model.
        passed: checks that passed so far.
    """

    adapter: General
    passed: list[str] = field(default_factory=list)

    def stock(self, talk: Conversation, around: AbstractContextManager[None] | None = None) -> Tensor:
        """Compute the logits of the stock model."""
        with around or nullcontext():
            return talk.run(self.adapter.model, self.adapter.text_model.config)[0]

    def compressed(
        self,
        talk: Conversation,
        ratio: float,
        prefill: Prefill,
        chunk: int | None = None,
        passes: Passes | None = None,
        stage: Stage = "cache",
        positions: Positions = "keep",
    ) -> Outcome:
        """Generate with a compressed cache."""
        options = PrefillOptions(stage=stage, prefill=prefill, chunk=chunk, positions=positions, labels="keep")
        hooks = ModelHooks(self.adapter, Scattered(), Budget(ratio, "ratio"), options, lambda layers, peak: None)
        with passes.recorded() if passes else nullcontext(), hooks.attached():
            logits, cache = talk.run(self.adapter.model, self.adapter.text_model.config)
        return Outcome(logits, [layer for layer in cache.layers if isinstance(layer, CompressedLayer)])

    def keeps_everything(self, talk: Conversation, prefill: Prefill, chunk: int | None = None) -> None:
        """Compare a budget of 100% with the stock model."""
        self.agree(self.compressed(talk, 1.0, prefill, chunk).logits, self.stock(talk), "a budget of 100%", prefill)

    def keeps_half(
        self, talk: Conversation, prefill: Prefill, chunk: int | None = None, stage: Stage = "cache"
    ) -> None:
        """Compare a budget of 50% with the masked stock model, and check the number of entries."""
        passes = Passes(self.adapter)
        outcome = self.compressed(talk, 0.5, prefill, chunk, passes, stage)
        token = [*self.adapter.placeholders.values()]
        seen = int(sum((talk.inputs["input_ids"] == each).sum() for each in set(token)))
        wanted = Budget(0.5, "ratio").entries(seen)
        for number, layer in enumerate(outcome.layers):
            assert layer.tags is not None
            held = is_visual(layer.tags[0, :, :, Tags.KIND]).sum(dim=-1).tolist()
            if set(held) != {wanted}:
                raise Disagreement(f"layer {number} holds {held} of {seen} visual entries per head, expected {wanted}")
        masked = self.stock(talk, passes.hidden(dropped=stage == "input"))
        self.agree(outcome.logits, masked, "a budget of 50%", prefill, stage)

    def pads(
        self,
        together: Conversation,
        alone: Sequence[Conversation],
        prefill: Prefill,
        chunk: int | None,
        stage: Stage = "cache",
    ) -> None:
        """Compare the rows of a padded batch with each row alone.

        If the stock model itself answers the batch differently (pixels that refer to other items of a call), a budget
        of 100% is compared with the stock batch instead.
        """
        stock = self.stock(together)
        if self._apart(stock, torch.cat([self.stock(talk) for talk in alone])) > self._limit:
            whole = self.compressed(together, 1.0, prefill, chunk, stage=stage).logits
            self.agree(whole, stock, "a padded batch at 100%", prefill, stage)
            return
        batch = self.compressed(together, 0.5, prefill, chunk, stage=stage).logits
        rows = torch.cat([self.compressed(talk, 0.5, prefill, chunk, stage=stage).logits for talk in alone])
        self.agree(batch, rows, "a padded batch at 50%", prefill, stage)

    def agree(self, ours: Tensor, reference: Tensor, what: str, prefill: Prefill, stage: Stage = "cache") -> None:
        """Compare logits, and record the check as passed.

        Raises:
            Disagreement: they differ by more than the tolerance.
        """
        apart = self._apart(ours, reference)
        setting = f"prefill={prefill!r}" if stage == "cache" else f"stage={stage!r}"
        if not apart <= self._limit:
            raise Disagreement(
                f"with {what} and {setting} logits deviate from the reference by {apart:.2g} standard "
                f"deviations (tolerance {self._limit:g})"
            )
        self.passed.append(f"{what}, {setting}")

    @property
    def _limit(self) -> float:
        return _LIMITS.get(self.adapter.text_model.dtype, 0.08)

    def _apart(self, ours: Tensor, reference: Tensor) -> float:
        """Return the root mean square deviation in standard deviations of the reference.

        In half precision the two worst output tokens of each row do not count: rounding may have chosen other experts
        for them, whereas a wrong mask shows in every token of a turn.
        """
        errors = (ours - reference).square().mean(dim=-1)
        if self.adapter.text_model.dtype.itemsize == 2:
            errors = errors.sort(dim=-1).values[:, :-2]
        return float(errors.mean().sqrt() / reference.std())


def reason_of(trial: Callable[[], None]) -> str:
    """Run a check; return a description of the failure, or an empty string."""
    try:
        trial()
    except Disagreement as error:
        return str(error)
    except Exception as error:  # any error of an unknown model is the reason
        first = str(error).splitlines()[0] if str(error) else ""
        return f"{type(error).__name__}: {first:.200}"
    return ""
