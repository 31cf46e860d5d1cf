"""Names of the cache among the arguments of transformers' modules; one for all since 5.24."""

from __future__ import annotations

from dataclasses import fields

from transformers.modeling_outputs import BaseModelOutputWithPast

_ONE_NAME = any(field.name == "cache" for field in fields(BaseModelOutputWithPast))

CACHE = "cache" if _ONE_NAME else "past_key_values"
"""Argument of text models and attention modules."""

STATES = "cache" if _ONE_NAME else "cache_params"
"""Argument of recurrent modules."""
