"""What a log is worth: its size, rewards, propensities and time, and what is wrong with it."""

import itertools
import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slatewise.batch import distinct
from slatewise.drawing import uniform_propensity
from slatewise.estimators import slate_weights
from slatewise.interactions import Interactions, Strings
from slatewise.logs.log import Log
from slatewise.sums import GroupSums

LARGE = 100  # weight of the uniform policy above which single decisions dominate estimates
DAY = 86_400_000_000  # microseconds
WEEK = 7  # days
SURE = 5  # standard errors by which an item must have been shown too often, whatever the number of items
OFTEN = 30  # times that an item must have been shown before anything is said of it
COUNT, KNOWN, REWARD, UNIFORM = range(4)  # columns of the sums


def check(log: Log) -> dict[str, Any]:
    """Read a whole log, in memory that hardly grows with it, and return a JSON-able report.

    `rows`, `sessions`, `missing_rewards`, `candidates` (min, max), `mean_reward` per decision and `uniform_weight`
    (each mean and standard_error, by user or session), `propensity` (kind, smallest, and the share of deterministic
    decisions), `items` of the catalogue and how many were ever shown, `time` (first and last day, days without a
    decision, mean reward of the first and last week), and `problems`: sentences that say what, how many, and what to
    do. The mean importance weight of the uniform policy is 1 within its standard error where the propensities are
    true and everything may be shown; it is None, and `propensity` the kind alone, where they are unknown. Raises
    InputError for files that cannot be read or values that no record may have.
    """
    report: dict[str, Any] = {"path": str(log.path), "rows": len(log), "sessions": log.sessions}
    if len(log) == 0:
        return report | {"problems": ["the log has no decisions: nothing was written to it"]}
    decisions, items, sessions, days, ids = _Decisions(), _Items(), _Sessions(), _Days(), _Ids()
    logged = log.propensities["kind"] == "logged"
    for block in log.blocks():
        decisions.add(block)
        if logged:
            items.add(block)
        sessions.add(block)
        days.add(block)
        ids.add(block.decision_id)
    report |= decisions.report(log.propensities["kind"]) | days.report()
    return report | {
        "problems": [
            *_reward_problems(report, decisions.rewards),
            *decisions.problems(report),
            *items.problems(),
            *sessions.problems(log.sessions),
            *days.problems(report),
            *ids.problems(),
        ]
    }


