"""The Open Bandit Pipeline's point estimates on the same arrays: stored ones always, fresh ones where it is installed.

`benchmarks/peer_obp.py store` made `tests/data/obp.npz` with sb-obp 0.5.10; its docstring tells how to install that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slatewise.estimators import ESTIMATORS, slate_weights

STORED = Path(__file__).parents[1] / "data" / "obp.npz"
NAMES = {  # theirs in the file: ours, and the parameter
    "IPS": ("IPS", None),
    "SNIPS": ("SNIPS", None),
    "clipped 2": ("cIPS", 2.0),
    "DM": ("DM", None),
    "DR": ("DR", None),
    "SNDR": ("SNDR", None),
    "Switch-DR 2": ("Switch-DR", 2.0),
    "DRos 5": ("DRos", 5.0),
}
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def ours(arrays: Arrays, name: str, parameter: float | None) -> float:
    given = {key: torch.from_numpy(arrays[key]) for key in ("reward", "propensity", "target", "predicted")}
    action = torch.from_numpy(arrays["action"]).unsqueeze(1)
    weights = slate_weights(given["target"].gather(1, action), given["propensity"].unsqueeze(1))
    predicted = given["predicted"].gather(1, action)[:, 0]
    under_target = (given["target"] * given["predicted"]).sum(1)
    rest = () if parameter is None else (parameter,)
    return float(ESTIMATORS[name].value(given["reward"], weights, predicted, under_target, *rest))


@pytest.mark.parametrize("theirs", NAMES)
def test_stored_estimates(theirs: str) -> None:
    with np.load(STORED) as arrays:
        expected = float(arrays[f"value of {theirs}"])
        assert ours(dict(arrays), *NAMES[theirs]) == pytest.approx(expected, rel=1e-9)


def test_the_stored_log_has_weights_on_both_sides_of_every_threshold() -> None:
    """Else clipping, switching and shrinking would compare nothing."""
    with np.load(STORED) as arrays:
        row = np.arange(len(arrays["action"]))
        weights = arrays["target"][row, arrays["action"]] / arrays["propensity"]
        values = [float(arrays[f"value of {name}"]) for name in NAMES]
    assert 0.1 < (weights > 2).mean() < 0.9
    assert len(set(values)) == len(NAMES)


@pytest.mark.parametrize("seed", [1, 2])
def test_estimates_of_the_installed_pipeline(seed: int) -> None:
    ope = pytest.importorskip("obp.ope", reason="sb-obp is not installed: see benchmarks/peer_obp.py")
    random = np.random.default_rng(seed)
    rounds, actions = 500, 6
    logged, target = (random.dirichlet(np.ones(actions), rounds) for _ in range(2))
    action = (logged.cumsum(1) > random.random((rounds, 1))).argmax(1)
    arrays = {
        "reward": random.normal(size=rounds),
        "action": action,
        "propensity": logged[np.arange(rounds), action],
        "target": target,
        "predicted": random.normal(size=(rounds, actions)),
    }
    theirs = {
        ("IPS", None): ope.InverseProbabilityWeighting(),
        ("SNIPS", None): ope.SelfNormalizedInverseProbabilityWeighting(),
        ("cIPS", 3.0): ope.InverseProbabilityWeighting(lambda_=3.0),
        ("DM", None): ope.DirectMethod(),
        ("DR", None): ope.DoublyRobust(),
        ("SNDR", None): ope.SelfNormalizedDoublyRobust(),
        ("Switch-DR", 1.5): ope.SwitchDoublyRobust(lambda_=1.5),
        ("DRos", 4.0): ope.DoublyRobustWithShrinkage(lambda_=4.0),
    }
    for (name, parameter), estimator in theirs.items():
        expected = estimator.estimate_policy_value(
            reward=arrays["reward"],
            action=action,
            pscore=arrays["propensity"],
            action_dist=target[:, :, None],
            estimated_rewards_by_reg_model=arrays["predicted"][:, :, None],
        )
        assert ours(arrays, name, parameter) == pytest.approx(float(expected), rel=1e-9), name
