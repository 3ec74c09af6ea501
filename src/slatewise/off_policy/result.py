"""What an off-policy evaluation says: values, intervals, diagnostics, and a verdict in plain words."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from slatewise.off_policy.tracking import Calibration, Histogram, Items, Series

NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the standard normal
POWER_80 = 0.8416212335729143  # 80 % quantile of the standard normal
ENOUGH = 30  # effective decisions below which no interval is to be trusted
DOMINANT = 0.2  # share of the estimate that one decision should not exceed
MOVED = 10  # items that `to_json` names in either direction


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in reward per decision.

    kind: `normal` (Student's t), `few rewards` (mid-P gamma), `bootstrap`, `empirical-bernstein` or `betting`.
    """

    value: float
    low: float
    high: float
    standard_error: float
    kind: str = "normal"

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"

    @staticmethod
    def of(value: float, standard_error: float) -> "Interval":
        """Make the normal interval around a value."""
        reach = NORMAL_95 * standard_error
        return Interval(value, value - reach, value + reach, standard_error)


@dataclass(frozen=True)
class Diagnostics:
    """How far the log supports a policy.

    mean_weight should be 1 within its standard error: less means that the policy shows what was never logged.
    support: share of decisions whose logged slate the policy might show.  largest_share: the largest share of Σ |w r|
    that one decision has.  agreement: the policy's mean probability of what was logged.  unsupported: the mean
    probability that it does something else where the log was certain (propensity 1), so that nothing is known of it.
    """

    effective_sample_size: float
    mean_weight: float
    mean_weight_standard_error: float
    largest_weight: float
    support: float
    largest_share: float
    agreement: float = math.nan
    unsupported: float = 0.0

    @property
    def off_support(self) -> bool:
        """Whether the mean weight is so far from 1 that the values are biased."""
        gap = abs(self.mean_weight - 1)
        error = self.mean_weight_standard_error
        return gap > 0.01 and (math.isnan(error) or gap > 4 * error)

    @property
    def as_logged(self) -> bool:
        """Whether every weight is 1: the policy decides as the logged one did."""
        return abs(self.mean_weight - 1) < 1e-9 and abs(self.largest_weight - 1) < 1e-9

    @property
    def unusable(self) -> bool:
        """Whether no verdict can rest on the estimates."""
        return self.effective_sample_size < ENOUGH or self.off_support

    def warnings(self) -> list[str]:
        """Return what speaks against trusting the estimates."""
        found: list[str] = []
        if self.effective_sample_size < ENOUGH:
            found.append(
                f"the log is worth only {self.effective_sample_size:.1f} decisions of this policy: the intervals are "
                "not to be trusted, log more, or judge a policy nearer to the logged one"
            )
        if self.off_support:
            error = self.mean_weight_standard_error
            give_or_take = "" if math.isnan(error) else f" ± {error:.2g}"
            found.append(
                f"the mean weight is {self.mean_weight:.3g}{give_or_take}, not 1: the policy "
                "shows what the log never shows (or the propensities are wrong), so the values are biased; log with "
                "more exploration"
            )
        if self.unsupported > 0.01:
            found.append(
                f"in {100 * self.unsupported:.1f} % of the decisions or more it does what the log cannot show, because "
                "the logged policy was certain there (propensity 1); log with exploration everywhere"
            )
        if self.largest_share > DOMINANT:
            found.append(
                f"one decision makes up {100 * self.largest_share:.0f} % of the estimate: a few more may change it "
                "beyond its interval"
            )
        return found


@dataclass(frozen=True)
class Judgement:
    """One policy: a value per estimator, the paired differences to the baseline, diagnostics, verdict.

    parameters: chosen by SLOPE, for estimators that have one.  effective_sample_sizes: by estimator.  weights: their
    histogram.
    """

    estimates: dict[str, Interval]
    differences: dict[str, Interval]
    diagnostics: Diagnostics
    judged_by: str
    better: bool
    verdict: str
    parameters: dict[str, float] = field(default_factory=dict[str, float])
    effective_sample_sizes: dict[str, float] = field(default_factory=dict[str, float])
    weights: Histogram | None = None


