"""Intervals against closed forms, brute force, and how often they hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from slatewise.estimators import ESTIMATORS
from slatewise.off_policy import intervals
from slatewise.off_policy.betting import SHARES, Bets, ValueBets, log_capital, lower_bound
from slatewise.off_policy.slope import slope
from slatewise.off_policy.terms import Estimates, Rows, Terms, mean_reward, one_more


def double(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def means(terms: Tensor, more: float = 0.0) -> Estimates:
    """Estimates of means of terms, [..., n, 1]: every decision a group."""
    value = terms.mean(-2)
    n = terms.shape[-2]
    up = torch.full_like(value, more / n)
    return Estimates(value, (terms - value.unsqueeze(-2)) / n, terms / n, up, torch.zeros_like(up))


def covered(pair: intervals.Pair, truth: float) -> float:
    low, high = pair
    return float(((low <= truth) & (truth <= high)).double().mean())


def test_estimates_of_groups_are_the_estimators_of_their_decisions() -> None:
    """Value, influence (leaving a group out, to first order) and Student's interval of every estimator."""
    rng, n, groups = np.random.default_rng(0), 60, 12
    rows = Rows(*(double(rng.normal(size=n)) if i != 1 else double(rng.uniform(0, 3, n)) for i in range(5)))
    at = torch.arange(n) % groups
    names = ["IPS", "SNIPS", "cIPS", "DM", "DR", "SNDR", "Switch-DR", "DRos", "MIPS"]
    terms = Terms(names)

    def estimate(kept: Tensor) -> Estimates:
        chosen = Rows(*(getattr(rows, key)[kept] for key in Rows.__dataclass_fields__))
        columns = terms.of(chosen)
        sums = torch.zeros(groups, columns.shape[1], dtype=torch.float64).index_add_(0, at[kept], columns)
        return terms.estimates(sums, torch.ones(len(terms.choices)).double(), (0.0, 1.0), range(len(terms.choices)))

    whole = estimate(torch.ones(n, dtype=torch.bool))
    for i, choice in enumerate(terms.choices):
        weights = rows.marginal if choice.name == "MIPS" else rows.weights
        assert weights is not None
        arguments = (rows.reward, weights, rows.predicted, rows.predicted_target, choice.parameter)
        expected = float(ESTIMATORS[choice.name].value(*arguments))
        assert float(whole.value[i]) == pytest.approx(expected, rel=1e-12), choice
    assert float(whole.influence.sum(0).abs().max()) < 1e-14
    without = estimate(at != 3).value
    share = 1 / groups  # leaving out a share s of the decisions moves the value by −influence / (1 − s)
    linear = [i for i, c in enumerate(terms.choices) if not ESTIMATORS[c.name].normalised]
    moved = -(whole.influence[3] / (1 - share))[linear]
    assert torch.allclose((without - whole.value)[linear], moved, rtol=1e-9, atol=1e-12)
    error = (whole.influence.square().sum(0) * groups / (groups - 1)).sqrt()
    low, high = intervals.normal(whole)
    assert torch.allclose(high - low, 2 * stats.t.ppf(0.975, groups - 1) * error, rtol=1e-9)


def test_a_single_group_has_no_standard_error() -> None:
    assert math.isnan(float(intervals.standard_error(torch.zeros(1, 2, dtype=torch.float64))[0]))


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_gamma_interval_of_equal_weights_is_the_mid_p_interval_of_a_poisson_count(count: int) -> None:
    """Half the probability of what was seen, and all of what is beyond, is 2.5 % at each end."""
    weight = 0.3
    total, squares = double([weight * count]), double([weight**2 * count])
    low, high = (float(end) / weight for end in intervals.gamma_interval(total, squares, double([weight])))
    below = stats.poisson(high).cdf(count - 1) + stats.poisson(high).pmf(count) / 2
    assert below == pytest.approx(0.025, rel=1e-6)
    if count == 0:
        assert low < 1e-12
    else:
        above = stats.poisson(low).sf(count) + stats.poisson(low).pmf(count) / 2
        assert above == pytest.approx(0.025, rel=1e-6)


def clicks(logs: int, n: int, rate: float, seed: int) -> tuple[Rows, float, float]:
    """Logs of few clicks, side by side, [logs, n]; the value of the target, and its difference to the logged one."""
    generator = torch.Generator().manual_seed(seed)
    logged, target = double([0.5, 0.3, 0.15, 0.05]), double([0.1, 0.2, 0.4, 0.3])
    rates = rate * double([0.7, 1.0, 1.3, 1.6])
    action = logged.multinomial(logs * n, replacement=True, generator=generator).view(logs, n)
    reward = (torch.rand(logs, n, generator=generator, dtype=torch.float64) < rates[action]).double()
    value = float((target * rates).sum())
    return Rows(reward, (target / logged)[action]), value, value - float((logged * rates).sum())


