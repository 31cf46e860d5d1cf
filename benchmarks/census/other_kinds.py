"""Registered types without visual tokens in the KV cache of an autoregressive decoder, with the reason."""

from __future__ import annotations

_ENCODER_DECODER = "encoder-decoder"
_CROSS = "attends to vision by cross attention"

OTHER_KINDS: dict[str, str] = {
    "blip": _CROSS,
    "diffusion_gemma": "block diffusion",
    "evolla": "proteins, by cross attention",
    "florence2": _ENCODER_DECODER,
    "idefics": _CROSS,
    "mistral4": "text only",
    "mllama": _CROSS,
    "pi0": "robot actions, without a language-model head",
    "pix2struct": _ENCODER_DECODER,
    "pixtral": "vision tower of `llava`, registered without a text model",
    "pp_formulanet": _ENCODER_DECODER,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "vision-encoder-decoder": _ENCODER_DECODER,
}
