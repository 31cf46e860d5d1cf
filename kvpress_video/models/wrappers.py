"""Wrappers around transformers models: PEFT and `torch.compile`."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import UnsupportedModelError


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside a PEFT wrapper or a compiled one; any other model as it is.

    Raises:
        UnsupportedModelError: the wrapper puts virtual tokens in front of every prompt (prompt or prefix tuning).
    """
    peft = sys.modules.get("peft")  # a model in one of its wrappers has imported it
    while True:
        if peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel):
            if isinstance(model, peft.PeftModel) and model.active_peft_config.is_prompt_learning:
                raise UnsupportedModelError(
                    f"{type(model).__name__} puts virtual tokens in front of every prompt "
                    f"({model.active_peft_config.peft_type.value}), which cannot be told from those of a video: "
                    "use an adapter on the weights, such as LoRA."
                )
            model = model.base_model.model
        elif (compiled := getattr(model, "_orig_mod", None)) is not None:
            model = compiled
        else:
            return model
