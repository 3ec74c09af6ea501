"""Reading a log for an evaluation: a pass for the reward model, then one that sums terms in fixed memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.estimators import marginal_weights, slate_weights
from slatewise.interactions import Interactions, Observation, Policy, Spec
from slatewise.off_policy.betting import ValueBets
from slatewise.off_policy.reward_model import RewardModel
from slatewise.off_policy.terms import Rows, Terms
from slatewise.off_policy.tracking import CalibrationTracker, ItemTracker, SeriesTracker, WeightTracker
from slatewise.policies import asked_propensity, candidate_probabilities
from slatewise.sums import GroupSums

NAMED = 5  # rows that a message names


class InteractionLog(Protocol):
    """What an evaluation reads: a `Log`, or anything with a spec and blocks that can be read more than once.

    A log may say where its propensities come from: `propensities`, a dict whose "kind" is "logged" (the default),
    "estimated" or "unknown".
    """

    @property
    def spec(self) -> Spec:
        """Sizes and names."""
        ...

    def blocks(self) -> Iterator[Interactions]:
        """Yield all interactions, the same each time."""
        ...


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """What MIPS needs: items in groups, and the policy that logged, whose probability of a group has to be known.

    policy: as it explored; its propensities must be those in the log.  of_item: int64 [N], the group of each item id.
    """

    policy: Policy
    of_item: Tensor


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a log: policies by name, how they act, which terms, and what the terms need."""

    policies: Mapping[str, Policy]
    explore: bool
    terms: Terms
    model: RewardModel | None
    groups: ItemGroups | None
    bets: Mapping[str, ValueBets] | None  # by policy, where intervals are to hold at all times
    baseline: str | None  # a policy to compare with; None: the logged one
    smallest_propensity: float | None  # no slate is logged with less probability; None: not known


class Evidence:
    """What a pass over the log found."""

    def __init__(self, question: Question) -> None:
        names = tuple(question.policies)
        self.question = question
        self.sums = GroupSums()
        self.weights = {name: WeightTracker() for name in names}
        self.marginal = {name: WeightTracker() for name in names}
        self.series, self.items = SeriesTracker(names), ItemTracker(names)
        self.calibration = CalibrationTracker() if question.model is not None else None
        self.decisions = 0
        self.excluded = Missing()
        self.reward_range = (torch.inf, -torch.inf)
        self.smallest = 1.0  # logged probability of a slate
        self.certain = True  # every propensity is 1
        self.sessions = False  # of several decisions
        self.repeats = False  # several decisions of one user or session

    def add(self, rows: Interactions) -> None:
        """Take in decisions whose rewards are known."""
        question, reward, cluster = self.question, rows.response.total_reward, cluster_of(rows)
        logged = rows.decision.propensity.prod(1)
        self._look(rows, reward, logged)
        scores = None if question.model is None else question.model.scores(rows.observation, cluster)
        shown = rows.decision.slate.clamp(min=0)
        predicted = torch.zeros_like(reward)
        if scores is not None and self.calibration is not None:
            predicted = torch.where(rows.decision.slate >= 0, scores.gather(1, shown), 0.0).squeeze(1)
            self.calibration.add(predicted, reward)
        own = None if question.groups is None else logging_probabilities(question.groups, rows)
        columns = [torch.stack([torch.ones_like(reward), reward], 1)]
        weights: dict[str, Tensor] = {}
        marginal: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}
        for name, policy in question.policies.items():
            target, every = _target(name, policy, rows, question.explore, scores is not None or own is not None)
            weights[name] = slate_weights(target, rows.decision.propensity)
            model_value = None
            if every is not None:
                known[name] = every
                model_value = None if scores is None else (every * scores).sum(1)
                if own is not None and question.groups is not None:
                    marginal[name] = _marginal(question.groups, rows, every, own)
                    self.marginal[name].add(marginal[name], reward, target.prod(1), logged)
            columns.append(question.terms.of(Rows(reward, weights[name], predicted, model_value, marginal.get(name))))
            self.weights[name].add(weights[name], reward, target.prod(1), logged)
            if question.bets is not None:
                question.bets[name].add(reward, weights[name])
        for trackers, found in ((self.weights, weights), (self.marginal, marginal)):
            for name, factors in found.items():
                trackers[name].compare(factors, 1.0 if question.baseline is None else found[question.baseline])
        self.sums.add(torch.cat(columns, 1), cluster)
        self.series.add(rows, reward, weights)
        self.items.add(rows, weights, known)

    def _look(self, rows: Interactions, reward: Tensor, logged: Tensor) -> None:
        low, high = self.reward_range
        self.decisions += len(rows)
        self.reward_range = min(low, float(reward.min())), max(high, float(reward.max()))
        self.smallest = min(self.smallest, float(logged.min()))
        self.certain &= bool((rows.decision.propensity == 1).all())
        repeated = len(rows.episode.unique()) < len(rows)
        self.sessions |= repeated or bool((rows.step > 0).any())
        self.repeats |= repeated or (rows.user_id is not None and len(rows.user_id.unique()) < len(rows))

    @property
    def table(self) -> Tensor:
        """Sums over groups: decisions, rewards, then the terms of each policy, float64 [G, 2 + P T]."""
        return self.sums.table

    def of_policy(self, name: str, table: Tensor) -> Tensor:
        """Return the columns of a table that belong to a policy, [G, T]."""
        size = len(self.question.terms)
        at = 2 + size * list(self.question.policies).index(name)
        return table[:, at : at + size]


class Missing:
    """Decisions without a known reward: how many, and the first of them."""

    def __init__(self) -> None:
        self.number = 0
        self.first: list[int] = []

    def add(self, rows: list[int]) -> None:
        """Take in rows of the log."""
        self.number += len(rows)
        self.first = (self.first + rows)[:NAMED]


