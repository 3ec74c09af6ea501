"""The optimum of the small feed, by dynamic programming over all that its users can remember.

With one item of one topic on a page and taste that stays, a user is what was clicked on the last five pages and for
how long each topic is closed. Of these states some thousands can be reached, so V_t(s) = max over topics of
p (1 + V_t−1(s after a click)) + (1 − p) V_t−1(s after none) is solved exactly, with the world's own dynamics.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slatewise.environments.feed import SMALL_TASTE, WINDOW, Feed, appeal, tired
from slatewise.errors import InputError
from slatewise.policies import Rule
from slatewise.slates import top_k

TOPICS = len(SMALL_TASTE)
CLICKED = (TOPICS + 1) ** torch.arange(WINDOW)  # worth of the digits of a state's number: the topic clicked on a page,
CLOSED = (TOPICS + 1) ** WINDOW * (WINDOW + 1) ** torch.arange(TOPICS)  # and how long a topic is still closed


@dataclass(frozen=True, eq=False)
class Plan:
    """What the topics are worth: `worth` [T + 1, R, topics], float64, for 0 to T pages left in every state.

    codes: int64 [R], the states that can be reached, in order.
    """

    codes: Tensor
    worth: Tensor

    def at_start(self) -> float:
        """Return the expected clicks of a whole session under the optimum."""
        return float(self.worth[-1, 0].max())


def plan(env: Feed) -> Plan:
    """Plan the optimum of `variant=small`.

    Raises InputError for other users: those who differ, drift, or leave are not told apart by their last clicks.
    """
    s = env.settings
    if s.variant != "small" or s.influence or s.leaving or env.horizon is None:
        raise InputError(
            f"variant={s.variant} influence={s.influence:g} leaving={str(s.leaving).lower()}: "
            "only the feed of variant=small influence=0 leaving=false is solved exactly"
        )
    codes, clicked, ignored = _reachable(s.boredom)
    _, closed = _decoded(codes)
    p = appeal(torch.tensor(SMALL_TASTE) * (closed == 0)).double()
    worth = [torch.zeros_like(p)]
    for _ in range(env.horizon):
        value = worth[-1].amax(1)
        worth.append(p * (1 + value[clicked]) + (1 - p) * value[ignored].unsqueeze(1))
    return Plan(codes, torch.stack(worth))


def optimum(env: Feed, planned: Plan | None = None) -> Rule:
    """Return the optimum as a policy of this very simulator: it reads what its present users remember."""
    known = plan(env) if planned is None else planned

    def scores(items: Tensor) -> Tensor:
        codes = _encoded(env.state["recent"][:, :, :TOPICS].cpu(), env.state["closed"][:, :TOPICS].cpu())
        left = len(known.worth) - 1 - env.elapsed.cpu()
        return known.worth[left, torch.searchsorted(known.codes, codes)].to(items.device).gather(1, items)

    return Rule("optimum", lambda o, k: top_k(scores(o.item_ids), o.mask, k), env.spec.slate_size, device=env.device)


def _reachable(boredom: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states that can be reached from the beginning, int64 [R], and where they lead.

    That is, as positions among them: after a click on each topic, [R, topics], and after none, [R].
    """
    codes = torch.zeros(1, dtype=torch.int64)
    while True:
        recent, closed = _decoded(codes)
        pages = torch.cat([torch.eye(TOPICS), torch.zeros(1, TOPICS)])
        after = torch.stack([_encoded(*tired(recent, closed, page.expand_as(closed), boredom)) for page in pages], 1)
        known = torch.cat([codes, after.flatten()]).unique()
        if len(known) == len(codes):
            places = torch.searchsorted(codes, after)
            return codes, places[:, :-1], places[:, -1]
        codes = known


def _encoded(recent: Tensor, closed: Tensor) -> Tensor:
    """Return states as numbers, int64 [B], from `recent` [B, 5, topics] and `closed` [B, topics]."""
    topics = (recent * torch.arange(1, TOPICS + 1)).sum(2).long()
    return (topics * CLICKED).sum(1) + (closed.long() * CLOSED).sum(1)


def _decoded(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return `recent` [B, 5, topics] and `closed` [B, topics] of states given as numbers."""
    topics = codes.unsqueeze(1) // CLICKED % (TOPICS + 1)
    closed = codes.unsqueeze(1) // CLOSED % (WINDOW + 1)
    return (topics.unsqueeze(2) == torch.arange(1, TOPICS + 1)).float(), closed.float()