class _Decisions:
    """Rewards, candidates, propensities, and items that were shown."""

    def __init__(self) -> None:
        self.sums = GroupSums()
        self.missing = self.certain = self.heavy = 0
        self.smallest, self.heaviest = 1.0, 0.0
        self.candidates = (2**62, 0)
        self.rewards = (math.inf, -math.inf)
        self.shown: Tensor | None = None

    def add(self, rows: Interactions) -> None:
        """Take in a block."""
        mask, slate, known = rows.observation.mask, rows.decision.slate, rows.response.reward_known
        candidates, propensity = mask.sum(1), rows.decision.propensity.prod(1)
        uniform = slate_weights(uniform_propensity(mask, slate), rows.decision.propensity)
        reward = torch.where(known, rows.response.total_reward, 0.0)
        terms = torch.stack([torch.ones_like(reward), known.double(), reward, uniform], 1)
        self.sums.add(terms, rows.episode if rows.user_id is None else rows.user_id)
        self.missing += int((~known).sum())
        if bool(known.any()):
            low, high = reward[known].aminmax()
            self.rewards = min(self.rewards[0], float(low)), max(self.rewards[1], float(high))
        self.certain += int(((candidates > 1) & (propensity == 1)).sum())
        self.heavy += int((uniform > LARGE).sum())
        self.smallest = min(self.smallest, float(propensity.min()))
        self.heaviest = max(self.heaviest, float(uniform.max()))
        self.candidates = min(self.candidates[0], int(candidates.min())), max(self.candidates[1], int(candidates.max()))
        if rows.observation.catalogue is not None:
            if self.shown is None:
                self.shown = torch.zeros(len(rows.observation.catalogue), dtype=torch.bool)
            self.shown[rows.observation.item_ids.gather(1, slate.clamp(min=0))[slate >= 0]] = True

    def report(self, kind: str) -> dict[str, Any]:
        """Return what was found, by the report's keys."""
        items = {} if self.shown is None else {"catalogue": len(self.shown), "shown": int(self.shown.sum())}
        rows = float(self.sums.table[:, COUNT].sum())
        known = kind != "unknown"
        share = {"smallest": self.smallest, "deterministic": self.certain / rows} if known else {}
        return {
            "missing_rewards": self.missing,
            "candidates": {"min": self.candidates[0], "max": self.candidates[1]},
            "items": items or None,
            "mean_reward": _mean(self.sums, REWARD, KNOWN),
            "propensity": {"kind": kind} | share,
            "uniform_weight": _mean(self.sums, UNIFORM, COUNT) if known else None,
        }

    def problems(self, report: dict[str, Any]) -> list[str]:
        """Return what is wrong with the propensities."""
        kind = report["propensity"]["kind"]
        if kind == "unknown":
            return [
                "the propensities are unknown: such a log is good for learning, not for judging policies; log the "
                "probability of what was sampled, or import with estimated propensities"
            ]
        found: list[str] = []
        if kind == "estimated":
            found.append(
                "the propensities were estimated from the log itself: values judged by it are no better than that "
                "model; log the probability of what was sampled from now on"
            )
        if self.certain:
            found.append(
                f"{self.certain} decisions ({100 * report['propensity']['deterministic']:.1f} %) have propensity 1, so "
                "they say nothing about what was not shown: log with exploration (--explore-floor 0.05, say)"
            )
        if self.heavy:
            found.append(
                f"{self.heavy} decisions have a propensity more than {LARGE} times below that of a uniform policy "
                f"(the largest weight is {self.heaviest:.3g}): few of them can dominate estimates. In your own logs, "
                "explore more (--explore-floor 0.05, say); in given ones, trust no policy whose effective sample size "
                "`slatewise ope` finds small"
            )
        mean, error = report["uniform_weight"]["mean"], report["uniform_weight"]["standard_error"]
        if error is not None and abs(mean - 1) > max(4 * error, 1e-6):
            found.append(
                f"the mean weight of the uniform policy is {mean:.4g} ± {error:.2g}, and should be 1: the propensities "
                "are not those of what was done, or some candidates are never shown; log the probability of what was "
                "sampled"
            )
        return found


class _Items:
    """Whether items were shown as often as their propensities p say.

    Over the decisions that an item was a candidate of, the mean of 1[shown first] / p is 1 if p is true, whoever the
    users were. Only too large a mean is evidence: too small a one may be due to a rare propensity that was not met yet.
    """

    def __init__(self) -> None:
        self.table: Tensor | None = None  # [N, 4]: times a candidate, times shown first, Σ 1/p, Σ 1/p²
        self.ids: Sequence[str] | None = None

    def add(self, rows: Interactions) -> None:
        """Take in a block."""
        catalogue, first = rows.observation.catalogue, rows.decision.slate[:, :1]
        if catalogue is None:
            return
        if self.table is None:
            self.table, self.ids = torch.zeros(len(catalogue), 4, dtype=torch.float64), catalogue.ids
        shown = (first >= 0).squeeze(1)
        item_ids = distinct(rows.observation.item_ids)
        alike = len(item_ids) < len(rows)
        offered = item_ids[item_ids >= 0] if alike else item_ids[(item_ids >= 0) & shown.unsqueeze(1)]
        self.table[:, 0] += offered.bincount(minlength=len(catalogue)) * (shown.sum() if alike else 1)
        weight = 1 / rows.decision.propensity[shown, 0]
        terms = torch.stack([torch.zeros_like(weight), torch.ones_like(weight), weight, weight.square()], 1)
        self.table.index_add_(0, rows.observation.item_ids.gather(1, first.clamp(min=0))[shown, 0], terms)

    def problems(self) -> list[str]:
        """Say which items were shown more often than their propensities allow."""
        if self.table is None:
            return []
        offered, shown, weight, squares = self.table.unbind(1)
        error = (squares - weight.square() / offered).clamp(min=0).sqrt()
        wrong = ((shown >= OFTEN) & (weight - offered > SURE * error + 1e-6 * offered)).nonzero().squeeze(1)
        if not len(wrong):
            return []
        worst = int(wrong[(weight - offered)[wrong].argmax()])
        name = worst if self.ids is None else repr(self.ids[worst])
        more = f", and {len(wrong) - 1} more of {len(offered)} items too often" if len(wrong) > 1 else ""
        return [
            f"item {name} was shown {float(weight[worst] / offered[worst]):.3g} times as often as its propensities say"
            f"{more}: the propensities are not those of what was done, or choices were logged again without a new "
            "draw; log the probability of what was sampled, once a draw, or import with estimated propensities"
        ]


