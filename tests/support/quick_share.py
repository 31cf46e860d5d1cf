"""Which cases of matrices and of long tests a quick run takes: the others are slow tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import Any
from zlib import crc32

import pytest
import zoo

ALWAYS = ("qwen2_5_vl", "infinipot-v")
SHARE = 6
"""One family of so many, others for each test and method, so that every pair is met somewhere."""
METHODS = 4
"""One method of so many, others for each test."""
CASES = 3
"""One case of so many of a test that is marked `sampled`, and at least one."""


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


def left_out(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Iterate over the cases of `sampled` tests that a quick run leaves out, among those that are not slow already."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            tests[item.nodeid.split("[")[0]].append(item)
    for cases in tests.values():
        yield from sorted(cases, key=lambda case: crc32(case.name.encode()))[ceil(len(cases) / CASES) :]
