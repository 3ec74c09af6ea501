"""Bandits: speed beside a plain NumPy line and other libraries, regret on every bandit world, errors on data sets.

python benchmarks/bandits.py [--seeds 3] [--peers PYTHON] [speed] [kernel] [regret] [errors]: all by default. With a
Python that has MABWiser, gobrec or Vowpal Wabbit (see peer_bandits.py), they are measured in the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from peer_bandits import ARMS_AND_BATCHES, numpy_linucb, problem
from results import HERE, save, table

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.environments.bandit import BanditWorld
from slatewise.environments.classification_bandit import CLASSES, load_data
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec

ROUNDS, FEATURES = 20_000, 20  # of the speed part
SEEDS, REGRET_ROUNDS, ORDERS = 3, 10_000, 20
USERS = 100  # rounds decided at a time in the regret part
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear-bandit", {}),
    "logistic": ("logistic-bandit", {}),
    "wheel 0.5": ("wheel-bandit", {"delta": 0.5}),
    "wheel 0.95": ("wheel-bandit", {"delta": 0.95}),
    "many-armed": ("many-armed-bandit", {"items": 200, "candidates": 50}),
    "digits": ("classification-bandit", {"data": "digits"}),
}
AGENTS: dict[str, dict[str, Any]] = {
    "epsilon-greedy": {},
    "ucb1": {},
    "linucb": {"alpha": 0.5},
    "lints": {},
    "squarecb": {},
    "explore-first": {},
    "bagging": {},
    "logistic-thompson": {},
    "neural-linear": {},
}


def bandit_rows(observation: Observation, decision: Decision, reward: torch.Tensor) -> Interactions:
    """Return what came of decisions on single items, reward [n, 1]."""
    n = len(reward)
    no, zeros = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int64)
    response = Response(reward > 0, torch.zeros(n, 1, 0), reward, torch.zeros(n, dtype=torch.float64), ~no)
    return Interactions(observation, decision, response, None, ~no, no, zeros, zeros)


def play(agent: sw.Agent, users: torch.Tensor, rewards: torch.Tensor, batch: int) -> tuple[float, torch.Tensor]:
    """Let an agent without features of items decide round after round; return rounds a CPU second and its choices.

    users: [n, U].  rewards: of every arm, [n, arms].
    """
    rounds, arms = rewards.shape
    whole = Observation(users, torch.arange(arms).expand(rounds, -1), torch.zeros(rounds, arms, 0))
    shown = [whole[at : at + batch] for at in range(0, rounds, batch)]
    chosen: list[torch.Tensor] = []
    started = time.process_time()
    for observation, earned in zip(shown, rewards.split(batch), strict=True):
        decision = agent.act(observation)
        agent.observe(bandit_rows(observation, decision, earned.gather(1, decision.slate)))
        agent.update()
        chosen.append(decision.slate)
    return rounds / (time.process_time() - started), torch.cat(chosen)


def speed_of(name: str, arms: int, batch: int, **settings: Any) -> tuple[float, float]:
    """Return rounds a CPU second and the mean expected reward of the last 2,000 rounds."""
    x, means, rewards = (torch.from_numpy(part) for part in problem(arms, ROUNDS, FEATURES))
    spec = Spec(tuple(f"x{i}" for i in range(FEATURES)), (), (), (), arms, 1)
    play(make_agent(name, spec, None, 0, **settings), x.float()[:400], rewards[:400].double(), batch)  # warm up
    rate, chosen = play(make_agent(name, spec, None, 0, **settings), x.float(), rewards.double(), batch)
    return rate, float(means.gather(1, chosen)[-2000:].mean())


def kernel_speed(arms: int, batch: int, rounds: int) -> float:
    """Return rounds a CPU second of LinUCB's arithmetic alone: bounds, the best arm, and taking in its reward."""
    x, _, rewards = (torch.from_numpy(part) for part in problem(arms, rounds, FEATURES))
    agent = sw.LinUCB(Spec(tuple(f"x{i}" for i in range(FEATURES)), (), (), (), arms, 1))
    whole = Observation(x.float(), torch.arange(arms).expand(rounds, -1), torch.zeros(rounds, arms, 0))
    shown = [whole[at : at + batch] for at in range(0, rounds, batch)]
    first = agent.act(shown[0])
    records = [bandit_rows(one, first, earned[:, :1]) for one, earned in zip(shown, rewards.split(batch), strict=True)]
    used, started = torch.ones(batch, 1, dtype=torch.bool), time.process_time()
    for record, earned in zip(records, rewards.split(batch), strict=True):
        mean, deviation = agent.model.bounds(record.observation)
        record.decision.slate.copy_(mean.add_(deviation, alpha=0.5).argmax(1, keepdim=True))
        record.response.reward.copy_(earned.gather(1, record.decision.slate))
        agent.add(agent.rows_of(record, used))
    return rounds / (time.process_time() - started)