def estimates_of(rows: Rows) -> tuple[Estimates, Estimates]:
    """IPS and SNIPS, and their differences to the logged policy, [logs, 2]."""
    terms, count, n = Terms(["IPS", "SNIPS"]), torch.ones_like(rows.reward), rows.reward.shape[1]

    def typical(x: Tensor) -> Tensor:
        return (x.pow(3).sum(1) / x.square().sum(1)).unsqueeze(1).expand(-1, 2)

    w = rows.weights
    value = terms.estimates(terms.of(rows), typical(w), (0.0, 1.0), [0, 1])
    more, less = typical((w - 1).clamp(min=0)) / n, typical((1 - w).clamp(min=0)) / n
    return value, value.minus(mean_reward(count, rows.reward, (0.0, 1.0), 2), *one_more(more, less, (0.0, 1.0)))


def test_few_clicks_have_an_interval_that_holds_and_the_normal_one_does_not() -> None:
    """1,000 logs with 16 clicks on average: coverage has a standard error of 0.7 %."""
    rows, value, difference = clicks(1000, 2000, 0.008, 0)
    for estimates, truth in zip(estimates_of(rows), (value, difference), strict=True):
        assert bool(intervals.few_rewards(estimates).all())
        rare, normal = covered(intervals.rare_events(estimates), truth), covered(intervals.normal(estimates), truth)
        assert 0.93 < rare < 0.99, rare
        assert normal < 0.935, normal
    many, _, _ = clicks(5, 2000, 0.3, 0)
    assert not any(bool(intervals.few_rewards(e).any()) for e in estimates_of(many))


def test_bootstrap_is_the_studentised_one() -> None:
    """Against resampling with replacement, written out, on skewed terms; quantiles of 4,000 resamples, to 5 %."""
    rng = np.random.default_rng(0)
    terms = rng.exponential(size=80) ** 2
    n, mean, error = len(terms), terms.mean(), terms.std(ddof=1) / 80**0.5
    resampled = terms[rng.integers(0, n, (4000, n))]
    t = (resampled.mean(1) - mean) / (resampled.std(1) / n**0.5)
    lower, upper = mean - np.quantile(t, [0.975, 0.025]) * error
    low, high = intervals.bootstrap(means(double(terms).unsqueeze(1)), seed=1, draws=4000)
    assert float(low) == pytest.approx(lower, abs=0.1 * error)
    assert float(high) == pytest.approx(upper, abs=0.05 * (upper - mean))
    assert upper - mean > 1.3 * (mean - lower)  # lopsided, as the terms are


def test_groups_are_drawn_as_often_as_with_replacement() -> None:
    """Mean, variance and third central moment of how often, which studentised intervals rest on to second order."""
    beyond = np.array([256, *intervals.OFTEN, 0]) / 256
    times, chance = np.arange(len(beyond) - 1), beyond[:-1] - beyond[1:]
    mean = (times * chance).sum()
    moments = [((times - mean) ** k * chance).sum() for k in (2, 3)]
    assert [mean, *moments] == [1, 1, pytest.approx(1, abs=0.01)]


def test_bootstrap_of_many_equal_terms_is_normal_and_repeats_with_its_seed() -> None:
    terms = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (intervals.bootstrap(means(terms), seed=3) for _ in range(2))
    assert torch.equal(one[0], other[0])
    low, high = intervals.normal(means(terms))
    assert torch.allclose(one[1] - one[0], high - low, rtol=0.12)  # a quantile of 1,000 draws is known to 4 %