class _Sessions:
    """Whether sessions are whole: rows of a session are together and in order."""

    def __init__(self) -> None:
        self.count = self.late = self.gaps = self.backwards = 0
        self.last: tuple[int, int, int] | None = None  # episode, step and time of the last row

    def add(self, rows: Interactions) -> None:
        """Take in a block."""
        time = rows.time if rows.time is not None else torch.zeros_like(rows.step)
        episode, step = rows.episode, rows.step
        if self.last is not None:
            before = [torch.tensor([value]) for value in self.last]
            episode, step, time = (torch.cat(pair) for pair in zip(before, (episode, step, time), strict=True))
        same = episode[1:] == episode[:-1]
        first = ~same if self.last is not None else torch.cat([torch.ones(1, dtype=torch.bool), ~same])
        self.count += int(first.sum())
        self.late += int((first & (rows.step != 0)).sum())
        self.gaps += int((same & (step[1:] != step[:-1] + 1)).sum())
        self.backwards += int((same & (time[1:] < time[:-1])).sum())
        self.last = int(episode[-1]), int(step[-1]), int(time[-1])

    def problems(self, said: int) -> list[str]:
        """Say where sessions do not begin at step 0, lack steps, or run backwards in time."""
        found: list[str] = []
        if self.count != said:
            found.append(f"the rows belong to {self.count} sessions, log.json says {said}: write the log anew")
        if self.late:
            found.append(
                f"{self.late} sessions do not begin at step 0: returns over whole sessions are too small for them"
            )
        if self.gaps:
            found.append(f"{self.gaps} gaps between steps of a session: methods that look ahead skip what is missing")
        if self.backwards:
            found.append(f"{self.backwards} steps of a session are earlier than the step before: check the clock")
        return found


