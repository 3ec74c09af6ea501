"""Every estimator keeps every promise, and the contract can fail."""

from typing import Any

import pytest
import torch
from torch import Tensor

from slatewise.estimators import ESTIMATORS, Estimator, clipped, shrunk
from slatewise.testing import ContractError, check_estimator


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_keeps_its_promises(name: str) -> None:
    answers = check_estimator(ESTIMATORS[name])
    assert answers["weights stay between 0 and what they were"] == "kept"
    if name != "DM":
        assert answers["with unchanged weights endless data give the value, whatever the model"] == "kept"
    assert (answers["the true model gives the value, whatever the weights"] == "kept") == ESTIMATORS[name].modelled


class Uncorrected(Estimator):
    def value(self, reward: Tensor, weights: Tensor, *rest: Any, **more: Any) -> Tensor:
        return super().value(reward, weights, *rest, **more) * 0.9


class FirstCounts(Estimator):
    def value(self, reward: Tensor, weights: Tensor, *rest: Any, **more: Any) -> Tensor:
        return super().value(reward, weights, *rest, **more) + 1e-3 * (len(reward) - 24)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (Estimator("doubled", lambda w, _: 2 * w), r"a weight of 1e-09 becomes 2e-09 with parameter inf"),
        (Estimator("no end", clipped, grid=(1.0, 10.0)), r"its grid is \(1.0, 10.0\)"),
        (Estimator("falling", shrunk, grid=(float("inf"), 1.0)), "Let it rise"),
        (Uncorrected("too small"), r"on endless data it says .*; the value is"),
        (Uncorrected("model too small", lambda w, _: torch.zeros_like(w), modelled=True), "with the true model"),
        (FirstCounts("counts decisions"), "the same decisions twice, in another order, move it by 0.024"),
    ],
    ids=lambda value: value.source if isinstance(value, Estimator) else "",
)
def test_a_broken_estimator_is_told_what_is_wrong(estimator: Estimator, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_estimator(estimator)
