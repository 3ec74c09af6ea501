"""Off-policy terms against formulas written out in NumPy, enumeration, and their own standard errors."""

import itertools

import numpy as np
import pytest
import torch

from slatewise.errors import InputError
from slatewise.estimators import (
    Estimate,
    dr_terms,
    effective_sample_size,
    ips_terms,
    slate_weights,
    snips_terms,
)


def double(values: object) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 50
    return {
        "reward": rng.normal(size=n),
        "target": rng.uniform(0, 1, (n, 2)),
        "logged": rng.uniform(0.1, 1, (n, 2)),
        "predicted": rng.normal(size=n),
        "predicted_target": rng.normal(size=n),
        "cluster": rng.integers(0, 9, n),
    }


def test_terms_are_the_formulas(rows: dict[str, np.ndarray]) -> None:
    weights = rows["target"].prod(1) / rows["logged"].prod(1)
    reward, w = double(rows["reward"]), slate_weights(double(rows["target"]), double(rows["logged"]))
    np.testing.assert_allclose(w.numpy(), weights, rtol=1e-14)
    np.testing.assert_allclose(ips_terms(reward, w).numpy(), weights * rows["reward"], rtol=1e-14)
    numerator, denominator = snips_terms(reward, w)
    value = Estimate.of_ratio(numerator, denominator).value
    assert value == pytest.approx((weights * rows["reward"]).sum() / weights.sum(), rel=1e-13)
    dr = dr_terms(reward, w, double(rows["predicted"]), double(rows["predicted_target"]))
    expected = rows["predicted_target"] + weights * (rows["reward"] - rows["predicted"])
    np.testing.assert_allclose(dr.numpy(), expected, rtol=1e-13)
    assert effective_sample_size(w) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_standard_errors_are_the_formulas(rows: dict[str, np.ndarray]) -> None:
    terms, cluster = rows["reward"], rows["cluster"]
    n, groups = len(terms), 9
    alone = Estimate.of_mean(double(terms)).standard_error(torch.arange(n))
    assert alone == pytest.approx(terms.std(ddof=1) / np.sqrt(n), rel=1e-12)
    sums = np.array([(terms - terms.mean())[cluster == g].sum() for g in range(groups)])
    clustered = Estimate.of_mean(double(terms)).standard_error(torch.as_tensor(cluster))
    assert clustered == pytest.approx(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / n, rel=1e-12)
    a, b = terms, rows["predicted"] + 3
    influence = (a - a.mean() / b.mean() * b) / b.mean()
    ratio = Estimate.of_ratio(double(a), double(b)).standard_error(torch.arange(n))
    assert ratio == pytest.approx(np.sqrt((influence**2).sum() / (n - 1) / n), rel=1e-12)


def test_influence_is_the_derivative_of_the_value_in_a_row_s_weight(rows: dict[str, np.ndarray]) -> None:
    a, b = double(rows["reward"]), double(rows["predicted"]) + 3
    estimate, n, step = Estimate.of_ratio(a, b), len(a), 1e-6
    for row in (0, 17):
        mass = torch.full((n,), 1 / n, dtype=torch.float64)
        mass[row] += step
        moved = float((mass * a).sum() / (mass * b).sum())
        assert (moved - estimate.value) / step == pytest.approx(float(estimate.influence[row]), rel=1e-4)


def test_paired_difference(rows: dict[str, np.ndarray]) -> None:
    a, b = double(rows["reward"]), double(rows["predicted"])
    difference = Estimate.of_mean(a).minus(Estimate.of_mean(b))
    whole = Estimate.of_mean(a - b)
    everyone = torch.arange(len(a))
    assert difference.value == pytest.approx(whole.value)
    assert difference.standard_error(everyone) == pytest.approx(whole.standard_error(everyone))
    assert Estimate.of_mean(a).minus(Estimate.of_mean(a)).standard_error(everyone) == 0


def test_whole_slates_by_enumeration() -> None:
    """Over all ordered slates of 2 of 4: E[w] = 1 and E[w r] is the target's value, exactly."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.1, 1, 4), rng.uniform(0.1, 1, 4)
    slates = list(itertools.permutations(range(4), 2))
    logged = np.array([[a[i] / a.sum(), a[j] / (a.sum() - a[i])] for i, j in slates])
    target = np.array([[b[i] / b.sum(), b[j] / (b.sum() - b[i])] for i, j in slates])
    reward = rng.normal(size=len(slates))
    weights, p = slate_weights(double(target), double(logged)), double(logged.prod(1))
    assert float((p * weights).sum()) == pytest.approx(1, rel=1e-14)
    truth = (target.prod(1) * reward).sum()
    assert float((p * ips_terms(double(reward), weights)).sum()) == pytest.approx(truth, rel=1e-13)


def test_dr_is_exact_in_expectation_for_any_model_and_without_noise_for_the_true_one() -> None:
    rng = np.random.default_rng(2)
    logged, target = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    reward, wrong = rng.normal(size=5), rng.normal(size=5)
    weights = double(target / logged)
    truth = float((target * reward).sum())
    for model in (wrong, reward):
        at_target = double(np.full(5, (target * model).sum()))
        terms = dr_terms(double(reward), weights, double(model), at_target)
        assert float((double(logged) * terms).sum()) == pytest.approx(truth, rel=1e-12)
    assert float(terms.std()) == pytest.approx(0, abs=1e-14)


def test_edges() -> None:
    one = torch.ones(3, 1, dtype=torch.float64)
    assert effective_sample_size(torch.zeros(3, dtype=torch.float64)) == 0
    assert effective_sample_size(torch.ones(3, dtype=torch.float64)) == 3
    assert np.isnan(Estimate.of_mean(double([1.0, 2.0])).standard_error(torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(InputError, match=r"target propensities are \[3, 2\], the logged ones \[3, 1\]"):
        slate_weights(torch.ones(3, 2), one)
    for bad in (1.5, -0.1, torch.nan):
        with pytest.raises(InputError, match=r"target propensity\[1\] is .*: a probability lies in \[0, 1\]"):
            slate_weights(torch.tensor([[0.5], [bad], [0.5]], dtype=torch.float64), one)
