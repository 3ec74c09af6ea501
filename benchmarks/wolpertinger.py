"""Does Wolpertinger learn where to look among many items, and how fast is it with a million of them?

python benchmarks/wolpertinger.py [worlds] [index]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from results import save, table
from retrieval import FEATURES, users_of
from retrieval import items_of as items_like
from torch import Tensor

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.agents.wolpertinger import Wolpertinger
from slatewise.allocation import keep_freed_memory
from slatewise.indexes import INDEXES, ExactIndex, recall
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.retrieval import Retrieved

CLAIM = (
    "Greedy return of Wolpertinger over {sessions} sessions of new users, beside random, the best rule without "
    "learning and SlateQ, which is told the users' choice model and scores every candidate. Mean over {seeds} seeds "
    "with its standard error; CPU seconds of training (one thread, 256 users), the median. `Missed` is what the best "
    "candidate is worth more, to the critic, than the best of those nearest to the proto-action, in deviations over "
    "the candidates. 1,000 documents: interest evolution with a catalogue of 1,000 items that show topic and quality, "
    "all of them candidates, slates of 2."
)
INDEX = (
    "Wolpertinger over {items:,} items of 64 independent features, slates of {slots}, batches of {batch}, two threads "
    "(wall clock and CPU seconds, the best of {rounds} batches): critic fitted to known values, actor to the critic; "
    "the {near} items nearest to the proto-action are retrieved. Recall is against exact search for the queries of "
    "{judged} users, `same` the share of their slates that are those of exact search. The index is built once: it does "
    "not change while the agent learns. Load is the machine's, of which the benchmark is 2."
)
MANY = {"documents": 1000, "candidates": 1000}
WORLDS: dict[str, tuple[dict[str, Any], int]] = {"10/2": ({}, 1_000_000), "1,000 documents": (MANY, 200_000)}
POLICIES = {"random": "random", "quality (best rule)": "quality", "slateq": "slateq", "wolpertinger": "wolpertinger"}
SESSIONS = 300
SLOTS, BATCH, NEAR, ROUNDS, JUDGED = 10, 256, 100, 3, 64
Job = tuple[str, str, int]  # world, policy, seed


def outcome(job: Job) -> dict[str, float]:
    """Train an agent, or take a rule; return its greedy `mean` and, where it trained, CPU `seconds`."""
    world, policy, seed = job
    (settings, steps), name = WORLDS[world], POLICIES[policy]
    env = sw.make("interest-evolution", users=256, seed=seed, **settings)
    if name in ("random", "quality"):
        result = {"mean": mean_of(env.rule(name, seed), settings, seed)}
    else:
        agent = make_agent(name, env.spec, env.choice, seed)
        seconds = sw.train(agent, env, steps, progress=False).cpu_seconds
        result = {"mean": mean_of(agent, settings, seed), "seconds": seconds, "per_second": steps / seconds}
        if isinstance(agent, Wolpertinger):
            result["missed"] = missed(agent, env.observation)
    print(*job, {key: round(value, 2) for key, value in result.items()}, flush=True)
    return result


def mean_of(policy: Any, settings: dict[str, Any], seed: int) -> float:
    world = sw.make("interest-evolution", users=SESSIONS, seed=1000 + seed, **settings)
    return sw.evaluate(policy, world, SESSIONS).mean


def missed(agent: Wolpertinger, observation: Observation) -> float:
    """Return what the best candidate has over the best of the nearest, in deviations over the candidates."""
    values = agent.explain(observation)["value"]
    near = values.gather(1, agent.near(observation)).amax(1)
    return float(((values.amax(1) - near) / values.std(1)).mean())


def worlds(arguments: argparse.Namespace) -> None:
    jobs = [
        (world, policy, seed) for world in arguments.worlds for policy in POLICIES for seed in range(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.processes, initializer=prepare) as pool:
        outcomes = dict(zip(jobs, pool.map(outcome, jobs), strict=True))
    rows = list[dict[str, Any]]()
    for world, policy in dict.fromkeys(job[:2] for job in jobs):
        results = [result for job, result in outcomes.items() if job[:2] == (world, policy)]
        row: dict[str, Any] = {"world": world, "policy": policy} | spread([result["mean"] for result in results])
        if "missed" in results[0]:
            row |= {"missed": round(statistics.mean(result["missed"] for result in results), 3)}
        if "seconds" in results[0]:
            row |= {"steps": WORLDS[world][1], "cpu_seconds": statistics.median(r["seconds"] for r in results)}
            row |= {"steps_per_cpu_second": round(statistics.median(r["per_second"] for r in results))}
        rows.append(row)
    save("wolpertinger", CLAIM.format(seeds=arguments.seeds, sessions=SESSIONS), rows)
    print("\n".join(table(rows)))


def spread(means: list[float]) -> dict[str, Any]:
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {"mean": statistics.mean(means), "standard_error": error, "seeds": [round(mean, 1) for mean in means]}


def prepare() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def fitted(features: Tensor, generator: torch.Generator) -> Wolpertinger:
    """Return an agent whose critic is fitted to uᵀAf on 10,000 of the items, and whose actor to the critic."""
    names, few = tuple(map(str, range(FEATURES))), Catalogue.of(features[:10_000])
    spec = Spec(names, names, (), ("reward",), len(features), SLOTS)
    agent = Wolpertinger(spec, seed=0, nearest=NEAR)
    taste = torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5
    users = users_of(few, 20_000, generator)
    slate = torch.randint(len(few), (20_000, 1), generator=generator)
    targets = ((users.user @ taste) * few.features[slate[:, 0]]).sum(1, keepdim=True).double()
    for network in (agent.critic.network, agent.actor.network):
        network.learn_scale(users)
    agent.critic.fit(users, slate, targets, torch.ones_like(targets), 10, 40, 1.0, agent.generator)
    for _ in range(10):
        agent.improve_actor(users[torch.randperm(20_000, generator=generator)[:4000]], 1.0)
    return agent


def measure(name: str, items: int) -> dict[str, Any]:
    """Return how fast slates of one index are, and how good."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    features = items_like("gaussian", items, generator)
    agent, catalogue = fitted(features, generator), Catalogue.of(features)
    retrieved = Retrieved(agent, NEAR, INDEXES[name])
    started, cpu = time.perf_counter(), time.process_time()
    retrieved.searched(users_of(catalogue, 1, generator))
    built, cpu_built = time.perf_counter() - started, time.process_time() - cpu
    seconds, cpu_seconds = list[float](), list[float]()
    for _ in range(ROUNDS):
        observation = users_of(catalogue, BATCH, generator)
        started, cpu = time.perf_counter(), time.process_time()
        retrieved.act(observation)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu)
    some = users_of(catalogue, JUDGED, generator)
    exact = ExactIndex(agent.product.vectors(catalogue))
    found = recall(retrieved.searched(some)[0], exact, agent.product.queries(some), NEAR)
    whole = Retrieved(agent, NEAR, lambda _: exact).act(some, explore=False).slate
    return {
        "index": name,
        "build_seconds": round(built, 1),
        "build_cpu_seconds": round(cpu_built, 1),
        "decisions_per_second": round(BATCH / min(seconds)),
        "decisions_per_cpu_second": round(BATCH / min(cpu_seconds)),
        "recall": round(float(found.mean()), 4),
        "same": float((retrieved.act(some, explore=False).slate == whole).all(1).double().mean()),
        "load": round(os.getloadavg()[0], 1),
    }


def index(arguments: argparse.Namespace) -> None:
    rows = list[dict[str, Any]]()
    for name in INDEXES:
        command = [sys.executable, __file__, "--items", str(arguments.items), "--only", name]
        environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # idle threads sleep
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    values = {"slots": SLOTS, "batch": BATCH, "rounds": ROUNDS, "near": NEAR, "judged": JUDGED}
    save("wolpertinger_index", INDEX.format(items=arguments.items, **values), rows)
    print("\n".join(table(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["worlds", "index"], help="both, or one of them")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.items)))
        return
    for part in arguments.parts:
        {"worlds": worlds, "index": index}[part](arguments)


if __name__ == "__main__":
    main()
