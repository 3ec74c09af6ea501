"""SLOPE: choosing an estimator's parameter by the data, between bias and noise."""

import math

import torch
from scipy.special import stdtrit
from torch import Tensor

from slatewise.off_policy.intervals import standard_error
from slatewise.off_policy.terms import Terms

SLACK = math.sqrt(6) - 1  # Tucker & Lee 2021
DOUBT = 0.1  # that an interval misses


def slope(values: Tensor, standard_errors: Tensor, groups: int) -> Tensor:
    """Return the position of the chosen estimate, int64 [...].

    values, standard_errors: [..., L], one per parameter.  groups: how many independent ones the errors come from.

    Estimates are ordered from the widest interval (least bias) to the narrowest; the last is chosen before the first
    that disagrees with one before it: |θ_i − θ_j| > c_i + (√6 − 1) c_j, c the half-width at 90 % (one-sided, Student's
    t). Su, Srinath & Krishnamurthy 2020, arXiv 2002.07729, with the constant of Tucker & Lee 2021 (SLOPE++).
    """
    width = float(stdtrit(max(groups - 1, 1), 1 - DOUBT)) * standard_errors.nan_to_num(math.inf)
    order = (-width).sort(dim=-1, stable=True).indices
    value, width = values.gather(-1, order), width.gather(-1, order)
    apart = (value.unsqueeze(-1) - value.unsqueeze(-2)).abs()  # [..., i, j]
    agrees = apart <= width.unsqueeze(-1) + SLACK * width.unsqueeze(-2)
    before = torch.ones(agrees.shape[-2:], dtype=torch.bool).tril(-1)
    last = (agrees | ~before).all(-1).cummin(-1).values.sum(-1) - 1
    return order.gather(-1, last.unsqueeze(-1)).squeeze(-1)


def tuned(terms: Terms, table: Tensor) -> Tensor:
    """Return where the chosen parameter of every estimator is among the choices, int64 [..., number of estimators].

    table: [..., G, T], sums of terms over groups of decisions.
    """
    found = terms.solve(table.sum(-2))
    errors = standard_error(table @ found.influence)
    groups = table.shape[-2]
    chosen = [
        torch.tensor(at)[slope(found.values[..., at], errors[..., at], groups)] for at in terms.positions.values()
    ]
    return torch.stack(chosen, -1)
