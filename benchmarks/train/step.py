"""One training step, eager or replayed as a CUDA graph: make a batch, update the model, accumulate metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..world.clips import CAMERAS
from ..world.questions import FAMILIES, KINDS, PLAN
from .batches import IGNORED, Batch, Phrasebook, make_batch
from .model import SpriteProbe, see, vision_rotation

PROBE_WEIGHT = 0.1
"""Weight of the probe's summed losses, relative to the answers' loss."""
LARGEST_GRADIENT = 1.0


class Step:
    """State of a training step; nothing in it synchronises with the device."""

    def __init__(self, model: Any, probe: SpriteProbe, book: Phrasebook, generator: torch.Generator) -> None:
        self.model, self.probe, self.book, self.generator = model, probe, book, generator
        self.device = generator.device
        vision = model.config.vision_config
        self.rotation = vision_rotation(vision.hidden_size // vision.num_heads, self.device)
        self.parameters = [*model.parameters(), *probe.parameters()]
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
        self._graphs: dict[tuple[int, int, bool], torch.cuda.CUDAGraph] = {}
        self._use_graphs = on_gpu

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def __call__(self, clips: int, frames: int, conversation: bool = False) -> None:
        """Train on `clips` new clips of `frames` frames, with their questions one by one or as a conversation."""
        size = (clips, frames, conversation)
        graph = self._graph(size) if self._use_graphs else None
        if graph is None:
            self._run(*size)
        else:
            graph.replay()

    def report(self) -> dict[str, Any]:
        """Mean losses, and accuracy by frames, camera and family, since the last report (synchronises)."""
        answer, probe, steps = self._losses_seen.tolist()
        report: dict[str, Any] = {"answer": round(answer / steps, 4), "probe": round(probe / steps, 4), "accuracy": {}}
        for frames, marks in sorted(self._marks.items()):
            if (totals := marks.tolist())[0][-1]:
                report["accuracy"][frames] = {
                    camera: _by_family([right / row[-1] for right in row[:-1]])
                    for camera, row in zip(CAMERAS, totals, strict=True)
                }
            marks.zero_()
        self._losses_seen.zero_()
        return report

    def _graph(self, size: tuple[int, int, bool]) -> torch.cuda.CUDAGraph | None:
        """The captured step of this size, after two eager warm-up steps; eager for good if capturing fails."""
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

    def _run(self, clips: int, frames: int, conversation: bool) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            batch = make_batch(self.book, clips, frames, self.generator, conversation)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            answer, probe, right = self._losses(batch)
        (answer + PROBE_WEIGHT * probe).backward()
        nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            self._losses_seen += torch.stack([answer, probe, torch.ones_like(answer)])
            marks = self._marks.setdefault(frames, torch.zeros(len(CAMERAS), len(PLAN) + 1, device=self.device))
            right = right.gather(1, batch.kind.argsort(1))
            counted = torch.cat([right, torch.ones_like(right[:, :1])], dim=1).float()
            marks += torch.stack([~batch.moving, batch.moving]).float() @ counted

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the answers, loss of the probe, and right answers `(B, Q)` (teacher-forced)."""
        inner = self.model.model
        seen = see(inner.visual, batch.patches, self.rotation)
        probe = self.probe(seen.flatten(0, 1), batch.sprites)
        embed = inner.language_model.embed_tokens
        count, questions = batch.answer.shape[:2]
        front = embed(batch.before).expand(count, -1, -1).to(seen.dtype)
        sequence = torch.cat([front, seen.view(count, -1, seen.shape[-1]), embed(batch.after).to(seen.dtype)], dim=1)
        hidden = inner.language_model(
            inputs_embeds=sequence,
            position_ids=batch.positions,
            attention_mask={"full_attention": batch.mask},
            use_cache=False,
        ).last_hidden_state
        blocks = hidden[:, 1 - batch.after.shape[1] :].view(count, questions, -1, hidden.shape[-1])
        at = batch.answer_at[..., None].expand(-1, -1, -1, hidden.shape[-1])
        logits = self.model.lm_head(blocks.gather(2, at)).float()
        answer = functional.cross_entropy(logits.flatten(0, 2), batch.answer.flatten(), ignore_index=IGNORED)
        right = ((logits.argmax(-1) == batch.answer) | (batch.answer == IGNORED)).all(-1)
        return answer, probe, right


def _by_family(accuracies: list[float]) -> dict[str, float]:
    """Means over the kinds of `PLAN` that belong to each family."""
    found: dict[str, list[float]] = {family: [] for family in FAMILIES}
    for kind, accuracy in zip(PLAN, accuracies, strict=True):
        found[KINDS[kind][0]].append(accuracy)
    return {family: round(sum(values) / len(values), 3) for family, values in found.items()}