def kernel() -> None:
    rows = [
        {"arms": arms, "batch": batch, "rounds_a_CPU_second": round(kernel_speed(arms, batch, ROUNDS))}
        for arms, batch in ARMS_AND_BATCHES
    ]
    print("\n".join(table(rows)))
    claim = (
        "LinUCB's arithmetic alone, on the problem of `bandit_speed`: upper bounds of all arms, the best, and the "
        "rank-one update with its reward, without making records, checks, propensities and ties. Rounds per CPU second."
    )
    save("bandit_kernel", claim, rows)


def shared_speed(arms: int = 1000, batch: int = 1000, users: int = 4, features: int = 3) -> float:
    """Return rounds a CPU second of a shared model of (1 + users)(1 + features) = 20 joint features."""
    generator = torch.Generator().manual_seed(0)
    catalogue = Catalogue.of(torch.randn(arms, features, generator=generator))
    names = tuple(f"u{i}" for i in range(users)), tuple(f"f{i}" for i in range(features))
    agent = sw.LinUCB(Spec(*names, (), (), arms, 1))
    ids, own = torch.arange(arms).expand(batch, -1), torch.zeros(batch, arms, 0)
    shown = [Observation(torch.randn(batch, users, generator=generator), ids, own, catalogue) for _ in range(20)]
    earned = torch.rand(20, batch, 1, generator=generator, dtype=torch.float64)
    started = time.process_time()
    for observation, reward in zip(shown, earned, strict=True):
        agent.observe(bandit_rows(observation, agent.act(observation), reward))
    return 20 * batch / (time.process_time() - started)


def speed(peers: str | None) -> None:
    rows: list[dict[str, Any]] = []
    others = json.loads(run_peers(peers)) if peers else {}
    for arms, batch in ARMS_AND_BATCHES:
        for agent, settings in (("linucb", {"alpha": 0.5}), ("lints", {}), ("neural-linear", {})):
            if agent == "linucb" or batch > 1 or (agent, arms) == ("lints", 10):
                rate, mean = speed_of(agent, arms, batch, **settings)
                rows.append(speed_row(arms, batch, agent, rate, mean))
        rows.append(speed_row(arms, batch, "plain NumPy LinUCB", *numpy_linucb(arms, batch, ROUNDS, FEATURES)))
        for name, rate, mean in others.get(f"{arms} {batch}", []):
            rows.append(speed_row(arms, batch, name, rate, mean))
    rows.append(speed_row(1000, 1000, "linucb, shared, 20 joint features", shared_speed(), None))
    print("\n".join(table(rows)))
    claim = (
        "Rounds per CPU second through `act`, `observe` and `update`, records included, and the mean expected reward "
        f"of the last 2,000 of {ROUNDS:,} rounds: {FEATURES} features, contexts on the unit sphere, a model an arm, "
        "rewards of 0 and 1 with mean ½ + ½ ⟨x, θ⟩ (random earns 0.500). The NumPy line keeps inverses by rank-one "
        "updates, without records, masks or checks; slatewise's models have an intercept besides."
    )
    save("bandit_speed", claim, rows)


def speed_row(arms: int, batch: int, who: str, rate: float, mean: float | None) -> dict[str, Any]:
    return {"arms": arms, "batch": batch, "who": who, "rounds_a_CPU_second": round(rate), "mean_reward": mean}


