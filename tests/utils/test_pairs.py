"""The matrices of the slow tests meet every pair of values."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from pairs import pairs


@pytest.mark.parametrize("sizes", [(7, 5, 3), (5, 7, 2), (4, 4, 4), (6, 1, 1)])
def test_any_two_values_of_two_axes_meet(sizes: tuple[int, int, int]) -> None:
    axes = [[f"{axis}{value}" for value in range(size)] for axis, size in zip("abc", sizes, strict=True)]
    cases = pairs(*axes)
    for one, other in combinations(range(3), 2):
        assert {(case[one], case[other]) for case in cases} == set(product(axes[one], axes[other]))
    assert len(cases) == len(set(cases)) == sizes[0] * sizes[1]


def test_the_shortest_axis_is_the_last() -> None:
    with pytest.raises(ValueError, match="3 values"):
        pairs(["a", "b", "c"], ["d", "e"], ["f", "g", "h"])
