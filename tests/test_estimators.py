"""Off-policy estimators against formulas written out in NumPy, and enumeration."""

import itertools

import numpy as np
import pytest
import torch

from slatewise.errors import InputError
from slatewise.estimators import ESTIMATORS, marginal_weights, slate_weights


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
    }


def test_values_are_the_formulas(rows: dict[str, np.ndarray]) -> None:
    """As Open Bandit Pipeline has them: SNDR's weights have mean 1, Switch-DR keeps weights up to its threshold."""
    r, q, qt = rows["reward"], rows["predicted"], rows["predicted_target"]
    w = rows["target"].prod(1) / rows["logged"].prod(1)
    weights = slate_weights(double(rows["target"]), double(rows["logged"]))
    np.testing.assert_allclose(weights.numpy(), w, rtol=1e-14)
    expected = {
        ("IPS", np.inf): (w * r).mean(),
        ("SNIPS", np.inf): (w * r / w.mean()).mean(),
        ("DM", np.inf): qt.mean(),
        ("DR", np.inf): (qt + w * (r - q)).mean(),
        ("SNDR", np.inf): (qt + w * (r - q) / w.mean()).mean(),
        ("MIPS", np.inf): (w * r).mean(),
    }
    for parameter in (0.0, 0.5, 2.0):
        expected |= {
            ("cIPS", parameter): (np.minimum(w, parameter) * r).mean(),
            ("Switch-DR", parameter): (qt + (w <= parameter) * w * (r - q)).mean(),
            ("DRos", parameter): (qt + parameter * w / (w**2 + parameter) * (r - q)).mean(),
        }
    for name in ("cIPS", "Switch-DR", "DRos"):
        expected[name, np.inf] = expected["IPS" if name == "cIPS" else "DR", np.inf]
    assert {name for name, _ in expected} == set(ESTIMATORS)
    for (name, parameter), value in expected.items():
        got = ESTIMATORS[name].value(double(r), weights, double(q), double(qt), parameter)
        assert float(got) == pytest.approx(value, rel=1e-12, abs=1e-14), (name, parameter)


def test_marginal_weights_are_the_ratio_of_the_groups_probabilities() -> None:
    target, logged = double([[0.1, 0.2, 0.3, 0.4]]).expand(4, 4), double([[0.4, 0.3, 0.2, 0.1]]).expand(4, 4)
    groups = torch.tensor([[0, 0, 7, 9]]).expand(4, 4)
    weights = marginal_weights(target, logged, groups, torch.arange(4))
    np.testing.assert_allclose(weights.numpy(), [0.3 / 0.7, 0.3 / 0.7, 1.5, 4.0], rtol=1e-14)
    each = marginal_weights(target, logged, torch.arange(4).expand(4, 4), torch.arange(4))
    np.testing.assert_allclose(each.numpy(), (target[0] / logged[0]).numpy(), rtol=1e-14)


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
    assert float((p * weights * double(reward)).sum()) == pytest.approx(truth, rel=1e-13)


def test_bad_input() -> None:
    one = torch.ones(3, 1, dtype=torch.float64)
    with pytest.raises(InputError, match=r"target propensities are \[3, 2\], the logged ones \[3, 1\]"):
        slate_weights(torch.ones(3, 2), one)
    for bad in (1.5, -0.1, torch.nan):
        with pytest.raises(InputError, match=r"target propensity\[1\] is .*: a probability lies in \[0, 1\]"):
            slate_weights(torch.tensor([[0.5], [bad], [0.5]], dtype=torch.float64), one)
    with pytest.raises(InputError, match="needs a reward model's predictions: give predicted, predicted_target"):
        ESTIMATORS["DR"].value(one[:, 0], one[:, 0])
