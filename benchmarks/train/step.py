"""One training step, eager or replayed as a CUDA graph: make a batch, update the model, accumulate metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..world.clips import CAMERAS
from .batches import IGNORED, Batch, Phrasebook, make_batch
from .families import Family
from .packed_attention import use_packed_attention
from .probes import TIME, Probe
from .vision import TOKENS, vision_rotation

PROBE_WEIGHT = 0.1
"""Weight of the probes' summed losses, relative to the answers' loss."""
EARLY = 2
"""Number of text layers after which the probe reads the time of a visual token."""
LARGEST_GRADIENT = 1.0

Size = tuple[int, tuple[float, ...], bool, tuple[int, ...]]
"""Number of clips, times of their frames, whether their questions form a conversation, and their kinds."""


class Step:
    """State of a training step; nothing in it synchronises with the device."""

    def __init__(self, model: Any, book: Phrasebook, generator: torch.Generator) -> None:
        self.model, self.book, self.generator = model, book, generator
        self.family = book.family
        self.kinds = [book.world.families[kind] for kind in book.plan]
        sizes = {"sprite": book.world.readings, **({"clock": TIME} if self.family.written_times else {})}
        hidden = model.config.text_config.hidden_size
        self.probes = nn.ModuleDict({name: Probe(hidden, size) for name, size in sizes.items()}).to(generator.device)
        use_packed_attention(model.model.language_model)
        self.device = generator.device
        vision = model.config.vision_config
        self.rotation = vision_rotation(vision.hidden_size // vision.num_heads, self.device)
        self.parameters = [*model.parameters(), *self.probes.parameters()]
        on_gpu = self.device.type == "cuda"
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=torch.tensor(0.0, device=self.device),
            betas=(0.9, 0.98),
            fused=True,
            capturable=on_gpu,
        )
        self._losses_seen = torch.zeros(3, device=self.device)
        self._marks: dict[int, Tensor] = {}
        self._graphs: dict[Size, torch.cuda.CUDAGraph] = {}
        self._use_graphs = on_gpu and not self.family.written_times

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def __call__(
        self, clips: int, seconds: Sequence[float], conversation: bool = False, only: Sequence[int] = ()
    ) -> None:
        """Train on new clips with frames at `seconds`, with their questions one by one or as a conversation.

        `only` restricts the questions to these kinds of the plan; empty for all.
        """
        size = (clips, tuple(seconds), conversation, tuple(only))
        graph = self._graph(size) if self._use_graphs else None
        if graph is None:
            self._run(*size)
        else:
            graph.replay()

    def report(self) -> dict[str, Any]:
        """Return mean losses, and accuracy by frames, camera and family, since the last report (synchronises)."""
        answer, probe, steps = self._losses_seen.tolist()
        report: dict[str, Any] = {"answer": round(answer / steps, 4), "probe": round(probe / steps, 4), "accuracy": {}}
        for frames, marks in sorted(self._marks.items()):
            if any((totals := marks.tolist())[0][1]):
                report["accuracy"][frames] = {
                    camera: _by_family(self.kinds, *counts) for camera, counts in zip(CAMERAS, totals, strict=True)
                }
            marks.zero_()
        self._losses_seen.zero_()
        return report

    def _graph(self, size: Size) -> torch.cuda.CUDAGraph | None:
        """Return the captured step of this size, after two eager warm-up steps; None for good if capturing fails."""
        if size not in self._graphs:
            try:
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(2):
                        self._run(*size)
                torch.cuda.current_stream().wait_stream(side)
                self.optimizer.zero_grad(set_to_none=True)
                graph = torch.cuda.CUDAGraph()
                graph.register_generator_state(self.generator)
                with torch.cuda.graph(graph):
                    self._run(*size)
                self._graphs[size] = graph
            except RuntimeError as error:
                print(f"CUDA graphs are off: {error}", flush=True)
                self._use_graphs = False
                return None
        return self._graphs[size]

    def _run(self, clips: int, seconds: tuple[float, ...], conversation: bool, only: tuple[int, ...]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            batch = make_batch(self.book, clips, seconds, self.generator, conversation, only)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=_is_bfloat16_fast(self.device)):
            answer, probe, right = self._losses(batch)
        (answer + PROBE_WEIGHT * probe).backward()
        nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            self._losses_seen += torch.stack([answer, probe, torch.ones_like(answer)])
            none = torch.zeros(len(CAMERAS), 2, len(self.kinds), device=self.device)
            marks = self._marks.setdefault(len(seconds), none)
            counts = torch.stack([right, torch.ones_like(right)], dim=1).float()
            kinds = batch.kind[:, None].expand(-1, 2, -1)
            counted = counts.new_zeros(len(right), *none.shape[1:]).scatter(2, kinds, counts)
            marks += torch.einsum("cb,bnk->cnk", torch.stack([~batch.moving, batch.moving]).float(), counted)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of the answers, the loss of the probe, and correct answers `(B, Q)` (teacher-forced)."""
        hidden, tokens, early = run(self.family, self.model, batch, self.rotation)
        probe = self.probes["sprite"](tokens.flatten(0, 1), batch.targets)
        if self.family.written_times:
            shown = early[:, batch.opening.shown]
            digits = batch.opening.digits.repeat_interleave(TOKENS, dim=0).repeat(len(shown), 1)
            probe = probe + self.probes["clock"](shown.flatten(0, 1), digits)
        count, questions = batch.answer.shape[:2]
        blocks = hidden[:, 1 - batch.after.shape[1] :].view(count, questions, -1, hidden.shape[-1])
        at = batch.answer_at[..., None].expand(-1, -1, -1, hidden.shape[-1])
        logits = self.model.lm_head(blocks.gather(2, at)).float()
        answer = functional.cross_entropy(logits.flatten(0, 2), batch.answer.flatten(), ignore_index=IGNORED)
        right = ((logits.argmax(-1) == batch.answer) | (batch.answer == IGNORED)).all(-1)
        return answer, probe, right


def run(family: Family, model: Any, batch: Batch, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Run the model on packed sequences.

    Returns:
        Last hidden states `(B, S, hidden)`, visual tokens `(B · T, 16, hidden)`, hidden states after `EARLY` layers.
    """
    inner = model.model
    tokens, *added = family.see(inner.visual, batch.patches, rotation)
    opening, count = batch.opening, len(batch.after)
    ids = torch.cat([opening.ids.expand(count, -1), batch.after], dim=1)
    visual = functional.pad(opening.visual, (0, batch.after.shape[1])).expand(count, -1)
    embedded = inner.language_model.embed_tokens(ids).to(tokens.dtype)
    output = inner.language_model(
        inputs_embeds=embedded.index_copy(1, opening.shown, tokens.view(count, -1, tokens.shape[-1])),
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
        shared=len(opening.ids) + 1,
        **family.text_inputs(batch.mask, visual, added),
    )
    return output.last_hidden_state, tokens, output.hidden_states[EARLY]


def _is_bfloat16_fast(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively; on processors with AVX2 alone, float32 is faster."""
    return device.type == "cuda" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def _by_family(families: Sequence[str], right: Sequence[float], asked: Sequence[float]) -> dict[str, float]:
    """Compute the accuracy of each family from counts by kind of question."""
    found: dict[str, list[tuple[float, float]]] = {}
    for family, *counts in zip(families, right, asked, strict=True):
        found.setdefault(family, []).append((counts[0], counts[1]))
    totals = {family: [sum(part) for part in zip(*counts, strict=True)] for family, counts in found.items()}
    return {family: round(good / count, 3) for family, (good, count) in totals.items() if count}
