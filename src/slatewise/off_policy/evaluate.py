"""Off-policy evaluation: what a policy would earn, judged by a log of another policy's decisions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from slatewise.errors import InputError, unknown_name
from slatewise.estimators import (
    Estimate,
    dr_terms,
    effective_sample_size,
    ips_terms,
    slate_weights,
    snips_terms,
)
from slatewise.interactions import Interactions, Policy, Spec
from slatewise.off_policy.result import Diagnostics, Interval, Judgement, Result, verdict
from slatewise.off_policy.reward_model import CrossFitted, target_probabilities

ESTIMATORS = ("IPS", "SNIPS", "DR")
LOGGED = "logged"
MYOPIC = (
    "the log has sessions of several decisions: the values are mean rewards of single decisions, in the states that "
    "the logged policy led to. What a policy does to later states and to the length of sessions is not in them, so a "
    "greedy policy can look better here than it is in the long run"
)


class InteractionLog(Protocol):
    """What an evaluation reads: a `Log`, or anything with a spec and blocks that can be read more than once."""

    @property
    def spec(self) -> Spec:
        """Sizes and names."""
        ...

    def blocks(self) -> Iterator[Interactions]:
        """Yield all interactions, the same each time."""
        ...


def evaluate(
    log: InteractionLog,
    policies: Policy | Mapping[str, Policy],
    explore: bool = False,
    baseline: str = LOGGED,
    seed: int = 0,
    estimators: Sequence[str] | None = None,
) -> Result:
    """Estimate the mean reward per decision of policies, under the log's own observations.

    Inverse propensity scoring (IPS), self-normalised (SNIPS) and, for slates of one item, doubly robust (DR, with a
    cross-fitted linear reward model); over whole slates, whose total reward counts. Intervals are 95 %, normal, and
    allow decisions of one user (or session, where the log has no users) to depend on each other. Better or worse is
    judged by DR, or by SNIPS for slates of more items, on the paired difference to the baseline.

    policies: one, or several by name.  explore: judge them as they explore, or greedy.  baseline: `logged`, or the name
    of one of the policies.  seed: of the folds that the reward model is cross-fitted on.  estimators: a selection.
    Raises InputError for an unknown name, DR for slates of several items, a log without known rewards, a policy that
    never shows what was logged, or propensities that are not probabilities.
    """
    named = _named(policies)
    if baseline != LOGGED and baseline not in named:
        raise unknown_name("baseline", baseline, [LOGGED, *named])
    chosen = _chosen(estimators, log.spec)
    with torch.no_grad():
        model = _fit(log, seed) if "DR" in chosen else None
        rows = _collect(log, named, explore, model)
    return _result(rows, baseline, chosen, _notes(log.spec, estimators, model))


@dataclass
class _Rows:
    """One number a decision, float64 [B], for whatever has a known reward."""

    reward: Tensor
    cluster: Tensor
    propensity: Tensor
    predicted: Tensor
    excluded: int = 0
    sessions: bool = False  # of several decisions
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    predicted_target: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def _named(policies: Policy | Mapping[str, Policy]) -> dict[str, Policy]:
    if not isinstance(policies, Mapping):
        return {str(getattr(policies, "name", "policy")): policies}
    named = dict(policies)
    if not named or LOGGED in named:
        raise InputError(f"policies are {list(named)}: name at least one, and none of them {LOGGED!r}")
    return named


def _chosen(estimators: Sequence[str] | None, spec: Spec) -> tuple[str, ...]:
    possible = ESTIMATORS if spec.slate_size == 1 else ESTIMATORS[:2]
    for name in estimators or ():
        if name not in ESTIMATORS:
            raise unknown_name("estimator", name, ESTIMATORS)
        if name not in possible:
            raise InputError(
                f"DR needs slates of one item, this log shows {spec.slate_size}: use IPS or SNIPS, over whole slates"
            )
    return tuple(name for name in possible if estimators is None or name in estimators) or possible


def _notes(spec: Spec, estimators: Sequence[str] | None, model: CrossFitted | None) -> tuple[str, ...]:
    notes: list[str] = []
    if spec.slate_size > 1 and estimators is None:
        notes.append(f"no DR: it needs slates of one item, this log shows {spec.slate_size}")
    if model is not None and model.items_only:
        notes.append("DR's reward model sees the items only: with users there would be too many features")
    return tuple(notes)


def _known(log: InteractionLog) -> Iterator[tuple[Interactions, int]]:
    """Yield blocks without the rows whose reward is not known, and how many were left out."""
    for block in log.blocks():
        known = block.response.reward_known
        out = int((~known).sum())
        yield (block[known] if out else block), out


def _cluster(rows: Interactions) -> Tensor:
    return rows.episode if rows.user_id is None else rows.user_id


def _fit(log: InteractionLog, seed: int) -> CrossFitted:
    model = CrossFitted(log.spec, seed)
    for rows, _ in _known(log):
        model.add(rows, rows.response.total_reward, _cluster(rows))
    return model


def _collect(log: InteractionLog, named: Mapping[str, Policy], explore: bool, model: CrossFitted | None) -> _Rows:
    pieces = [_piece(rows, out, named, explore, model) for rows, out in _known(log)]
    if not any(len(piece.reward) for piece in pieces):
        raise InputError("no decision of this log has a known reward: join rewards to the log first")

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    return _Rows(
        joined([p.reward for p in pieces]),
        joined([p.cluster for p in pieces]),
        joined([p.propensity for p in pieces]),
        joined([p.predicted for p in pieces]),
        sum(p.excluded for p in pieces),
        any(p.sessions for p in pieces),
        {name: joined([p.weights[name] for p in pieces]) for name in named},
        {name: joined([p.predicted_target[name] for p in pieces]) for name in named},
    )


def _piece(
    rows: Interactions, excluded: int, named: Mapping[str, Policy], explore: bool, model: CrossFitted | None
) -> _Rows:
    reward, cluster = rows.response.total_reward, _cluster(rows)
    logged = rows.decision.propensity
    slate, mask = rows.decision.slate, rows.observation.mask
    sessions = bool((rows.step > 0).any()) or len(rows.episode.unique()) < len(rows)
    piece = _Rows(reward, cluster, logged.prod(1), torch.zeros_like(reward), excluded, sessions)
    scores = None
    if model is not None:
        scores = model.scores(rows.observation, cluster)
        piece.predicted = torch.where(slate >= 0, scores.gather(1, slate.clamp(min=0)), 0.0).squeeze(1)
    for name, policy in named.items():
        piece.predicted_target[name] = torch.zeros_like(reward)
        if scores is None:
            target = policy.propensity(rows.observation, slate, explore)
        else:
            every = target_probabilities(policy, rows.observation, explore)
            something = mask.any(1, keepdim=True)
            _check_sum(name, every, something.squeeze(1))
            target = torch.where(slate >= 0, every.gather(1, slate.clamp(min=0)), (~something).double())
            piece.predicted_target[name] = (every * scores).sum(1)
        piece.weights[name] = slate_weights(target, logged)
    return piece


def _check_sum(name: str, every: Tensor, something: Tensor) -> None:
    wrong = ((every.sum(1) - 1).abs() > 1e-3) & something
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"policy {name!r}: its propensities of all candidates sum to {float(every[row].sum()):.4g} in row {row}, "
            f"and not to 1 in {int(wrong.sum())} rows: `propensity` must agree with `act`"
        )


def _result(rows: _Rows, baseline: str, chosen: tuple[str, ...], notes: tuple[str, ...]) -> Result:
    mean = Estimate.of_mean(rows.reward)
    logged = Interval.of(mean.value, mean.standard_error(rows.cluster))
    references = dict.fromkeys(chosen, mean) if baseline == LOGGED else _estimates(rows, baseline, chosen)
    judgements = {
        name: _judge(rows, name, baseline, references, _estimates(rows, name, chosen)) for name in rows.weights
    }
    judged = [j for name, j in judgements.items() if name != baseline]
    if rows.sessions:
        notes = (MYOPIC, *notes)
    if bool((rows.propensity == 1).all()):
        notes = (*notes, "every logged propensity is 1: such a log says nothing about other policies")
    notes += tuple(f"{name}: {warning}" for name, j in judgements.items() for warning in j.diagnostics.warnings())
    return Result(
        "; ".join(j.verdict for j in judged) or f"{baseline} is only compared with itself: name another policy",
        bool(judged) and all(j.better for j in judged),
        baseline,
        logged,
        judgements,
        len(rows.reward),
        rows.excluded,
        len(rows.cluster.unique()),
        notes,
    )


def _estimates(rows: _Rows, name: str, chosen: tuple[str, ...]) -> dict[str, Estimate]:
    weights = rows.weights[name]
    if not bool((weights > 0).any()):
        raise InputError(
            f"policy {name!r} never shows what was logged: all {len(weights)} weights are 0, so this log cannot judge "
            "it; log with exploration, or let the policy explore (--explore)"
        )
    terms = {
        "IPS": lambda: Estimate.of_mean(ips_terms(rows.reward, weights)),
        "SNIPS": lambda: Estimate.of_ratio(*snips_terms(rows.reward, weights)),
        "DR": lambda: Estimate.of_mean(dr_terms(rows.reward, weights, rows.predicted, rows.predicted_target[name])),
    }
    return {estimator: terms[estimator]() for estimator in chosen}


def _judge(
    rows: _Rows, name: str, baseline: str, references: dict[str, Estimate], estimates: dict[str, Estimate]
) -> Judgement:
    def interval(estimate: Estimate) -> Interval:
        return Interval.of(estimate.value, estimate.standard_error(rows.cluster))

    differences = {key: interval(estimate.minus(references[key])) for key, estimate in estimates.items()}
    diagnostics = _diagnose(rows, rows.weights[name])
    by = next(e for e in ("DR", "SNIPS", "IPS") if e in estimates)
    reference = interval(references[by])
    of_baseline = None if baseline == LOGGED else _diagnose(rows, rows.weights[baseline])
    better, words = verdict(name, baseline, differences[by], reference, diagnostics, len(rows.reward), of_baseline)
    intervals = {key: interval(estimate) for key, estimate in estimates.items()}
    return Judgement(intervals, differences, diagnostics, by, better, words)


def _diagnose(rows: _Rows, weights: Tensor) -> Diagnostics:
    mean = Estimate.of_mean(weights)
    parts = (weights * rows.reward).abs()
    total = float(parts.sum())
    return Diagnostics(
        effective_sample_size(weights),
        mean.value,
        mean.standard_error(rows.cluster),
        float(weights.max()),
        float((weights > 0).double().mean()),
        float(parts.max()) / total if total else 0.0,
    )
