"""From the evidence of a log to judgements: parameters chosen, intervals, paired differences, verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slatewise.errors import InputError
from slatewise.estimators import ESTIMATORS
from slatewise.off_policy import intervals
from slatewise.off_policy.reading import Evidence
from slatewise.off_policy.result import Diagnostics, Interval, Judgement, verdict
from slatewise.off_policy.slope import tuned
from slatewise.off_policy.terms import Estimates, mean_reward, one_more
from slatewise.off_policy.tracking import WeightTracker

LOGGED = "logged"
JUDGES = ("DR", "SNDR", "SNIPS", "IPS", "MIPS", "DRos", "Switch-DR", "cIPS", "DM")  # the first of them decides
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Chosen:
    """One estimate per estimator.

    estimates: without weights changed, which is where intervals come from; positions: of these among all choices.
    values: with the parameters that SLOPE chose.
    """

    estimates: Estimates
    positions: list[int]
    values: Tensor
    parameters: dict[str, float]


class Conclusions:
    """Judgements of all policies of an evaluation, by the same evidence."""

    def __init__(self, evidence: Evidence, names: Sequence[str], baseline: str, kind: str, seed: int) -> None:
        self.evidence, self.names, self.baseline, self.kind, self.seed = evidence, tuple(names), baseline, kind, seed
        self.table = evidence.table
        self.chosen = {name: self._choose(name) for name in evidence.question.policies}

    def logged(self) -> Interval:
        """Return what the logged policy earned."""
        mean = self._logged(1)
        return _normal(mean)[0]

    def judgements(self) -> dict[str, Judgement]:
        """Return the judgement of every policy."""
        policies, width = list(self.chosen), len(self.names)
        of_baseline = self._logged(width) if self.baseline == LOGGED else self.chosen[self.baseline].estimates
        differences = [self._difference(name, of_baseline) for name in policies]
        every = Estimates.cat([*(self.chosen[name].estimates for name in policies), *differences, of_baseline])
        values = torch.stack([self.chosen[name].values for name in policies])
        against = of_baseline.value if self.baseline == LOGGED else self.chosen[self.baseline].values
        moved = torch.cat([values.flatten(), (values - against).flatten(), against])
        found = [_moved(i, value) for i, value in zip(self._intervals(every, policies), moved.tolist(), strict=True)]
        rows = [dict(zip(self.names, found[at : at + width], strict=True)) for at in range(0, len(found), width)]
        return {name: self._judge(name, rows[i], rows[len(policies) + i], rows[-1]) for i, name in enumerate(policies)}

    def _choose(self, name: str) -> "Chosen":
        evidence, terms = self.evidence, self.evidence.question.terms
        _refuse_without_weight(name, evidence)
        table, positions = evidence.of_policy(name, self.table), [terms.positions[e][-1] for e in self.names]
        typical = self._by_choice(name, lambda seen: seen.typical.value)
        estimates = terms.estimates(table, typical, evidence.reward_range, positions)
        picked = tuned(terms, table).tolist()
        parameters = {e: terms.choices[i].parameter for e, i in zip(self.names, picked, strict=True)}
        kept = {e: p for e, p in parameters.items() if ESTIMATORS[e].grid}
        return Chosen(estimates, positions, terms.solve(table.sum(0)).values[picked], kept)

    def _difference(self, name: str, of_baseline: Estimates) -> Estimates:
        chosen, number = self.chosen[name], float(self.table[:, 0].sum())
        more = self._by_choice(name, lambda seen: seen.above.value)[chosen.positions] / number
        less = self._by_choice(name, lambda seen: seen.below.value)[chosen.positions] / number
        return chosen.estimates.minus(of_baseline, *one_more(more, less, self.evidence.reward_range))

    def _by_choice(self, name: str, what: Callable[[WeightTracker], float]) -> Tensor:
        """Return a number for every choice, by the kind of weights that it uses, [E]."""
        plain, marginal = what(self.evidence.weights[name]), what(self.evidence.marginal[name])
        terms = self.evidence.question.terms
        kinds = [marginal if ESTIMATORS[choice.name].marginal else plain for choice in terms.choices]
        return torch.tensor(kinds, dtype=torch.float64) * terms.weighted

    def _logged(self, estimates: int) -> Estimates:
        return mean_reward(self.table[:, 0], self.table[:, 1], self.evidence.reward_range, estimates)

    def _intervals(self, every: Estimates, policies: list[str]) -> list[Interval]:
        if self.kind == "bootstrap":
            low, high = intervals.bootstrap(every, self.seed)
            return _pack(every, low, high, ["bootstrap"] * len(low))
        found = _normal(every)
        if self.kind == "empirical-bernstein":
            return _bounded(found, *self._bernstein(policies), self.kind)
        if self.kind == "betting":
            return _bounded(found, *self._betting(policies), self.kind)
        return found

    def _bernstein(self, policies: list[str]) -> tuple[Tensor, Tensor]:
        """Return intervals of the IPS values and differences of all policies."""
        low, high = self.evidence.reward_range
        largest = 1 / (self.evidence.question.smallest_propensity or self.evidence.smallest)
        count, reward = self.table[:, 0], self.table[:, 1]
        value = torch.stack([self.evidence.of_policy(name, self.table)[:, 3] for name in policies], 1)
        if self.baseline == LOGGED:
            against, least, most = reward.unsqueeze(1), -1.0, max(largest - 1, 1.0)
        else:
            against, least, most = value[:, [policies.index(self.baseline)]], -largest, largest
        terms = torch.cat([value, value - against], 1)
        factors = [(0.0, largest)] * len(policies) + [(least, most)] * len(policies)
        corners = torch.tensor([[f * r for f in pair for r in (low, high)] for pair in factors], dtype=torch.float64)
        return intervals.empirical_bernstein(terms, count, corners.amin(1), corners.amax(1))

    def _betting(self, policies: list[str]) -> tuple[Tensor, Tensor]:
        """Return intervals of the IPS values and differences of all policies, which hold at all times at once."""
        bets = self.evidence.question.bets
        assert bets is not None
        smallest = self.evidence.question.smallest_propensity
        largest = None if smallest is None else 1 / smallest
        values = [bets[name].value(ALPHA, largest) for name in policies]
        if self.baseline == LOGGED:
            differences = [bets[name].difference(ALPHA, largest) for name in policies]
        else:  # each value at half the error: a pair of weights has no bound
            halves = {name: bets[name].value(ALPHA / 2, largest) for name in policies}
            low, high = halves[self.baseline]
            differences = [
                (0.0, 0.0) if name == self.baseline else (halves[name][0] - high, halves[name][1] - low)
                for name in policies
            ]
        ends = torch.tensor(values + differences, dtype=torch.float64)
        return ends[:, 0], ends[:, 1]

    def _judge(
        self,
        name: str,
        estimates: dict[str, Interval],
        differences: dict[str, Interval],
        of_baseline: dict[str, Interval],
    ) -> Judgement:
        evidence = self.evidence
        diagnostics = self._diagnose(name, evidence.weights[name])
        by = next((e for e in JUDGES if e in estimates), next(iter(estimates)))
        reference = self.logged() if self.baseline == LOGGED else of_baseline[by]
        other = None if self.baseline == LOGGED else self._diagnose(self.baseline, evidence.weights[self.baseline])
        better, words = verdict(name, self.baseline, differences[by], reference, diagnostics, evidence.decisions, other)
        if by == "DM":
            better, words = False, f"cannot tell how good {name} is by DM alone: the error of its model is not known"
        sizes = {"MIPS": evidence.marginal[name].effective} if "MIPS" in estimates else {}
        histogram = evidence.weights[name].histogram()
        parameters = self.chosen[name].parameters
        return Judgement(estimates, differences, diagnostics, by, better, words, parameters, sizes, histogram)

    def _diagnose(self, name: str, seen: WeightTracker) -> Diagnostics:
        count, weights = self.table[:, 0], self.evidence.of_policy(name, self.table)[:, 2]
        mean = float(weights.sum() / count.sum())
        influence = (weights - mean * count) / count.sum()
        return Diagnostics(
            seen.effective,
            mean,
            float(intervals.standard_error(influence.unsqueeze(1))),
            seen.largest,
            1 - int(seen.counts[0]) / seen.number,
            seen.largest_part / seen.parts if seen.parts else 0.0,
            seen.agreement / seen.number,
            seen.missing / seen.number,
        )


def _refuse_without_weight(name: str, evidence: Evidence) -> None:
    seen = evidence.weights[name]
    if seen.total == 0:
        raise InputError(
            f"policy {name!r} never shows what was logged: all {seen.number} weights are 0, so this log cannot judge "
            "it; log with exploration, or let the policy explore (--explore)"
        )


def _moved(interval: Interval, value: float) -> Interval:
    """Put a tuned value into the interval of its untuned relative.

    What tuning takes from the noise may come back as bias, so nothing narrower can be promised.
    """
    return replace(interval, value=value, low=min(interval.low, value), high=max(interval.high, value))


def _normal(every: Estimates) -> list[Interval]:
    """Return normal intervals, and for estimates that few rewards carry those of rare events."""
    low, high = intervals.normal(every)
    few = intervals.few_rewards(every)
    if bool(few.any()):
        rare = intervals.rare_events(every)
        low, high = torch.where(few, rare[0], low), torch.where(few, rare[1], high)
    return _pack(every, low, high, ["few rewards" if f else "normal" for f in few.tolist()])


def _pack(every: Estimates, low: Tensor, high: Tensor, kinds: list[str]) -> list[Interval]:
    columns = (every.value, low, high, intervals.standard_error(every.influence))
    rows = zip(*(column.tolist() for column in columns), kinds, strict=True)
    return [Interval(*row) for row in rows]


def _bounded(found: list[Interval], low: Tensor, high: Tensor, kind: str) -> list[Interval]:
    """Put other ends into the first intervals; the last, of the baseline, keeps its own."""
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    changed = [replace(i, low=a, high=b, kind=kind) for i, (a, b) in zip(found, ends, strict=False)]
    return changed + found[len(ends) :]
