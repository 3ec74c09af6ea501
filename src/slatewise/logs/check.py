"""What a log is worth: its size, rewards and propensities, and what is wrong with it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slatewise.estimators import Estimate, slate_weights
from slatewise.interactions import Interactions
from slatewise.logs.log import Log
from slatewise.slates import uniform_propensity

LARGE = 100  # weight of the uniform policy above which single decisions dominate estimates


@dataclass(frozen=True)
class _Facts:
    """One number a decision, [B]."""

    known: Tensor
    reward: Tensor
    propensity: Tensor
    uniform_weight: Tensor
    candidates: Tensor
    choice: Tensor  # whether there was anything to choose
    episode: Tensor
    step: Tensor
    done: Tensor
    cluster: Tensor


def check(log: Log) -> dict[str, Any]:
    """Read a whole log and return a JSON-able report.

    `rows`, `sessions`, `missing_rewards`, `candidates` (min, max), `mean_reward` per decision and `uniform_weight`
    (each mean and standard_error, by user or session), `propensity` (smallest, and the share of deterministic
    decisions), and `problems`: sentences that say what, how many, and what to do. The mean importance weight of the
    uniform policy is 1 within its standard error where the propensities are true and everything may be shown.
    Raises InputError for files that cannot be read or values that no record may have.
    """
    pieces = [_facts(block) for block in log.blocks()]
    report: dict[str, Any] = {"path": str(log.path), "rows": len(log), "sessions": log.sessions}
    if not pieces:
        return report | {"problems": ["the log has no decisions: nothing was written to it"]}
    facts = _Facts(*(torch.cat([getattr(p, name) for p in pieces]) for name in _Facts.__dataclass_fields__))
    known = facts.known
    report |= {
        "missing_rewards": int((~known).sum()),
        "candidates": {"min": int(facts.candidates.min()), "max": int(facts.candidates.max())},
        "mean_reward": _mean(facts.reward[known], facts.cluster[known]),
        "propensity": {
            "smallest": float(facts.propensity.min()),
            "deterministic": float((facts.choice & (facts.propensity == 1)).double().mean()),
        },
        "uniform_weight": _mean(facts.uniform_weight, facts.cluster),
    }
    return report | {
        "problems": [*_reward_problems(report), *_propensity_problems(facts, report), *_sessions(facts, log.sessions)]
    }


def _facts(rows: Interactions) -> _Facts:
    mask, slate = rows.observation.mask, rows.decision.slate
    candidates = mask.sum(1)
    return _Facts(
        rows.response.reward_known,
        rows.response.total_reward,
        rows.decision.propensity.prod(1),
        slate_weights(uniform_propensity(mask, slate), rows.decision.propensity),
        candidates,
        candidates > 1,
        rows.episode,
        rows.step,
        rows.done,
        rows.episode if rows.user_id is None else rows.user_id,
    )


def _mean(values: Tensor, cluster: Tensor) -> dict[str, float | None]:
    if len(values) == 0:
        return {"mean": None, "standard_error": None}
    estimate = Estimate.of_mean(values)
    error = estimate.standard_error(cluster)
    return {"mean": estimate.value, "standard_error": None if error != error else error}


def _reward_problems(report: dict[str, Any]) -> list[str]:
    missing, mean = report["missing_rewards"], report["mean_reward"]
    if missing == report["rows"]:
        return ["no decision has a known reward: join rewards to the log before learning from it or judging by it"]
    found: list[str] = []
    if missing:
        found.append(
            f"{missing} of {report['rows']} decisions have no known reward: they are left out, join their rewards "
            "if they exist"
        )
    if mean["mean"] == 0 and mean["standard_error"] == 0:
        found.append("every reward is 0: choose a reward that differs between decisions")
    return found


def _propensity_problems(facts: _Facts, report: dict[str, Any]) -> list[str]:
    found: list[str] = []
    certain = report["propensity"]["deterministic"]
    if certain > 0:
        count = int((facts.choice & (facts.propensity == 1)).sum())
        found.append(
            f"{count} decisions ({100 * certain:.1f} %) have propensity 1, so they say nothing about what was not "
            "shown: log with exploration (--explore-floor 0.05, say)"
        )
    heavy = facts.uniform_weight > LARGE
    if bool(heavy.any()):
        found.append(
            f"{int(heavy.sum())} decisions have a propensity more than {LARGE} times below that of a uniform policy "
            f"(the largest weight is {float(facts.uniform_weight.max()):.3g}): few of them can dominate "
            "estimates. In your own logs, explore more (--explore-floor 0.05, say); in given ones, trust no policy "
            "whose effective sample size `slatewise ope` finds small"
        )
    mean, error = report["uniform_weight"]["mean"], report["uniform_weight"]["standard_error"]
    if error is not None and abs(mean - 1) > max(4 * error, 1e-6):
        found.append(
            f"the mean weight of the uniform policy is {mean:.4g} ± {error:.2g}, and should be 1: the propensities are "
            "not those of what was done, or some candidates are never shown; log the probability of what was sampled"
        )
    return found


def _sessions(facts: _Facts, said: int) -> list[str]:
    """Say where sessions do not begin at step 0 or lack steps (rows of a session are together and in order)."""
    same = facts.episode[1:] == facts.episode[:-1]
    first = torch.cat([torch.ones(1, dtype=torch.bool), ~same])
    found: list[str] = []
    count = len(facts.episode.unique())
    if count != said:
        found.append(f"the rows belong to {count} sessions, log.json says {said}: write the log anew")
    late = int((first & (facts.step != 0)).sum())
    if late:
        found.append(f"{late} sessions do not begin at step 0: returns over whole sessions are too small for them")
    gaps = int((same & (facts.step[1:] != facts.step[:-1] + 1)).sum())
    if gaps:
        found.append(f"{gaps} gaps between steps of a session: methods that look ahead skip what is missing")
    return found
