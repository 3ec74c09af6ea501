"""Off-policy evaluation: what a policy would earn, judged by a log of another policy's decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from slatewise.errors import InputError, unknown_name
from slatewise.estimators import ESTIMATORS
from slatewise.interactions import Policy, Spec
from slatewise.off_policy.betting import ValueBets
from slatewise.off_policy.conclusions import LOGGED, Conclusions
from slatewise.off_policy.reading import Evidence, InteractionLog, ItemGroups, Question, fitted, read, reward_range
from slatewise.off_policy.result import Result
from slatewise.off_policy.reward_model import make_reward_model
from slatewise.off_policy.terms import Terms

DEFAULT = ("IPS", "SNIPS", "DR")
SLATES = ("IPS", "SNIPS", "cIPS")  # over whole slates
INTERVALS = ("normal", "bootstrap", "empirical-bernstein", "betting")
BOUNDED = ("empirical-bernstein", "betting")  # these need terms whose bounds are known: IPS
MYOPIC = (
    "the log has sessions of several decisions: the values are mean rewards of single decisions, in the states that "
    "the logged policy led to. What a policy does to later states and to the length of sessions is not in them, so a "
    "greedy policy can look better here than it is in the long run"
)
ESTIMATED = " (by propensities that were estimated, not logged)"


def evaluate(
    log: InteractionLog,
    policies: Policy | Mapping[str, Policy],
    explore: bool = False,
    baseline: str = LOGGED,
    seed: int = 0,
    estimators: Sequence[str] | str | None = None,
    interval: str = "normal",
    reward_model: Any = "ridge",
    reward_range: tuple[float, float] | None = None,
    smallest_propensity: float | None = None,
    groups: ItemGroups | None = None,
) -> Result:
    """Estimate the mean reward per decision of policies, under the log's own observations.

    The log is read once, after a pass for the reward model, in memory that does not grow with it. Decisions of one user
    (or session, where the log has no users) may depend on each other. Better or worse is judged by DR, or by SNIPS for
    slates of more items, on the paired difference to the baseline.

    policies: one, or several by name.  explore: judge them as they explore, or greedy.  baseline: `logged`, or the name
    of one of the policies.  seed: of the folds that the reward model is cross-fitted on, and of the bootstrap.
    estimators: names of `ESTIMATORS`, or "all" that are possible; IPS, SNIPS and DR by default, over whole slates
    (IPS, SNIPS, cIPS) where these have several items.  interval: "normal" (for few rewards, an interval for rare
    events), "bootstrap", "empirical-bernstein" or "betting", which holds at all times at once; the last two for IPS.
    reward_model: a name or an object, for DM, DR and their kin.  reward_range: no reward can lie outside, for the last
    two intervals; by default as seen in the log.  smallest_propensity: no slate can be logged with less probability,
    for the same two; by default as seen for the first, and not known for the second, which is wider then.  groups: of
    items, for MIPS.
    Raises InputError for an unknown name, what slates of several items do not allow, a log without known rewards or
    whose propensities are unknown or impossible, what is no log or no policy, a policy that never shows what was
    logged, or propensities that are not probabilities, or not one for every slot.
    """
    named = _named(policies)
    if baseline != LOGGED and baseline not in named:
        raise unknown_name("baseline", baseline, [LOGGED, *named])
    if interval not in INTERVALS:
        raise unknown_name("interval", interval, INTERVALS)
    origin = _origin(log)
    chosen = _chosen(estimators, log.spec, interval, groups)
    terms = Terms(chosen)
    with torch.no_grad():
        bets = _bets(log, named, reward_range) if interval == "betting" else None
        model = fitted(make_reward_model(reward_model, log.spec, seed), log) if terms.modelled else None
        asked = groups if "MIPS" in chosen else None
        against = None if baseline == LOGGED else baseline
        evidence = read(log, Question(named, explore, terms, model, asked, bets, against, smallest_propensity))
        _bound_rewards(evidence, reward_range, interval)
        if smallest_propensity is not None and not 0 < smallest_propensity <= evidence.smallest:
            raise InputError(
                f"smallest_propensity is {smallest_propensity:g}, and the log has a slate of {evidence.smallest:.6g}: "
                "give what the logging policy guarantees (explore_floor / number of candidates, for instance)"
            )
        if interval == "betting" and evidence.repeats:
            raise InputError(
                "interval 'betting' takes decisions as they come, so it needs one a user or session, and this log has "
                "several: use 'bootstrap' or 'normal', which let them depend on each other"
            )
        conclusions = Conclusions(evidence, chosen, baseline, interval, seed)
        notes = _notes(log.spec, estimators, interval, evidence, reward_range)
        return _result(conclusions, [*_seen(log, named), *notes], origin)


def _named(policies: Policy | Mapping[str, Policy]) -> dict[str, Policy]:
    several = isinstance(policies, Mapping)
    named = dict(policies) if several else {str(getattr(policies, "name", "policy")): policies}
    if not named or (several and LOGGED in named):
        raise InputError(f"policies are {list(named)}: name at least one, and none of them {LOGGED!r}")
    for name, policy in named.items():
        if not callable(getattr(policy, "propensity", None)):
            raise InputError(
                f"policy {name!r} is of type {type(policy).__name__}, without a method propensity(observation, slate, "
                "explore): give an agent, a rule, or a policy of your own; several go into a dict by name"
            )
    return named


def _seen(log: InteractionLog, named: Mapping[str, Policy]) -> list[str]:
    """Warn of policies that say they learned from this log (`logs`: digests)."""
    digest = getattr(log, "digest", None)
    return [
        f"{name} learned from this very log: its estimates are too kind, because it fits what happened here by chance; "
        "judge it on decisions that it has not seen"
        for name, policy in named.items()
        if digest is not None and digest in getattr(policy, "logs", ())
    ]


def _origin(log: InteractionLog) -> str:
    """Return where the log's propensities come from. Raises InputError where nobody knows."""
    if not hasattr(log, "blocks"):
        raise InputError(f"log is of type {type(log).__name__}: open a log's folder first, slatewise.Log(folder)")
    about = cast(Mapping[str, Any], getattr(log, "propensities", {"kind": "logged"}))
    kind = str(about.get("kind", "logged"))
    if kind not in ("logged", "estimated"):
        raise InputError(
            "this log does not know how likely its decisions were (propensities: unknown): estimate the propensities "
            "when you import it, or log them from now on; without them nothing can be said of other policies"
        )
    return kind