def read(log: InteractionLog, question: Question) -> Evidence:
    """Read a log once. Raises InputError for a log without known rewards."""
    evidence = Evidence(question)
    for rows in known_rows(log, evidence.excluded):
        if len(rows):
            evidence.add(rows)
    if evidence.decisions == 0:
        raise InputError("no decision of this log has a known reward: join rewards to the log first")
    return evidence


def known_rows(log: InteractionLog, missing: Missing | None = None) -> Iterator[Interactions]:
    """Yield checked blocks without the rows whose reward is not known, which are counted."""
    start = 0
    for block in log.blocks():
        block = block.to("cpu")  # where all is summed up; policies are asked on their own device
        check_rows(block, start)
        known = block.response.reward_known
        everything = bool(known.all())
        if missing is not None and not everything:
            missing.add([start + int(i) for i in (~known).nonzero().squeeze(1)])
        start += len(block)
        yield block if everything else block[known]


def reward_range(log: InteractionLog) -> tuple[float, float]:
    """Return the smallest and largest known reward of a log."""
    low, high = torch.inf, -torch.inf
    for rows in known_rows(log):
        if len(rows):
            reward = rows.response.total_reward
            low, high = min(low, float(reward.min())), max(high, float(reward.max()))
    return low, high


def check_rows(rows: Interactions, start: int) -> None:
    """Raise InputError, naming rows of the log, for impossible propensities or known rewards that are not finite."""
    propensity = rows.decision.propensity
    bad = ~((propensity > 0) & (propensity <= 1)).all(1)
    if bool(bad.any()):
        value = propensity[bad][0]
        raise InputError(
            f"logged propensity {float(value[~((value > 0) & (value <= 1))][0]):.6g} in {named_rows(bad, start)}: the "
            "probability of what was shown lies in (0, 1]; drop these rows, or log it (or estimate it) anew"
        )
    reward = rows.response.total_reward
    bad = ~reward.isfinite() & rows.response.reward_known
    if bool(bad.any()):
        raise InputError(
            f"reward {float(reward[bad][0])} in {named_rows(bad, start)}: mark rewards that are missing as not known "
            "(reward_known), they are left out then"
        )


def named_rows(bad: Tensor, start: int) -> str:
    """Return which rows of a log are meant, and how many of how many."""
    rows = [str(start + int(i)) for i in bad.nonzero().squeeze(1)[:NAMED]]
    more = ", …" if int(bad.sum()) > NAMED else ""
    return f"row {', '.join(rows)}{more} ({int(bad.sum())} of the {len(bad)} rows from {start} on)"


def cluster_of(rows: Interactions) -> Tensor:
    """Return who a decision belongs to: the user where users are known, else the session."""
    return rows.episode if rows.user_id is None else rows.user_id


def _target(
    name: str, policy: Policy, rows: Interactions, explore: bool, all_candidates: bool
) -> tuple[Tensor, Tensor | None]:
    """Return a policy's propensity of what was shown, [B, K], and of every candidate, [B, C], where that is asked."""
    slate, mask = rows.decision.slate, rows.observation.mask
    if not all_candidates:
        return asked_propensity(policy, rows.observation, slate, explore), None
    every = candidate_probabilities(policy, rows.observation, explore)
    something = mask.any(1, keepdim=True)
    _check_sum(name, every, something.squeeze(1))
    return torch.where(slate >= 0, every.gather(1, slate.clamp(min=0)), (~something).double()), every


def _check_sum(name: str, every: Tensor, something: Tensor) -> None:
    wrong = ((every.sum(1) - 1).abs() > 1e-3) & something
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"policy {name!r}: its propensities of all candidates sum to {float(every[row].sum()):.4g} in row {row}, "
            f"and not to 1 in {int(wrong.sum())} rows: `propensity` must agree with `act`"
        )


def logging_probabilities(groups: ItemGroups, rows: Interactions) -> Tensor:
    """Return the logging policy's probability of every candidate, [B, C], after holding it against the log's."""
    every = candidate_probabilities(groups.policy, rows.observation, explore=True)
    slate, logged = rows.decision.slate, rows.decision.propensity
    own = every.gather(1, slate.clamp(min=0))
    wrong = ((own - logged).abs() > 1e-4 + 1e-2 * logged).squeeze(1) & (slate[:, 0] >= 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"groups.policy shows what was logged with probability {float(own[row]):.4g} in row {row}, the log says "
            f"{float(logged[row]):.4g} ({int(wrong.sum())} of {len(wrong)} rows differ): MIPS needs the very policy "
            "that logged"
        )
    return every


def _marginal(groups: ItemGroups, rows: Interactions, target: Tensor, logged: Tensor) -> Tensor:
    observation, slate = rows.observation, rows.decision.slate[:, 0]
    of_candidates = candidate_groups(groups.of_item, observation)
    weights = marginal_weights(target, logged, of_candidates, slate.clamp(min=0))
    return torch.where(slate >= 0, weights, 1.0)


def candidate_groups(of_item: Tensor, observation: Observation) -> Tensor:
    """Return the group of every candidate, int64 [B, C], −1 where padded. Raises InputError for unknown items."""
    ids = observation.item_ids
    if int(ids.max()) >= len(of_item):
        raise InputError(f"groups.of_item has {len(of_item)} items, the log shows item {int(ids.max())}: give all")
    return torch.where(ids >= 0, of_item[ids.clamp(min=0)], -1)


def fitted(model: Any, log: InteractionLog) -> Any:
    """Give a reward model the rewards of a log."""
    for rows in known_rows(log):
        if len(rows):
            model.add(rows, rows.response.total_reward, cluster_of(rows))
    return model
