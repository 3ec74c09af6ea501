"""Returns: rewards added up over a session, as averages of sessions and as targets for learning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.interactions import Interactions

STEP_MEMORY = 32.0  # returns that what is known of a step counts for, at most
MOST_STEPS = 100_000  # that are told apart


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error, over a number of independent values."""

    mean: float
    standard_error: float
    count: int

    @staticmethod
    def of(values: Tensor) -> "Mean":
        """Average independent values [n]; the standard error of fewer than two is NaN."""
        values = values.double()
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Mean(float(values.mean()) if len(values) else math.nan, error, len(values))


class SessionReturns:
    """Collects the return and length of every user's sessions while an environment runs.

    Averages use the first E sessions of every user, the same number for all: averaging whatever has ended so
    far favours short sessions.
    """

    def __init__(self, users: int, device: torch.device | str = "cpu") -> None:
        self.finished = torch.zeros(users, dtype=torch.int64, device=device)
        self._return = torch.zeros(users, dtype=torch.float64, device=device)
        self._length = torch.zeros(users, dtype=torch.int64, device=device)
        self._returns = torch.zeros(users, 1, dtype=torch.float64, device=device)
        self._lengths = torch.zeros(users, 1, dtype=torch.int64, device=device)

    def add(self, interactions: Interactions) -> Tensor:
        """Add one vector step (one row a user, in order); return the returns of the sessions that ended in it."""
        self._return += interactions.response.total_reward
        self._length += 1
        rows = interactions.done.nonzero().squeeze(1)
        if len(rows) == 0:
            return self._return[:0]
        which = self.finished[rows]
        if int(which.max()) >= self._returns.shape[1]:
            self._returns = torch.cat([self._returns, torch.zeros_like(self._returns)], 1)
            self._lengths = torch.cat([self._lengths, torch.zeros_like(self._lengths)], 1)
        ended = self._return[rows]
        self._returns[rows, which] = ended
        self._lengths[rows, which] = self._length[rows]
        self._return[rows] = 0
        self._length[rows] = 0
        self.finished[rows] += 1
        return ended

    def under_way(self) -> dict[str, Tensor]:
        """Return what the sessions that have not ended have so far: `return` float64 [B], `length` int64 [B]."""
        return {"return": self._return, "length": self._length}

    def go_on(self, under_way: Mapping[str, Tensor]) -> None:
        """Go on with sessions that another collector had under way."""
        self._return.copy_(under_way["return"])
        self._length.copy_(under_way["length"])

    def complete(self) -> int:
        """Return E, the fewest sessions that any user has finished."""
        return int(self.finished.min())

    def first(self, episodes: int) -> tuple[Tensor, Tensor]:
        """Return the returns and lengths of every user's first `episodes` sessions, flattened user by user.

        Raises ValueError where somebody has not finished so many.
        """
        if episodes > self.complete():
            raise ValueError(f"episodes={episodes}, but a user has finished only {self.complete()}")
        return self._returns[:, :episodes].flatten(), self._lengths[:, :episodes].flatten()


class StepValues:
    """What a session is worth from each of its steps on, whoever the user is and whatever is shown.

    How much of a session is left moves returns far more than an item does, no item changes it, and an observation need
    not tell it. Taken out of the returns, it leaves the differences between users and items, which a choice needs.
    `table`: float64 [2, L], the running mean of the returns of every step met so far, and how many returns it counts
    for, `STEP_MEMORY` at most, so that what was learned first is forgotten. Of a session without end, what comes after
    `MOST_STEPS` is one step.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.table = torch.zeros(2, 1, dtype=torch.float64, device=device)

    def at(self, step: Tensor) -> Tensor:
        """Return the values of steps int64 [B], float64 [B]; a step never met has the value of the last one."""
        return self.table[0, step.clamp(max=self.table.shape[1] - 1)]

    def learn(self, step: Tensor, returns: Tensor) -> None:
        """Take new returns float64 [B] at their steps into the means."""
        step = step.clamp(max=MOST_STEPS - 1)
        new = max(0, int(step.max()) + 1 - self.table.shape[1])
        mean, weight = torch.nn.functional.pad(self.table, (0, new))
        count, total = (torch.zeros_like(mean).index_add(0, step, of) for of in (torch.ones_like(returns), returns))
        mean = mean + (total - count * mean) / (count + weight).clamp(min=1)
        self.table = torch.stack([mean, (count + weight).clamp(max=STEP_MEMORY)])


def lambda_returns(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, discount: float, trace: float | Tensor
) -> Tensor:
    """λ-returns over parallel sessions (Sutton & Barto 2018, section 12.1), all inputs and the result [T, B].

    G_t = r_t + γ (1 − terminated_t) [(1 − λ_t) V(s_t+1) + λ_t G_t+1]. Where a session is truncated, and at the last
    step, G_t+1 belongs to other users or does not exist yet: V(s_t+1) takes its place.
    trace: λ, one number or one for every step, [T, B].
    """
    result = torch.empty_like(reward)
    traces = torch.as_tensor(trace, dtype=reward.dtype, device=reward.device).expand(reward.shape)
    following = next_value[-1]
    for t in range(len(reward) - 1, -1, -1):
        following = torch.where(truncated[t], next_value[t], following)
        ahead = torch.lerp(next_value[t], following, traces[t])
        following = result[t] = reward[t] + discount * torch.where(terminated[t], 0.0, ahead)
    return result


def returns_to_go(interactions: Interactions, ahead: Tensor, discount: float) -> Tensor:
    """Return Σ γᵏ of the rewards from each decision on to the end of its session, float64 [B].

    The rows may be of any sessions in any order. Where the next decision of a session that has not terminated is not
    among them, `ahead` [B], the value of what comes next, takes its place.
    """
    order = torch.argsort(interactions.step, stable=True)
    order = order[torch.argsort(interactions.episode[order], stable=True)]
    episode, step = interactions.episode[order], interactions.step[order]
    rows = torch.arange(len(order), device=order.device)
    goes_on = torch.zeros_like(rows, dtype=torch.bool)
    goes_on[:-1] = (episode[1:] == episode[:-1]) & (step[1:] == step[:-1] + 1) & ~interactions.done[order][:-1]
    stops = ~(goes_on | interactions.terminated[order])
    total = interactions.response.total_reward[order] + torch.where(stops, discount * ahead[order], 0.0)
    # Each row adds what the row 1, 2, 4, … decisions later has added up so far.
    later, factor = torch.where(goes_on, rows + 1, -1), discount
    while bool((later >= 0).any()):
        at = later.clamp(min=0)
        total = total + torch.where(later >= 0, factor * total[at], 0.0)
        later, factor = torch.where(later >= 0, later[at], -1), factor**2
    return torch.empty_like(total).index_copy(0, order, total)