def _chosen(
    estimators: Sequence[str] | str | None, spec: Spec, interval: str, groups: ItemGroups | None
) -> tuple[str, ...]:
    single = spec.slate_size == 1
    possible = [name for name in (ESTIMATORS if single else SLATES) if name != "MIPS" or groups is not None]
    if interval in BOUNDED:
        possible = ["IPS"]
    wanted = [estimators] if isinstance(estimators, str) and estimators != "all" else estimators
    for name in wanted or () if wanted != "all" else ():
        if name not in ESTIMATORS:
            raise unknown_name("estimator", name, list(ESTIMATORS))
        if name not in possible:
            raise InputError(_impossible(name, spec, interval))
    default = [name for name in DEFAULT if name in possible] + (["MIPS"] if groups and "MIPS" in possible else [])
    return tuple(possible if wanted == "all" else [name for name in possible if name in (wanted or default)])


def _impossible(name: str, spec: Spec, interval: str) -> str:
    if spec.slate_size > 1 and name not in SLATES:
        shown = spec.slate_size
        return f"{name} needs slates of one item, this log shows {shown}: use IPS, SNIPS or cIPS, over whole slates"
    if interval in BOUNDED:
        return f"interval {interval!r} needs terms whose bounds are known, which {name} has not: use IPS with it"
    return "MIPS needs groups of items and the policy that logged: give groups=ItemGroups(policy, of_item)"