class _Days:
    """Decisions and rewards by day, UTC: drift and gaps."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}  # known rewards: how many, their sum, their sum of squares; all decisions

    def add(self, rows: Interactions) -> None:
        """Take in a block."""
        if rows.time is None:
            return
        days, at = torch.div(rows.time, DAY, rounding_mode="floor").unique(return_inverse=True)
        known = rows.response.reward_known
        reward = torch.where(known, rows.response.total_reward, 0.0)
        terms = torch.stack([known.double(), reward, reward.square(), torch.ones_like(reward)], 1)
        sums = torch.zeros(len(days), 4, dtype=torch.float64).index_add_(0, at, terms)
        for day, row in zip(days.tolist(), sums, strict=True):
            self.sums[day] = self.sums[day] + row if day in self.sums else row

    def report(self) -> dict[str, Any]:
        """Return first and last day, days without a decision, and the mean reward of the first and last week."""
        if not self.sums:
            return {"time": None}
        days = sorted(self.sums)
        first, last = days[0], days[-1]
        weeks = None
        if last - first >= 2 * WEEK - 1:
            weeks = {
                "first": self._week(range(first, first + WEEK)),
                "last": self._week(range(last - WEEK + 1, last + 1)),
            }
        return {
            "time": {
                "first": _date(first),
                "last": _date(last),
                "empty_days": last - first + 1 - len(days),
                "weeks": weeks,
            }
        }

    def _week(self, days: range) -> dict[str, float | None]:
        """Return the mean reward of some days, and its standard error if decisions were independent."""
        count, total, squares, _ = sum((self.sums[d] for d in days if d in self.sums), torch.zeros(4)).tolist()
        if count < 2:
            return {"mean": None, "standard_error": None}
        variance = max(0.0, squares - total**2 / count) / (count - 1)
        return {"mean": total / count, "standard_error": math.sqrt(variance / count)}

    def problems(self, report: dict[str, Any]) -> list[str]:
        """Say where days are missing, or rewards have drifted."""
        if not self.sums:
            return []
        found: list[str] = []
        days = sorted(self.sums)
        gaps = [(a, b) for a, b in itertools.pairwise(days) if b - a > 1]
        if gaps:
            start, end = max(gaps, key=lambda gap: gap[1] - gap[0])
            found.append(
                f"{report['time']['empty_days']} days have no decisions, the longest gap from {_date(start + 1)} to "
                f"{_date(end - 1)}: sessions and rewards may be missing there"
            )
        weeks = report["time"]["weeks"]
        if weeks and weeks["first"]["mean"] is not None and weeks["last"]["mean"] is not None:
            gap = weeks["last"]["mean"] - weeks["first"]["mean"]
            error = math.hypot(weeks["first"]["standard_error"], weeks["last"]["standard_error"])
            if abs(gap) > 4 * error and abs(gap) > 0.1 * abs(weeks["first"]["mean"]):
                found.append(
                    f"the mean reward went from {weeks['first']['mean']:.4g} in the first week to "
                    f"{weeks['last']['mean']:.4g} in the last: the past may not be like the future, judge on the last "
                    "weeks too"
                )
        return found


class _Ids:
    """Decision ids, as 64-bit hashes: which come more than once."""

    def __init__(self) -> None:
        self.hashes: list[np.ndarray[Any, Any]] = []

    def add(self, ids: Strings | None) -> None:
        """Take in a block."""
        if ids is not None:
            self.hashes.append(_hashes(ids))

    def problems(self) -> list[str]:
        """Say how many ids are not unique."""
        if not self.hashes:
            return []
        hashes = np.concatenate(self.hashes)
        repeated = len(hashes) - len(np.unique(hashes))
        if not repeated:
            return []
        return [
            f"{repeated} decisions have an id that another one has: joined rewards may belong to another decision, "
            "give every decision its own"
        ]


def _hashes(ids: Strings) -> np.ndarray[Any, Any]:
    """Return a 64-bit hash of every string: its 8-byte words, folded by multiplication and rotation."""
    text = np.char.encode(ids.astype(str), "utf-8")
    width = -(-text.dtype.itemsize // 8) * 8
    words = text.astype(f"S{width}").view(np.uint64).reshape(len(text), -1)
    folded = np.zeros(len(text), np.uint64)
    for column in words.T:
        folded = (folded ^ column) * np.uint64(0x9E3779B97F4A7C15)
        folded ^= folded >> np.uint64(29)
    return folded


def _mean(sums: GroupSums, numerator: int, denominator: int) -> dict[str, float | None]:
    value, error = sums.ratio(numerator, denominator)
    return {
        "mean": None if math.isnan(value) else value,
        "standard_error": None if math.isnan(error) else error,
    }


def _date(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def _reward_problems(report: dict[str, Any], ends: tuple[float, float]) -> list[str]:
    missing = report["missing_rewards"]
    if missing == report["rows"]:
        return ["no decision has a known reward: join rewards to the log before learning from it or judging by it"]
    found: list[str] = []
    if missing:
        found.append(
            f"{missing} of {report['rows']} decisions have no known reward: they are left out, join their rewards "
            "if they exist"
        )
    lowest, highest = ends
    if lowest == highest and report["rows"] - missing > 1:
        found.append(f"every reward is {lowest:g}: choose a reward that differs between decisions")
    return found
