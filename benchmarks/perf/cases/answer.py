"""Time from a question to the first token of its answer, after a long stream.

The session answers with `ask()`: tokenizer, template and `generate()`. It is compared with a stock cache of random keys
and values, as long as the stream if that fits into memory, and one forward pass of as many tokens as the question has,
argmax included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvpress_video.models.cache_argument import CACHE

from ..results.measurement import Figure, Goal
from ..setup.hardware_limits import copy_rate
from ..setup.long_stream import METHOD, LongStream, Point, long_stream
from ..setup.scales import Bed
from ..setup.timing import free_bytes, medians

_SHARE_OF_FREE = 0.6  # the rest is workspace for attention


def run(bed: Bed) -> Iterator[Figure]:
    """Measure the first token after the shortest and the longest stream, and on a full cache."""
    watch = long_stream(bed)
    first, last = (watch.until(minutes) for minutes in (min(bed.scale.minutes), max(bed.scale.minutes)))
    rate = copy_rate(bed.device)
    case = f"{METHOD}, {last.minutes} minutes"
    held = watch.token_bytes + last.stats.entries[0] * watch.entry_bytes * watch.layers
    raw = {"seconds": last.first_token, "question_tokens": watch.question, "entries": last.stats.entries[0],
           "weight_bytes": watch.token_bytes, "rounds": bed.scale.rounds}  # fmt: skip
    yield Figure(
        "answer", case, "question to first token", 1e3 * last.first_token, "ms",
        Goal(30) if bed.device.type == "cuda" else None, 1e3 * held / rate,
        "weights, keys and values read once, at the rate of a large copy", raw,
    )  # fmt: skip
    yield Figure(
        "answer", case, f"time to first token ÷ after {first.minutes} min",
        last.first_token / first.first_token, "×", None, 1.0, "the cache has the same size at both times",
        {"seconds": last.first_token, "first_seconds": first.first_token, "first_entries": first.stats.entries[0]},
    )  # fmt: skip
    yield _against_full(bed, watch, last)


@torch.no_grad()
def _against_full(bed: Bed, watch: LongStream, last: Point) -> Figure:
    rows, columns = bed.scale.patches
    per_minute = 60 * rows * columns
    entry = watch.entry_bytes * watch.layers
    fitting = [
        minutes
        for minutes in bed.scale.minutes
        if minutes * per_minute * entry <= _SHARE_OF_FREE * free_bytes(bed.device)
    ]
    minutes = max(fitting, default=min(bed.scale.minutes))
    spent = full_seconds(bed, minutes * per_minute, watch.question)
    capped = last.stats.entries[0]
    return Figure(
        "answer", f"full cache, {minutes} minutes",
        "a single forward pass over the full cache ÷ the session's time to first token",
        spent / last.first_token, "×", None,
        (watch.token_bytes + minutes * per_minute * entry) / (watch.token_bytes + capped * entry),
        "bytes of weights, keys and values, full ÷ capped",
        {"seconds": spent, "session_seconds": last.first_token, "entries": minutes * per_minute},
    )  # fmt: skip


def full_seconds(bed: Bed, entries: int, question: int) -> float:
    """Seconds to the first token on a stock cache (median).

    Args:
        bed: device, scale and model.
        entries: length of the cache, filled with random keys and values.
        question: tokens of the forward pass.
    """
    model, _ = bed.model()
    text: Any = model.get_decoder()
    config, device = text.config, bed.device
    shape = (1, config.num_key_value_heads, entries, text.layers[0].self_attn.head_dim)
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, device=device, dtype=bed.scale.dtype) for _ in range(2))
        cache.update(keys, values, layer)
    ids = torch.arange(question, device=device)[None]
    places = (entries + ids).expand(3, 1, -1)

    def answer() -> int:
        states = text(
            inputs_embeds=text.embed_tokens(ids), position_ids=places, use_cache=True, **{CACHE: cache}
        ).last_hidden_state
        token = int(model.lm_head(states[:, -1]).argmax())
        cache.crop(-question)
        return token

    return medians({"answer": answer}, device, bed.scale.rounds)["answer"]