def _bets(log: InteractionLog, named: Mapping[str, Policy], given: tuple[float, float] | None) -> dict[str, ValueBets]:
    ends = _range(given if given is not None else reward_range(log))
    return {name: ValueBets(ends) for name in named}


def _range(ends: tuple[float, float]) -> tuple[float, float]:
    """Widen a range to hold 0, so that a reward that nobody got yet has room."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    return low, high if high > low else low + 1.0


def _bound_rewards(evidence: Evidence, given: tuple[float, float] | None, interval: str) -> None:
    low, high = evidence.reward_range
    if given is not None:
        if low < given[0] or high > given[1]:
            outside = low if low < given[0] else high
            raise InputError(f"reward_range is {given[0]:g} to {given[1]:g}, and the log has a reward of {outside:g}")
        evidence.reward_range = given
    elif interval in BOUNDED:
        evidence.reward_range = _range((low, high))


def _notes(
    spec: Spec,
    estimators: Sequence[str] | str | None,
    interval: str,
    evidence: Evidence,
    given: tuple[float, float] | None,
) -> list[str]:
    notes: list[str] = []
    if evidence.sessions:
        notes.append(MYOPIC)
    if spec.slate_size > 1 and estimators is None:
        notes.append(f"no DR: it needs slates of one item, this log shows {spec.slate_size}")
    if getattr(evidence.question.model, "items_only", False):
        notes.append("DR's reward model sees the items only: with users there would be too many features")
    if evidence.excluded.number:
        rows = ", ".join(map(str, evidence.excluded.first))
        more = ", …" if evidence.excluded.number > len(evidence.excluded.first) else ""
        notes.append(
            f"{evidence.excluded.number:,} decisions have no known reward and are left out (rows {rows}{more}): join "
            "their rewards if they exist; if rewards are missing more often for some items, the values are biased"
        )
    if evidence.certain:
        notes.append("every logged propensity is 1: such a log says nothing about other policies")
    low, high = evidence.reward_range
    if interval in BOUNDED and given is None:
        notes.append(
            f"the intervals take rewards to lie between {low:g} and {high:g}, as in the log: if not, give their range"
        )
    if interval == "empirical-bernstein" and evidence.question.smallest_propensity is None:
        notes.append(
            f"the intervals take weights to be at most {1 / evidence.smallest:.4g}, one over the smallest logged "
            "propensity"
        )
    return notes


def _result(conclusions: Conclusions, notes: list[str], origin: str) -> Result:
    evidence, baseline = conclusions.evidence, conclusions.baseline
    judgements = conclusions.judgements()
    logged = conclusions.logged()
    judged = [j for name, j in judgements.items() if name != baseline]
    words = "; ".join(j.verdict for j in judged) or f"{baseline} is only compared with itself: name another policy"
    if origin == "estimated":
        words += ESTIMATED
        judgements = {name: replace(j, verdict=j.verdict + ESTIMATED) for name, j in judgements.items()}
        notes.insert(0, "the propensities were estimated, not logged: as far as they are wrong, so are the values")
    if any(i.kind == "few rewards" for j in judged for i in (j.estimates[j.judged_by], j.differences[j.judged_by])):
        notes.append(
            "few rewards carry these estimates (as good as fewer than 100 equal ones): the intervals are those for "
            "rare events, and allow for one more reward than was seen"
        )
    notes += [f"{name}: {warning}" for name, j in judgements.items() for warning in j.diagnostics.warnings()]
    return Result(
        words,
        bool(judged) and all(j.better for j in judged),
        baseline,
        logged,
        judgements,
        evidence.decisions,
        evidence.excluded.number,
        len(conclusions.table),
        tuple(notes),
        conclusions.kind,
        evidence.series.series(),
        None if evidence.calibration is None else evidence.calibration.calibration(),
        evidence.items.items(),
    )
