"""The kept patches of a session, for clients that draw them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ...cache.kept_patches import kept_entries, kept_shares
from ...streaming.session import VideoSession

_FULL = 255


def kept_of(session: VideoSession, last: int) -> dict[str, Any]:
    """Describe which patches a session keeps.

    Args:
        session: in memory.
        last: number of newest temporal steps to describe patch by patch.

    Returns:
        Number of `steps` seen, with `frames_per_step` frames each and a grid of `rows` × `columns` patches. `held`:
        pairs of step and number of entries, averaged over layers and heads, for steps with entries. `shares`: for each
        patch from step `first` on, the share of layers and heads that hold it, 0 to 255, row by row, in base64.
    """
    stream = session.stream
    each, grids = stream.adapter.frames_per_step, stream.layers[0].rows[0].grids
    if not grids:
        return {"frames_per_step": each, "steps": 0, "rows": 0, "columns": 0, "held": [], "first": 0, "shares": ""}
    (grid,) = grids.values()
    first = max(0, grid.frames - last)
    shares = np.rint(_FULL * kept_shares(stream.layers, first)).astype(np.uint8)
    entries = kept_entries(stream.layers)
    held = [[int(step), round(float(entries[step]), 3)] for step in np.flatnonzero(entries)]
    return {
        "frames_per_step": each,
        "steps": grid.frames,
        "rows": grid.rows,
        "columns": grid.columns,
        "held": held,
        "first": first,
        "shares": base64.b64encode(shares.tobytes()).decode(),
    }
