"""Start a Qwen3-VL from the bundled Qwen2.5-VL: `python -m kvpress_video.benchmarks.train.warm_start --out FOLDER`.

Weights common to both families are copied; the new vision tower is then fitted to the outputs of the old one. The
folder is a checkpoint for `train --family qwen3_vl --resume FOLDER`.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from kvpress_video.models.loading import load_bundled

from .batches import make_batch
from .checkpoint import MOMENTS, save
from .course import Course
from .families import FAMILIES
from .reuse import copy_words
from .step import PROBE_WEIGHT, Step
from .train import new_step, step_seed
from .vision import vision_rotation
from .worlds import WORLDS

FRAME = 13
"""Number of positions of a frame and its label in the new model; in the old model it is one."""
REACH = 16
"""Distances in frames over which rotations are compared."""
CLIPS = 32
FRAMES_PER_STEP = 64
RATE = 2e-3


@torch.no_grad()
def copy_text(new: Any, old: Any, tokens: dict[str, int], former: dict[str, int]) -> None:
    """Copy the weights of the text model; `tokens` and `former` are the vocabularies of both."""
    copy_words(new, old, tokens, former)
    fresh, known = new.model.language_model, old.model.language_model
    fresh.norm.load_state_dict(known.norm.state_dict())
    for layer, template in zip(fresh.layers, known.layers, strict=True):
        for name in ("mlp", "input_layernorm", "post_attention_layernorm"):
            getattr(layer, name).load_state_dict(getattr(template, name).state_dict())
        _copy_attention(layer.self_attn, template.self_attn, template.input_layernorm.weight)
        _match_rotations(layer.self_attn, fresh.rotary_emb.inv_freq, known.rotary_emb.inv_freq)


def _copy_attention(target: Any, source: Any, scale: Tensor) -> None:
    """Copy the projections; scale normalised queries and keys to their average size in the old model."""
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(target, name).load_state_dict(getattr(source, name).state_dict())
    target.o_proj.weight.copy_(source.o_proj.weight)
    target.o_proj.bias.zero_()
    for projection, norm in ((source.q_proj, target.q_norm), (source.k_proj, target.k_norm)):
        norm.weight.fill_(float(_energy(projection, scale).mean().sqrt()))


def _energy(projection: Any, scale: Tensor) -> Tensor:
    """Compute the mean square of each output of a projection, for normalised states multiplied by `scale`."""
    return (projection.weight * scale).square().sum(1) + projection.bias.square()


def _match_rotations(attention: Any, fresh: Tensor, known: Tensor) -> None:
    """Give each pair of channels, head by head, the frequency that rotates it per frame by as much as before.

    The sections of height and width barely rotated from frame to frame.
    """
    turned = torch.where(torch.arange(len(known)) < 10, known, 0.0)
    distances = torch.arange(1, REACH + 1)
    apart = (turned[:, None] - FRAME * fresh)[..., None] * distances
    cost = (1 - apart.cos()).mean(-1)
    size, groups = attention.head_dim, attention.num_key_value_groups
    ones = torch.ones(attention.q_proj.in_features)
    query = _energy(attention.q_proj, ones).view(-1, groups, 2, size // 2).sum((1, 2))
    key = _energy(attention.k_proj, ones).view(-1, 2, size // 2).sum(1)
    for head, weight in enumerate((query * key).sqrt()):
        pairs, places = linear_sum_assignment((weight[:, None] * cost).numpy())
        order = torch.empty(size // 2, dtype=torch.long)
        order[torch.from_numpy(places)] = torch.from_numpy(pairs)
        order = torch.cat([order, order + size // 2])
        mine = [(attention.k_proj, head), *((attention.q_proj, head * groups + i) for i in range(groups))]
        for projection, at in mine:
            rows = slice(at * size, (at + 1) * size)
            for part in (projection.weight, projection.bias):
                part[rows] = part[rows][order]


@torch.no_grad()
def copy_vision(new: Any, old: Any) -> None:
    """Copy the weights of the vision tower with equal shapes; features added to text layers begin at zero."""
    fresh, known = new.state_dict(), old.state_dict()
    for name, weight in fresh.items():
        if name in known and known[name].shape == weight.shape:
            weight.copy_(known[name])
    new.patch_embed.proj.bias.zero_()
    new.pos_embed.weight.zero_()
    for place, name in (("norm", "ln_q"), ("linear_fc1", "mlp.0"), ("linear_fc2", "mlp.2")):
        for kind, weight in old.merger.get_submodule(name).named_parameters():
            new.merger.get_submodule(place).get_parameter(kind).copy_(weight)
    for merger in new.deepstack_merger_list:
        merger.linear_fc2.weight.zero_()
        merger.linear_fc2.bias.zero_()


def fit_vision(step: Step, teacher: Any, seconds: float) -> None:
    """Train the vision tower and the probe to reproduce the outputs of `teacher` on new frames."""
    visual, former = step.model.model.visual, FAMILIES[teacher.config.model_type]
    old = teacher.config.vision_config
    rotation = vision_rotation(old.hidden_size // old.num_heads, step.device)
    began, steps, shown = time.monotonic(), 0, -math.inf
    while (spent := time.monotonic() - began) < seconds:
        with torch.no_grad():
            batch = make_batch(step.book, CLIPS, tuple(range(2 * FRAMES_PER_STEP // CLIPS)), step.generator)
            with torch.autocast(step.device.type, dtype=torch.bfloat16):
                [wanted] = former.see(teacher.model.visual, batch.patches, rotation)
        targets = batch.targets.view(len(batch.patches), -1, batch.targets.shape[-1])
        for part in torch.randperm(len(batch.patches)).split(FRAMES_PER_STEP):
            step.set_rate(RATE * min(1.0, (steps + 1) / 50) * (1 + math.cos(math.pi * spent / seconds)) / 2)
            step.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(step.device.type, dtype=torch.bfloat16):
                tokens, *_ = step.family.see(visual, batch.patches[part], step.rotation)
                probe = step.probes["sprite"](tokens.flatten(0, 1), targets[part].flatten(0, 1))
            goal = wanted[part].float()
            error = functional.mse_loss(tokens.float(), goal) / goal.var()
            (error + PROBE_WEIGHT * probe).backward()
            torch.nn.utils.clip_grad_norm_(step.parameters, 1.0)
            step.optimizer.step()
            steps += 1
        if spent - shown > 10:
            shown = spent
            print(f"{spent:.0f} s, {steps} steps: relative error {error:.4f}, probe {probe:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seconds", type=float, default=300, help="duration of the fit (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and clips (default 1)")
    parser.add_argument("--device", default="cpu", help="device to fit on (default cpu)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    teacher, processor = load_bundled(device=options.device)
    step = new_step("qwen3_vl", WORLDS["world"], torch.device(options.device))
    step.generator.manual_seed(step_seed(options.seed, 0))
    copy_text(step.model, teacher, step.book.tokenizer.get_vocab(), processor.tokenizer.get_vocab())
    copy_vision(step.model.model.visual, teacher.model.visual)
    fit_vision(step, teacher, options.seconds)
    (options.out / "log.jsonl").write_text("")
    save(options.out, step, Course(WORLDS["world"], 0))
    (options.out / MOMENTS).unlink()


if __name__ == "__main__":
    main()
