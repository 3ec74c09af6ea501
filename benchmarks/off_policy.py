"""How wrong is off-policy evaluation where the truth is known, and does it pick the right policy? One thread.

python benchmarks/off_policy.py [--obp PYTHON]: with a Python that has the Open Bandit Pipeline (see peer_obp.py), that
judges the same arrays in the same run, and its generator is compared with ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import save, table
from torch import Tensor

import slatewise as sw
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.off_policy import ItemGroups

ERRORS = (
    "Mean absolute relative error of the value of a policy, ± its standard error over {seeds} seeds: {rounds:,} rounds "
    "of the Open Bandit Pipeline's generator (10 actions, 5 features, clicks; behaviour softmax(−3 q), target "
    "softmax(3 q)), the same arrays for everybody. Columns: slatewise with each of its reward models, and the pipeline "
    "({obp}) with its logistic regression on features and action, without products of the two. In this data nothing is "
    "known of an action but which it is, so MIPS is IPS. CPU seconds are of the whole: ours with reward model, all "
    "estimators, intervals and diagnostics; theirs without intervals."
)
RANKING = (
    "Ten policies ranked by their value on {rows:,} rounds of the same generator: softmax(6 q̂), each with coefficients "
    "of its own, the true ones with noise of standard deviation 0.1 to 1. `lost`: how much less than the best of the "
    "ten the chosen one earns, in %: mean over {seeds} logs, standard error and largest; `spread`: from best to worst. "
    "`right`: share of logs whose chosen policy is the best."
)
ACTIONS, FEATURES = 10, 5
OBP = "Open Bandit Pipeline"


@dataclass
class MemoryLog:
    """A log that is not on disk."""

    spec: Spec
    rows: Interactions

    def blocks(self) -> Iterator[Interactions]:
        """Yield all rows at once."""
        yield self.rows


def softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def generate(seed: int, rounds: int) -> dict[str, np.ndarray]:
    """Return a log of the pipeline's generator with its logistic rewards, draw for draw.

    The log-odds of a click are bilinear in (1, x) and (1, action one-hot), less their mean over their standard
    deviation. The generator starts three streams with one seed: for contexts and clicks, for coefficients, for actions.
    """
    stream, coefficients = np.random.RandomState(seed), np.random.RandomState(seed)
    context = stream.normal(size=(rounds, FEATURES))
    of_context, of_action, of_both = (
        coefficients.uniform(-1, 1, size) for size in (1 + FEATURES, 1 + ACTIONS, (1 + FEATURES, 1 + ACTIONS))
    )
    x = np.concatenate([np.ones((rounds, 1)), context], 1)
    a = np.concatenate([np.ones((ACTIONS, 1)), np.eye(ACTIONS)], 1)
    weights = of_context[:, None] + of_both @ a.T
    weights[0] += a @ of_action
    odds = x @ weights
    weights[0] -= odds.mean() / odds.std()
    expected = 1 / (1 + np.exp(-x @ weights))
    logged = softmax(-3 * expected)
    action = (logged.cumsum(1) > np.random.RandomState(seed).uniform(size=(rounds, 1))).argmax(1)
    reward = stream.binomial(1, expected[np.arange(rounds), action])
    made = {"context": context, "action": action, "reward": reward, "expected_reward": expected, "logged": logged}
    return made | {"target": softmax(3 * expected), "weights": weights}


@dataclass
class Softmax:
    """Chooses by softmax(β q), q the true probability of a click.  weights: float64 [1 + features, actions]."""

    weights: Tensor
    beta: float
    name: str = "target"

    def act(self, observation: Observation, explore: bool = True) -> Decision:
        """Only its propensities are asked for."""
        raise NotImplementedError

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return the probability of each item, float64 [B, 1]."""
        expected = (self.weights[0] + observation.user.double() @ self.weights[1:]).sigmoid()
        return (self.beta * expected).softmax(1).gather(1, slate)


def as_log(made: dict[str, np.ndarray], behaviour: Softmax) -> MemoryLog:
    n = len(made["action"])
    context, action, reward = (torch.from_numpy(made[name]) for name in ("context", "action", "reward"))
    ids = torch.arange(ACTIONS).expand(n, ACTIONS).contiguous()
    observation = Observation(context.float(), ids, torch.zeros(n, ACTIONS, 0), Catalogue.of(torch.eye(ACTIONS)))
    zeros, ones = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.bool)
    earned = reward.double().unsqueeze(1)
    rows = Interactions(
        observation,
        Decision(action.unsqueeze(1), behaviour.propensity(observation, action.unsqueeze(1))),
        Response(earned > 0, torch.zeros(n, 1, 0), earned, zeros, ones),
        None,
        ones,
        ~ones,
        torch.arange(n),
        torch.zeros(n, dtype=torch.int64),
    )
    names = tuple(f"x{i}" for i in range(FEATURES)), tuple(f"action={i}" for i in range(ACTIONS))
    return MemoryLog(Spec(*names, (), (), ACTIONS, 1), rows)


