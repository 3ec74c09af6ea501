"""LinUCB of other libraries on the problem of bandits.py, and as plain NumPy: run by it with a Python that has them.

    python3.11 -m venv peers && peers/bin/pip install mabwiser==2.7.4 gobrec==1.0.8 vowpalwabbit==9.11.9 \
        contextualbandits==0.3.30

A library that is missing is left out. `peers/bin/python benchmarks/peer_bandits.py store tests/data/gobrec.npz` writes
what tests/agents/test_gobrec.py compares with. `errors ORDERS.npz` in the place of that prints errors of Vowpal Wabbit
and of plain NumPy LinUCB on features `x0`, `x1`, … with right arms `y0`, `y1`, …
"""

import json
import sys
import time
from typing import Any

import numpy as np

ARMS_AND_BATCHES = ((10, 1), (100, 1), (10, 100), (100, 100))
ALPHA = 0.5
Array = np.ndarray[Any, np.dtype[Any]]
Found = tuple[float, float | None]


def problem(arms: int, rounds: int, features: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return contexts [n, d] on the unit sphere, mean rewards [n, arms] and rewards, one uniform a round."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rounds, features))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    theta = random.normal(size=(arms, features))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    means = 0.5 + 0.5 * x @ theta.T
    return x, means, (random.random((rounds, 1)) < means).astype(float)


def numpy_linucb(arms: int, batch: int, rounds: int, features: int, seed: int = 0) -> tuple[float, float]:
    """Return rounds a CPU second and the mean reward of the last 2,000: rank-one updates, all arms in one array."""
    x, means, rewards = problem(arms, rounds, features, seed)
    inverse, moment = np.tile(np.eye(features), (arms, 1, 1)), np.zeros((arms, features))
    weights, chosen = np.zeros((arms, features)), np.zeros(rounds, dtype=int)
    started = time.process_time()
    for start in range(0, rounds, batch):
        part = x[start : start + batch]
        if batch == 1:
            bonus = np.sqrt((inverse.reshape(-1, features) @ part[0]).reshape(arms, features) @ part[0])[None]
        else:
            bonus = np.sqrt(np.einsum("bi,aij,bj->ba", part, inverse, part, optimize=True))
        chosen[start : start + batch] = picks = np.argmax(part @ weights.T + ALPHA * bonus, 1)
        for row, arm in enumerate(picks):
            pull = inverse[arm] @ part[row]
            inverse[arm] -= np.outer(pull, pull) / (1 + pull @ part[row])
            moment[arm] += rewards[start + row, arm] * part[row]
            weights[arm] = inverse[arm] @ moment[arm]
    rate = rounds / (time.process_time() - started)
    return rate, float(means[np.arange(rounds), chosen][-2000:].mean())


def mabwiser_linucb(arms: int, batch: int, rounds: int, features: int) -> Found:
    from mabwiser.mab import MAB, LearningPolicy

    x, means, rewards = problem(arms, rounds, features)
    rounds = rounds if batch > 1 else 400  # it is too slow for more, and what it earned in so few says nothing
    bandit, chosen = MAB(list(range(arms)), LearningPolicy.LinUCB(alpha=ALPHA, l2_lambda=1.0)), []
    started = time.process_time()
    for start in range(0, rounds, batch):
        part = x[start : start + batch]
        if start == 0:
            picks = np.arange(batch) % arms
            bandit.fit(picks, rewards[np.arange(batch), picks], part)
        else:
            picks = np.atleast_1d(bandit.predict(part))
            bandit.partial_fit(picks, rewards[np.arange(start, start + batch), picks], part)
        chosen.extend(picks)
    return _found(started, means, chosen, batch)


def gobrec_linucb(arms: int, batch: int, rounds: int, features: int) -> Found:
    import torch
    from gobrec.mabs.lin_mabs import LinUCB

    torch.set_num_threads(1)
    x, means, rewards = problem(arms, rounds, features)
    rounds = rounds if batch > 1 else 2000
    bandit, chosen = LinUCB(alpha=ALPHA, l2_lambda=1.0, use_gpu=False), []
    started = time.process_time()
    for start in range(0, rounds, batch):
        part = x[start : start + batch]
        picks = np.arange(batch) % arms if start == 0 else bandit.predict(part).argmax(1).numpy()
        bandit.fit(part, picks, rewards[np.arange(start, start + batch), picks])
        chosen.extend(picks)
    return _found(started, means, chosen, batch)


def gobrec_choices(x: Array, rewards: Array, batch: int, alpha: float, penalty: float) -> Array:
    """Return the arms that gobrec's LinUCB chooses, [n]; in the first batch every arm in turn."""
    from gobrec.mabs.lin_mabs import LinUCB

    bandit, chosen = LinUCB(alpha=alpha, l2_lambda=penalty, use_gpu=False), list[Array]()
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        picks = np.arange(batch) % rewards.shape[1] if start == 0 else bandit.predict(part).argmax(1).numpy()
        bandit.fit(part, picks, rewards[np.arange(start, start + batch), picks])
        chosen.append(picks)
    return np.concatenate(chosen)


def contextualbandits_linucb(arms: int, batch: int, rounds: int, features: int) -> Found:
    from contextualbandits.online import LinUCB

    x, means, rewards = problem(arms, rounds, features)
    rounds = rounds if batch > 1 else 400
    bandit, chosen = LinUCB(nchoices=arms, alpha=ALPHA, lambda_=1.0, random_state=1, njobs=1), list[Any]()
    started = time.process_time()
    for start in range(0, rounds, batch):
        part = x[start : start + batch]
        picks = np.arange(batch) % arms if start == 0 else np.atleast_1d(bandit.predict(part))
        earned = rewards[np.arange(start, start + batch), picks]
        (bandit.fit if start == 0 else bandit.partial_fit)(part, picks, earned)
        chosen.extend(picks)
    return _found(started, means, chosen, batch)


def vw_squarecb(arms: int, _batch: int, rounds: int, features: int) -> Found:
    """Measure Vowpal Wabbit, which takes one round at a time whatever the batch."""
    from vowpalwabbit import Workspace

    x, means, rewards = problem(arms, rounds, features)
    rounds, random = rounds if arms <= 10 else 2000, np.random.default_rng(0)
    learner = Workspace("--cb_explore_adf --squarecb --gamma_scale 100 -q us --quiet")
    actions, chosen = [f"|s a{arm}" for arm in range(arms)], list[Any]()
    started = time.process_time()
    for row, reward in zip(x[:rounds], rewards, strict=False):
        arm = vw_round(learner, random, actions, row, reward)
        chosen.append(arm)
    return _found(started, means, chosen, 2 if arms <= 10 else 1)  # of fewer rounds the mean says nothing


def vw_round(learner: Any, random: np.random.Generator, actions: list[str], row: Array, reward: Array) -> int:
    """Let Vowpal Wabbit choose an arm for a row [d] and learn from its reward, of rewards [arms]."""
    shared = "shared |u " + " ".join(f"f{i}:{value:.6f}" for i, value in enumerate(row))
    chances = np.array(learner.predict([shared, *actions]))
    arm = int(random.choice(len(actions), p=chances / chances.sum()))
    labelled = [*actions]
    labelled[arm] = f"{arm}:{-float(reward[arm])}:{chances[arm]} {actions[arm]}"
    learner.learn([shared, *labelled])
    return arm


def numpy_choice_errors(x: Array, right: Array, arms: int, alpha: float) -> float:
    """Return the share of wrong choices of a plain disjoint LinUCB, λ 1, with an intercept, one row at a time."""
    x = np.hstack([np.ones((len(x), 1)), x])
    inverse, moment = np.tile(np.eye(x.shape[1]), (arms, 1, 1)), np.zeros((arms, x.shape[1]))
    wrong = 0
    for row, answer in zip(x, right, strict=True):
        pull = inverse @ row
        arm = int(np.argmax((pull * moment).sum(1) + alpha * np.sqrt(pull @ row)))
        inverse[arm] -= np.outer(pull[arm], pull[arm]) / (1 + pull[arm] @ row)
        moment[arm] += (arm == answer) * row
        wrong += arm != answer
    return wrong / len(x)


VW_EXPLORERS = [
    f"{explorer} -l {rate}"
    for explorer in ("--squarecb --gamma_scale 100", "--epsilon 0.05", "--bag 5")
    for rate in (0.5, 2)
]


def vw_errors(x: Array, right: Array, arms: int, options: str) -> float:
    """Return the share of wrong choices of Vowpal Wabbit with features of the user crossed with the arm."""
    from vowpalwabbit import Workspace

    learner, random = Workspace(f"--cb_explore_adf {options} -q us --quiet"), np.random.default_rng(0)
    actions, wrong = [f"|s a{arm}" for arm in range(arms)], 0
    for row, answer in zip(x, right, strict=True):
        wrong += vw_round(learner, random, actions, row, np.arange(arms) == answer) != answer
    learner.finish()
    return wrong / len(x)


def data_errors(path: str) -> None:
    """Print every learner's errors over the orders of a file, as JSON."""
    with np.load(path) as file:
        orders = [(file[f"x{i}"], file[f"y{i}"]) for i in range(len(file.files) // 2)]
    arms = int(max(right.max() for _, right in orders)) + 1
    found = {"plain NumPy LinUCB, α 0.25": [numpy_choice_errors(x, right, arms, 0.25) for x, right in orders]}
    try:
        for options in VW_EXPLORERS:
            found[f"Vowpal Wabbit {options}"] = [vw_errors(x, right, arms, options) for x, right in orders]
    except ImportError:
        pass
    print(json.dumps(found))


def store(path: str) -> None:
    """Write a short problem with gobrec's choices for two settings of α and λ."""
    x, _, rewards = problem(arms=10, rounds=1000, features=20, seed=7)
    x = x.astype(np.float32)  # as features are in slatewise
    choices = {
        f"alpha {alpha:g} penalty {penalty:g}": gobrec_choices(x, rewards, 20, alpha, penalty).astype(np.uint8)
        for alpha, penalty in ((0.5, 1.0), (1.0, 4.0))
    }
    np.savez_compressed(path, x=x, rewards=rewards.astype(np.uint8), **choices)


def _found(started: float, means: Array, chosen: list[Any], batch: int) -> Found:
    rate = len(chosen) / (time.process_time() - started)
    return rate, float(means[np.arange(len(chosen)), chosen][-2000:].mean()) if batch > 1 else None


PEERS = {
    "MABWiser LinUCB": mabwiser_linucb,
    "gobrec LinUCB": gobrec_linucb,
    "contextualbandits LinUCB": contextualbandits_linucb,
    "Vowpal Wabbit SquareCB": vw_squarecb,
}


def measure_all() -> None:
    """Print rates and means of every library that is there, as JSON."""
    found: dict[str, list[Any]] = {}
    for arms, batch in ARMS_AND_BATCHES:
        for name, measure in PEERS.items():
            if measure is vw_squarecb and batch > 1:
                continue
            try:
                found.setdefault(f"{arms} {batch}", []).append([name, *measure(arms, batch, 20_000, 20)])
            except ImportError:
                continue
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["store"]:
        store(sys.argv[2])
    elif sys.argv[1:2] == ["errors"]:
        data_errors(sys.argv[2])
    else:
        measure_all()