@dataclass(frozen=True)
class Result:
    """An off-policy evaluation, verdict first.

    logged: what the logged policy earned.  baseline: `logged`, or the policy that the others are compared with.
    better: whether every judged policy beats the baseline, the whole interval of the paired difference above 0.
    decisions: how many counted; excluded: those whose reward is not known.  clusters: independent users or sessions, at
    most 65,536 (more are gathered at random into so many groups).  interval: the kind that was asked for.
    series, calibration (None without a model), items (None without a catalogue): for pictures.
    """

    verdict: str
    better: bool
    baseline: str
    logged: Interval
    policies: dict[str, Judgement]
    decisions: int
    excluded: int
    clusters: int
    notes: tuple[str, ...]
    interval: str = "normal"
    series: Series | None = None
    calibration: Calibration | None = None
    items: Items | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON-able dict; numbers that do not exist are None. Items: those that move most."""
        judged = self.policies.items()
        values: dict[str, Any] = {
            "verdict": self.verdict,
            "better": self.better,
            "baseline": self.baseline,
            "interval": self.interval,
            "logged": asdict(self.logged),
            "policies": {name: _estimates(policy) for name, policy in judged},
            "differences": {n: {e: asdict(i) for e, i in p.differences.items()} for n, p in judged},
            "diagnostics": {
                n: asdict(p.diagnostics) | {"judged_by": p.judged_by, "warnings": p.diagnostics.warnings()}
                for n, p in judged
            },
            "decisions": self.decisions,
            "excluded": self.excluded,
            "clusters": self.clusters,
            "notes": list(self.notes),
            "weights": {n: asdict(p.weights) for n, p in judged if p.weights is not None},
            "series": asdict(self.series) if self.series is not None else None,
            "calibration": asdict(self.calibration) if self.calibration is not None else None,
            "items": {} if self.items is None else {name: moved_items(self.items, name) for name in self.policies},
        }
        return _finite(values)


def _estimates(policy: Judgement) -> dict[str, Any]:
    return {
        name: asdict(interval)
        | {
            "effective_sample_size": policy.effective_sample_sizes.get(name, policy.diagnostics.effective_sample_size),
            "parameter": policy.parameters.get(name),
        }
        for name, interval in policy.estimates.items()
    }


def moved_items(items: Items, policy: str, number: int = MOVED) -> list[dict[str, Any]]:
    """Return the items whose share of slots a policy raises and lowers most: item, logged share, the policy's."""
    change = items.policies[policy] - items.logged
    order = change.argsort(descending=True, stable=True)
    at = order if len(order) <= 2 * number else torch.cat([order[:number], order[-number:]])
    return [
        {
            "item": str(i) if items.ids is None else items.ids[i],
            "logged": float(items.logged[i]),
            "policy": float(items.policies[policy][i]),
        }
        for i in at.tolist()
    ]


def verdict(
    name: str,
    baseline: str,
    difference: Interval,
    reference: Interval,
    diagnostics: Diagnostics,
    decisions: int,
    of_baseline: Diagnostics | None = None,
) -> tuple[bool, str]:
    """Return whether a policy is better than the baseline, and the sentence that says so.

    difference: of the two, paired.  reference: the baseline's value, for percentages.  decisions: in the log.
    of_baseline: the baseline's diagnostics, unless it is what was logged: a comparison is worth no more than either.
    """
    other = "what was logged" if baseline == "logged" else baseline
    change = _change(difference, reference)
    unsure = f"cannot tell whether {name} is better than {other}"
    if diagnostics.unusable:
        return False, f"{unsure}: {diagnostics.warnings()[0]}"
    if of_baseline is not None and of_baseline.unusable:
        return False, f"{unsure}, because of {baseline}: {of_baseline.warnings()[0]}"
    if of_baseline is None and diagnostics.as_logged:
        return False, f"{name} does what the logged policy did (every weight is 1): there is nothing to compare"
    if math.isnan(difference.standard_error):
        return False, f"{unsure}: the log has a single session or user, log more"
    if difference.low > 0:
        return True, f"{name} is better than {other}: {change}"
    if difference.high < 0:
        return False, f"{name} is worse than {other}: {change}"
    return False, f"{unsure}: {change}{_needed(difference, reference, decisions)}"


def _change(difference: Interval, reference: Interval) -> str:
    if reference.value > 2 * reference.standard_error:
        low, high = (100 * x / reference.value for x in (difference.low, difference.high))
        return f"{low:+.1f} to {high:+.1f} %"
    return f"{difference.low:+.4g} to {difference.high:+.4g} per decision"


def _needed(difference: Interval, reference: Interval, decisions: int) -> str:
    """Say how many more decisions would show a difference of this size, with a chance of 80 %."""
    if difference.standard_error <= 1e-12 * abs(reference.value):
        return "; they earn the same on this log"
    reach = difference.value - difference.low if difference.value >= 0 else difference.high - difference.value
    ratio = ((1 + POWER_80 / NORMAL_95) * reach / max(abs(difference.value), 1e-100)) ** 2
    if ratio > 1000:
        return "; the difference is so small that not even 1000 such logs would show it"
    more = decisions * (ratio - 1)
    rounded = round(more, 1 - math.floor(math.log10(max(more, 1.0))))
    return f"; roughly {rounded:,.0f} more decisions like these would show a difference of this size"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
