"""The method keeps the contract, and what it should."""

import pytest
import torch
from kvp_outstanding.outstanding import Outstanding

import kvpress_video as kv


@pytest.mark.parametrize("method", [Outstanding(), Outstanding(recency=2.0)])
def test_keeps_the_contract(method: Outstanding) -> None:
    kv.check_method(method)


def test_keeps_what_stands_out() -> None:
    frames, rows, columns = 4, 3, 4
    keys = torch.randn(2, frames * rows * columns, 8)
    values = torch.ones_like(keys)
    values[:, 17] = 5.0
    kept = kv.select("outstanding", keys, values, grid=(frames, rows, columns), keep=1)
    assert kept.tolist() == [[17], [17]]


def test_refuses_a_negative_recency() -> None:
    with pytest.raises(kv.BudgetError, match="at least 0, got -1"):
        kv.compressor.make_method("outstanding", recency=-1)
