"""Which cases of the matrices of families and methods a quick run takes: the others are slow tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import zoo

ALWAYS = ("qwen2_5_vl", "infinipot-v")
SHARE = 6
"""One family of so many, others for each test and method, so that every pair is met somewhere."""
METHODS = 4
"""One method of so many, others for each test."""


def is_quick(test: str, params: Mapping[str, Any]) -> bool:
    """Return whether a quick run takes a case.

    Args:
        test: name of the test function with its file.
        params: of the case; only the family and the method count.
    """
    family, method = params.get("family"), params.get("method", "")
    if family in zoo.FAMILIES and family not in ALWAYS:
        return crc32(f"{test} {method}".encode()) % SHARE == zoo.FAMILIES.index(family) % SHARE
    if not isinstance(method, str) or not method or method in ALWAYS:
        return True
    return crc32(f"{test} {method}".encode()) % METHODS == 0