def ours(made: dict[str, np.ndarray], model: str) -> tuple[dict[str, float], float]:
    """Return all estimates and the CPU seconds of everything."""
    target, behaviour = (Softmax(torch.from_numpy(made["weights"]), beta) for beta in (3.0, -3.0))
    log, groups = as_log(made, behaviour), ItemGroups(behaviour, torch.arange(ACTIONS))
    started = time.process_time()
    result = sw.off_policy.evaluate(log, target, estimators="all", reward_model=model, groups=groups)
    seconds = time.process_time() - started
    return {name: i.value for name, i in result.policies["target"].estimates.items()}, seconds


def peer(python: str, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("peer_obp.py"))
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def theirs(python: str, made: dict[str, np.ndarray]) -> tuple[dict[str, float], float]:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/arrays.npz", **made)
        answer = json.loads(peer(python, "judge", f"{folder}/arrays.npz").splitlines()[-1])
    return answer["values"], sum(answer["seconds"].values())


def check_generator(python: str, rounds: int) -> None:
    """Stop unless the pipeline's generator makes what ours makes."""
    made = generate(1, rounds)
    with tempfile.TemporaryDirectory() as folder:
        peer(python, "generate", "1", str(rounds), f"{folder}/made.npz")
        with np.load(f"{folder}/made.npz") as wanted:
            apart = {name: float(np.abs(made[name] - wanted[name]).max()) for name in wanted}
    if max(apart.values()) > 1e-12:
        raise SystemExit(f"the generators differ: {apart}")
    print(f"the generators agree to {max(apart.values()):.1g}", flush=True)


def errors(seeds: int, rounds: int, models: list[str], obp: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the table, and every error by column, estimator and seed."""
    raw: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        made = generate(seed, rounds)
        truth = float((made["target"] * made["expected_reward"]).sum(1).mean())
        answers = {model: ours(made, model) for model in models} | ({OBP: theirs(obp, made)} if obp else {})
        for column, (values, seconds) in answers.items():
            found = {name: abs(value / truth - 1) for name, value in values.items()} | {"CPU seconds": seconds}
            for name, value in found.items():
                raw.setdefault(column, {}).setdefault(name, []).append(value)
        print(f"seed {seed} done", flush=True)
    names = dict.fromkeys(name for column in raw.values() for name in column if name != "CPU seconds")
    rows = [
        {"estimator": name} | {c: _mean(values[name]) if name in values else None for c, values in raw.items()}
        for name in [*names, "CPU seconds"]
    ]
    return rows, raw


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} ± {error:.4f}"


def candidates(weights: Tensor, seed: int) -> dict[str, Softmax]:
    """Return ten policies that choose by more and more wrong probabilities of a click."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(10, *weights.shape, generator=generator, dtype=torch.float64)
    scales = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    return {f"noise {s:.1f}": Softmax(weights + s * n, 6.0) for s, n in zip(scales, noise, strict=True)}


def ranking(seeds: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what is lost by the policy that each estimator likes best, and the values by seed."""
    lost: dict[str, list[float]] = {}
    spread: list[float] = []
    raw: dict[str, Any] = {}
    for seed in range(seeds):
        made = generate(seed, rounds)
        weights, expected = torch.from_numpy(made["weights"]), torch.from_numpy(made["expected_reward"])
        policies, log = candidates(weights, seed), as_log(made, Softmax(weights, -3.0))
        judged = sw.off_policy.evaluate(log, policies, estimators="all").policies
        all_of_them = torch.arange(ACTIONS).expand(rounds, ACTIONS)
        truth = {
            name: float((policy.propensity(log.rows.observation, all_of_them) * expected).sum(1).mean())
            for name, policy in policies.items()
        }
        best = max(truth.values())
        spread.append(100 * (1 - min(truth.values()) / best))
        estimates = {e: {n: j.estimates[e].value for n, j in judged.items()} for e in judged["noise 0.1"].estimates}
        for estimator, values in estimates.items():
            chosen = max(values, key=lambda name: values[name])
            lost.setdefault(estimator, []).append(100 * (1 - truth[chosen] / best))
        raw[str(seed)] = {"truth": truth, "estimates": estimates}
    return [
        {
            "estimator": name,
            "lost": statistics.mean(values),
            "standard_error": statistics.stdev(values) / len(values) ** 0.5,
            "largest": max(values),
            "right": f"{sum(value == 0 for value in values)} of {len(values)}",
            "spread": statistics.mean(spread),
        }
        for name, values in lost.items()
    ], raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--obp", metavar="PYTHON", help="a Python that has sb-obp 0.5.10")
    parser.add_argument("--models", nargs="+", default=["ridge", "logistic"], help="reward models; trees take longest")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.obp:
        check_generator(arguments.obp, arguments.rounds)
    rows, raw = errors(arguments.seeds, arguments.rounds, arguments.models, arguments.obp)
    print("\n".join(table(rows)))
    obp = "sb-obp 0.5.10, measured in the same run" if arguments.obp else "not measured in this run"
    save("off_policy", ERRORS.format(seeds=arguments.seeds, rounds=arguments.rounds, obp=obp), rows, raw=raw)
    rows, raw = ranking(2 * arguments.seeds, arguments.rounds // 10)
    print("\n".join(table(rows)))
    claim = RANKING.format(seeds=2 * arguments.seeds, rows=arguments.rounds // 10)
    save("off_policy_ranking", claim, rows, raw)


if __name__ == "__main__":
    main()