def test_empirical_bernstein_is_the_formula_and_holds() -> None:
    """Maurer & Pontil 2009, theorem 4, with ln(2 / 0.025) at both ends."""
    terms = torch.rand(300, 50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    count = torch.ones(300, 50, dtype=torch.float64)
    low, high = intervals.empirical_bernstein(terms, count, double([0.0]), double([3.0]))
    x = terms[0, :, 0].numpy()
    reach = math.sqrt(2 * x.var(ddof=1) * math.log(80) / 50) + 7 * 3 * math.log(80) / (3 * 49)
    assert float(high[0]) == pytest.approx(x.mean() + reach, rel=1e-12)
    assert covered((low, high), 1.5) > 0.99
    twice = intervals.empirical_bernstein(2 * terms, 2 * count, double([0.0]), double([3.0]))
    assert torch.allclose(twice[1], high)  # groups of two equal decisions are worth one


def capital_path(terms: Tensor, mean: float) -> Tensor:
    """The logarithm of capital after every decision, [logs, n], for terms [logs, n]."""
    odds = (terms / mean - 1).unsqueeze(2)
    return torch.log1p(SHARES * odds).cumsum(1).logsumexp(2) - math.log(len(SHARES))


@pytest.mark.parametrize("rate", [0.3, 0.01])
def test_betting_holds_at_all_times_at_once(rate: float) -> None:
    """250 logs of 500 decisions, looked at after every one: at most 5 % may ever refute the truth, ± 3 · 1.4 %."""
    rows, value, difference = clicks(250, 500, rate, 1)
    r, w = rows.reward, rows.weights
    for up, down, middle in (
        (w * r, w * (1 - r), (value, 1 - value)),
        (w * r - r + 1, w * (1 - r) - (1 - r) + 1, (1 + difference, 1 - difference)),
    ):
        peak = torch.maximum(capital_path(up, middle[0]).amax(1), capital_path(down, middle[1]).amax(1))
        refuted = float((peak >= math.log(2 / 0.05)).double().mean())
        assert refuted < 0.05 + 3 * 0.014, refuted


def test_a_histogram_loses_next_to_no_capital_and_never_wins_any() -> None:
    generator = torch.Generator().manual_seed(2)
    terms = torch.rand(5000, generator=generator, dtype=torch.float64).pow(4) * 20
    bets = Bets()
    bets.add(terms[:2000])
    bets.add(terms[2000:])
    used = bets.mass > 0
    assert float((bets.mass * bets.edges).sum()) == pytest.approx(float(terms.sum()), rel=1e-12)
    for mean in (2.0, 3.0, 3.5):
        exact = float(log_capital(terms, torch.ones_like(terms), mean))
        kept = float(log_capital(bets.edges[used], bets.mass[used], mean))
        assert exact - 0.01 - 1e-3 * abs(exact) < kept <= exact + 1e-9
    mirror = Bets()
    mirror.add(20 - terms)
    low = lower_bound(bets, mirror, 20.0, 0.025, None)
    assert float(log_capital(bets.edges[used], bets.mass[used], low)) == pytest.approx(math.log(40), rel=1e-3)
    assert low < float(terms.mean())
    empty = Bets()
    empty.add(torch.zeros(100, dtype=torch.float64))
    assert lower_bound(empty, empty, 1.0, 0.025, None) < 1e-12


def test_a_bound_on_weights_narrows_bets_where_rewards_are_few() -> None:
    rows, value, difference = clicks(12, 3000, 0.01, 5)
    held, widths = [], []
    for reward, weights in zip(rows.reward, rows.weights, strict=True):
        bets = ValueBets((0.0, 1.0))
        bets.add(reward, weights)
        (low, high), (least, most) = bets.value(0.05, 20.0), bets.difference(0.05, 20.0)
        held.append([low < value < high, least < difference < most])
        loose = bets.value(0.05)
        widths.append((high - low) / (loose[1] - loose[0]))
    assert torch.tensor(held).sum(0).min() >= 11
    assert sum(widths) / len(widths) < 0.8


def test_betting_intervals_shrink_around_the_truth_in_any_unit() -> None:
    rows, value, difference = clicks(1, 20_000, 0.3, 3)
    found = {}
    for scale, shift in ((1.0, 0.0), (10.0, -4.0)):
        bets = ValueBets((shift, scale + shift))
        for start in range(0, 20_000, 7000):
            part = slice(start, start + 7000)
            bets.add(scale * rows.reward[0, part] + shift, rows.weights[0, part])
        low, high = bets.value(0.05)
        assert low < scale * value + shift < high
        assert high - low < 0.09 * scale
        least, most = bets.difference(0.05)
        assert least < scale * difference < most
        found[scale] = [(low - shift) / scale, (high - shift) / scale, least / scale, most / scale]
    assert found[1.0] == pytest.approx(found[10.0], rel=1e-9)


def lepski(values: list[float], widths: list[float]) -> int:
    """SLOPE, as a loop."""
    order = sorted(range(len(values)), key=lambda i: -widths[i])
    for k, i in enumerate(order):
        for j in order[:k]:
            if abs(values[i] - values[j]) > widths[i] + (math.sqrt(6) - 1) * widths[j]:
                return order[k - 1]
    return order[-1]


def test_slope_is_the_loop_over_intervals() -> None:
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    errors = torch.rand(300, 8, generator=generator, dtype=torch.float64)
    chosen = slope(values, errors, 200)
    quantile = stats.t.ppf(0.9, 199)
    expected = [lepski(v, [quantile * e for e in w]) for v, w in zip(values.tolist(), errors.tolist(), strict=True)]
    assert chosen.tolist() == expected
    assert len(set(expected)) > 4
