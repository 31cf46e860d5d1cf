"""What one prompt about one video costs a model: operations and bytes, worked out from sizes."""

from __future__ import annotations

from dataclasses import dataclass

from ..budget import Budget
from ..compression import Prefill
from ..errors import BudgetError
from .cells import Cell, Setup
from .model_size import ModelSize
from .prefills import prefill_of, probe_of


@dataclass(frozen=True)
class PromptSize:
    """A prompt, counted.

    Attributes:
        frames: video frames that were read.
        tokens: of the whole prompt.
        visual: how many of them stand for the video.
        before: tokens up to the last visual one.
        alike: tokens at the end that are the same for all questions.
    """

    frames: int
    tokens: int
    visual: int
    before: int
    alike: int

    @property
    def text(self) -> int:
        """Tokens that are not visual."""
        return self.tokens - self.visual


@dataclass(frozen=True)
class PromptCost:
    """A prompt in a model, prefilled as a setup asks."""

    model: ModelSize
    size: PromptSize
    setup: Setup

    @property
    def _compact(self) -> bool:
        return self.setup.positions == "compact"

    @property
    def _beside(self) -> int:
        return self.model.beside_bytes(self.size.tokens)

    def kept(self, budget: str) -> int:
        """Visual entries per layer and KV head that a budget leaves.

        Raises:
            BudgetError: a budget of bytes cannot hold the text and one visual entry.
        """
        asked = Budget.parse(budget)
        if asked.unit != "bytes":
            return asked.entries(self.size.visual)
        entry = self.model.entry_bytes(self._compact)
        room = (int(asked.amount) - self._beside) // entry - self.size.text
        if room < 1:
            raise BudgetError(
                f"{budget} cannot hold the {self.size.text} text entries of a prompt and one visual entry: ask for at "
                f"least {self._beside + entry * (self.size.text + 1)} bytes."
            )
        return min(room, self.size.visual)

    def passes(self, cell: Cell, questions: int) -> int:
        """How often a video passes through the text model, for as many questions about it.

        Questions share their video up to its last visual token, in chunks only those of one batch do. They cannot where
        the prompt is read in one pass, or where its last tokens ask after the video and differ.
        """
        prefill = self._prefill(cell.budget)
        if prefill == "whole" or self.setup.stage == "input" or probe_of(cell.method) > self.size.alike:
            return questions
        return 1 if prefill == "split" else -(-questions // self.setup.batch)

    def _prefill(self, budget: str) -> Prefill:
        """How the prompt is read: in one pass where a single chunk would hold the whole video."""
        prefill = prefill_of(self.setup, budget)
        return "whole" if prefill == "chunked" and self._chunk(budget) >= self.size.visual else prefill

    def _chunk(self, budget: str) -> int:
        return self.model.chunk(Budget.parse(budget), self._compact)

    def cache_bytes(self, budget: str) -> int:
        """What the cache of one question holds after the prefill, metadata included."""
        return self._beside + self.model.entry_bytes(self._compact) * (self.kept(budget) + self.size.text)

    @property
    def stock_bytes(self) -> int:
        """What the stock cache of one question would hold."""
        return self._beside + self.model.token_bytes * self.size.tokens

    def pass_flops(self, budget: str) -> float:
        """Of the text model, for the video to pass through it once: 2 per parameter and token, and attention."""
        tokens, pairs = self._tokens_and_pairs(budget)
        windows = _causal(tokens) - _causal(max(tokens - self.model.window, 0))
        attended = self.model.layers * pairs + self.model.sliding * windows
        return 2.0 * self.model.multiplied * tokens + 4.0 * self.model.heads * self.model.head_dim * attended

    def _tokens_and_pairs(self, budget: str) -> tuple[int, int]:
        """Tokens that pass, and the pairs of a query and a key that it sees."""
        size, prefill = self.size, self._prefill(budget)
        if self.setup.stage == "input":
            tokens = size.text + self.kept(budget)
        else:
            tokens = size.tokens if prefill == "whole" else size.before
        if prefill != "chunked":
            return tokens, _causal(tokens)
        held, chunk = 0, self._chunk(budget)
        most, pairs = self.kept(budget) + size.before - size.visual, 0
        for start in range(0, tokens, chunk):
            new = min(chunk, tokens - start)
            pairs += new * held + _causal(new)
            held = min(held + new, most)
        return tokens, pairs


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2
