"""The ceiling of long-term satisfaction: its optimum by dynamic programming with the true model.

The state of a user is the net positive exposure n and the steps left; both are hidden from agents and known here.
Candidates are new at every step, so an item's worth is a function of its x alone and the best of the candidates is
the largest of independent draws: V_t(n) = E max over candidates of r(n, x) + E V_t−1(n′), by backward induction.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slatewise.environments.long_term_satisfaction import (
    LongTermSatisfaction,
    Variant,
    expected_engagement,
    next_exposure,
    rise_probability,
)
from slatewise.errors import InputError
from slatewise.policies import Rule
from slatewise.slates import top_k

NODES = 7  # of the Gauss–Hermite quadrature over the innovation


@dataclass(frozen=True, eq=False)
class Plan:
    """What the future is worth: `values` [T + 1, G], float64, for 0 to T steps left at the exposures `grid` [G].

    reward: `engagement` or `satisfaction_rose`.  discount: γ.  Values lie between those of the grid by linear
    interpolation.
    """

    variant: Variant
    reward: str
    grid: Tensor
    values: Tensor
    discount: float = 1.0

    def worth(self, exposure: Tensor, x: Tensor, left: Tensor) -> Tensor:
        """Return what the rest of a session is worth if an item is consumed now, [B, C], float64.

        exposure: [B].  x: [B, C].  left: int64 [B], steps left, the present one included.
        """
        exposure, x = exposure.double().unsqueeze(1), x.double()
        future = _smoothed(self.variant, self.grid, self.values[: int(left.max())])
        ahead = _interpolated(future, self.grid, next_exposure(self.variant, exposure, x), left.unsqueeze(1) - 1)
        return _reward(self.variant, self.reward, exposure, x) + self.discount * ahead

    def at_start(self) -> float:
        """Return the expected return of a whole session, discounted, under the optimum."""
        if self.variant.start is not None:
            starts = torch.tensor([self.variant.start], dtype=torch.float64)
        else:
            starts = (_midpoints(0.0, 1.0, 2000) - 0.5) / (1 - self.variant.memory_discount)
        last = torch.full(starts.shape, len(self.values) - 1)
        return float(_interpolated(self.values, self.grid, starts, last).mean())


def plan(env: LongTermSatisfaction, exposures: int = 1201, points: int = 400, discount: float = 1.0) -> Plan:
    """Plan the optimum of a world's settings.

    exposures: G, size of the grid.  points: of each kind of candidate, over which x is integrated.
    discount: γ; below 1, what an agent with this discount would do that knew everything.
    Raises InputError where candidates are kept for a session, which makes them part of the state.
    """
    settings, variant = env.settings, env.variant
    if settings.resample != "step":
        raise InputError(f"resample={settings.resample}: the optimum is planned for candidates that are new each step")
    farthest = max(abs(variant.start or 0.0), 1 / (1 - variant.memory_discount)) + 8 * variant.innovation_stddev
    grid = torch.linspace(-farthest, farthest, exposures, dtype=torch.float64)
    x, kinds, counts = _candidates(variant, settings.candidates, points)
    here, after = grid.unsqueeze(1), next_exposure(variant, grid.unsqueeze(1), x)
    now = _reward(variant, settings.reward, here, x)
    values = [torch.zeros_like(grid)]
    for _ in range(settings.horizon):
        future = _smoothed(variant, grid, values[-1].unsqueeze(0))
        worth = now + discount * _interpolated(future, grid, after, torch.zeros_like(after, dtype=torch.int64))
        values.append(_mean_of_best(worth, kinds, counts))
    return Plan(variant, settings.reward, grid, torch.stack(values), discount)


def optimum(env: LongTermSatisfaction, planned: Plan | None = None) -> Rule:
    """Return the optimum as a policy of this very simulator: it reads the hidden state of its present users."""
    known = plan(env) if planned is None else planned
    return Rule(
        "optimum",
        lambda o, k: top_k(known.worth(env.state["exposure"], o.items[:, :, 0], env.state["budget"].long()), o.mask, k),
        env.spec.slate_size,
        device=env.device,
    )


def _reward(variant: Variant, reward: str, exposure: Tensor, x: Tensor) -> Tensor:
    expected = expected_engagement if reward == "engagement" else rise_probability
    return expected(variant, exposure, x)


def _candidates(variant: Variant, count: int, points: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return x at equal shares of every kind of candidate [P], its kind int64 [P], and how many there are of a kind."""
    if not variant.parity:
        return _midpoints(0.0, 1.0, points), torch.zeros(points, dtype=torch.int64), [count]
    x = torch.cat([_midpoints(0.8, 1.0, points), _midpoints(0.0, 0.2, points)])
    return x, torch.arange(2).repeat_interleave(points), [count - count // 2, count // 2]


def _mean_of_best(worth: Tensor, kinds: Tensor, counts: list[int]) -> Tensor:
    """Return the mean of the largest of independent draws, [G], from their worth at equal shares [G, P].

    P(largest ≤ w) is the product over kinds of P(one ≤ w) to the power of how many there are.
    """
    ordered, order = worth.sort(1)
    below = torch.ones_like(ordered)
    for kind, count in enumerate(counts):
        mine = (kinds == kind)[order]
        below = below * (mine.cumsum(1) / (kinds == kind).sum()) ** count
    mass = below.diff(dim=1, prepend=torch.zeros_like(below[:, :1]))
    return (mass * ordered).sum(1)


def _smoothed(variant: Variant, grid: Tensor, values: Tensor) -> Tensor:
    """Return E values(n + innovation) at the grid's exposures, [T, G] from [T, G]."""
    nodes, masses = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(NODES))
    at = (grid.unsqueeze(1) + variant.innovation_stddev * nodes).flatten()
    rows = torch.arange(len(values)).unsqueeze(1)
    return _interpolated(values, grid, at, rows).view(len(values), len(grid), NODES) @ (masses / masses.sum())


def _interpolated(values: Tensor, grid: Tensor, at: Tensor, row: Tensor) -> Tensor:
    """Return rows of values [T, G] on an even grid [G] at points between, linearly; `at` and `row` broadcast."""
    place = ((at - grid[0]) / (grid[1] - grid[0])).clamp(0, len(grid) - 1)
    left = place.long().clamp(max=len(grid) - 2)
    index = row * len(grid) + left
    flat = values.flatten()
    return torch.lerp(flat[index], flat[index + 1], place - left)


def _midpoints(low: float, high: float, points: int) -> Tensor:
    return low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points