def run_peers(python: str, *arguments: str) -> str:
    script = Path(__file__).with_name("peer_bandits.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(script), *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()[-1]


def regrets(name: str, env: BanditWorld, seed: int, rounds: int, **settings: Any) -> torch.Tensor:
    """Return the cumulative regret after every batch of an agent's life."""
    agent = make_agent(name, env.spec, env.choice, seed, **settings)
    lost: list[float] = []
    for _ in range(rounds // env.users):
        best = env.best()
        decision = agent.act(env.observation)
        lost.append(float((best - env.expected_reward(decision.slate)).sum()))
        agent.observe(env.step(decision))
        agent.update()
    return torch.tensor(lost).cumsum(0)


def random_regret(env: BanditWorld) -> float:
    """Return what random slates lose in a round, on average."""
    ceiling = env.references.ceiling
    assert ceiling is not None
    return ceiling.mean - env.references.rules["random"].mean


def runs(seeds: int, rounds: int) -> Iterator[tuple[str, str, list[torch.Tensor]]]:
    for world, (name, settings) in WORLDS.items():
        for agent, own in AGENTS.items():
            if agent == "logistic-thompson" and world.startswith("wheel"):
                continue  # its rewards are no zeros and ones
            curves: list[torch.Tensor] = []
            for seed in range(seeds):
                env = sw.make(name, users=USERS, seed=seed, **settings)
                assert isinstance(env, BanditWorld)
                curves.append(regrets(agent, env, seed, rounds, **own) / (random_regret(env) * rounds))
            print(world, agent, *(f"{float(c[-1]):.3f}" for c in curves), flush=True)
            yield world, agent, curves


def regret(seeds: int, rounds: int) -> None:
    rows: dict[str, dict[str, Any]] = {agent: {"agent": agent} for agent in AGENTS}
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = dict(zip(WORLDS, figure.subplots(2, 3, sharex=True).flat, strict=True))
    for world, agent, curves in runs(seeds, rounds):
        ends = [100 * float(curve[-1]) for curve in curves]
        error = statistics.stdev(ends) / len(ends) ** 0.5 if len(ends) > 1 else float("nan")
        rows[agent][world] = f"{statistics.mean(ends):.1f} ± {error:.1f}"
        mean = torch.stack(curves).mean(0)
        panels[world].plot(range(USERS, rounds + 1, USERS), mean, label=agent)
    for world, axes in panels.items():
        axes.set_title(world, fontsize=10)
        axes.grid(alpha=0.3)
    panels["linear"].set_ylabel("regret, share of random's total")
    figure.legend(*panels["linear"].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(HERE.parent / "docs" / "images" / "bandit-regret.png", dpi=130, metadata={"Software": None})
    print("\n".join(table(list(rows.values()))))
    claim = (
        f"Cumulative regret after {rounds:,} rounds in batches of {USERS}, in percent of what random choices lose, "
        f"mean ± standard error over {seeds} seeds. Default settings but α = 0.5 for LinUCB. The optimum is 0, random "
        "100.\n\n"
        "![Regret](images/bandit-regret.png)"
    )
    save("bandit_regret", claim, list(rows.values()))


def shuffled(data: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and classes of a data set in the order of a seed."""
    features, classes = load_data(data)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return features[order], classes[order]


def peer_errors(python: str, data: str) -> dict[str, list[float]]:
    """Return errors of others over the same orders: of Vowpal Wabbit's explorers, the one that came out best."""
    arrays: dict[str, Any] = {}
    for seed in range(ORDERS):
        arrays[f"x{seed}"], arrays[f"y{seed}"] = (part.numpy() for part in shuffled(data, seed))
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "orders.npz", allow_pickle=False, **arrays)
        found = json.loads(run_peers(python, "errors", str(Path(folder) / "orders.npz")))
    others = [found.pop(name) for name in list(found) if name.startswith("Vowpal")]
    return found | ({"Vowpal Wabbit, its best explorer": min(others, key=statistics.mean)} if others else {})


def progressive_error(name: str, data: str, seed: int, **settings: Any) -> float:
    """Return the share of wrong choices in one pass over a data set, one row at a time, in shuffled order."""
    features, classes = shuffled(data, seed)
    right = torch.nn.functional.one_hot(classes, CLASSES[data]).double()
    spec = Spec(tuple(f"x{i}" for i in range(features.shape[1])), (), (), (), CLASSES[data], 1)
    _, chosen = play(make_agent(name, spec, None, seed, **settings), features, right, 1)
    return 1 - float(right.gather(1, chosen).mean())


def errors(peers: str | None) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for label, name, settings in (
        ("linucb, α 0.25", "linucb", {"alpha": 0.25}),
        ("linucb, α 0.1", "linucb", {"alpha": 0.1}),
        ("lints, noise 0.2", "lints", {"noise_scale": 0.2}),
        ("squarecb", "squarecb", {}),
    ):
        for data in CLASSES:
            found = [progressive_error(name, data, seed, **settings) for seed in range(ORDERS)]
            add_error(rows, label, data, found)
    for data in CLASSES if peers else ():
        for label, found in peer_errors(str(peers), data).items():
            add_error(rows, label, data, found)
    print("\n".join(table(list(rows.values()))))
    claim = (
        "Progressive validation error: the share of wrong choices in one pass over a shuffled data set, one row at a "
        "time, features standardised, told only whether the choice was right. Mean ± standard error over "
        f"{ORDERS} orders. At equal α, λ and order, plain NumPy chooses as `linucb` does. "
        "Vowpal Wabbit's explorer is chosen afterwards for each data set, from SquareCB, ε-greedy and bagging at two "
        "learning rates."
    )
    save("bandit_errors", claim, list(rows.values()))


def add_error(rows: dict[str, dict[str, Any]], label: str, data: str, found: list[float]) -> None:
    error = statistics.stdev(found) / len(found) ** 0.5
    rows.setdefault(label, {"agent": label})[data] = f"{statistics.mean(found):.3f} ± {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["speed", "kernel", "regret", "errors"], metavar="PART")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the regret part")
    parser.add_argument("--rounds", type=int, default=REGRET_ROUNDS, help="of the regret part")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has the peers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        if part == "speed":
            speed(arguments.peers)
        elif part == "kernel":
            kernel()
        elif part == "regret":
            regret(arguments.seeds, arguments.rounds)
        else:
            errors(arguments.peers)


if __name__ == "__main__":
    main()
