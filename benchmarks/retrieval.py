"""How fast are slates of 10 from 1,000,000 items, and are they those of exact search? Two threads.

python benchmarks/retrieval.py [--items 1000000]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from results import save, table
from torch import Tensor

import slatewise as sw
from slatewise.choice import InnerProduct, Logit
from slatewise.indexes import INDEXES, ExactIndex, recall
from slatewise.interactions import Catalogue, Observation, Spec
from slatewise.retrieval import Retrieved
from slatewise.slates import slate_value

CLAIM = (
    "{items:,} items of {features} features, slates of {slots}, batches of {batch}, two threads (wall clock and CPU "
    "seconds, the best of {rounds} batches): SlateQ over two towers, embeddings of {features}, fitted to known values, "
    "users of a logit choice model; {candidates} items retrieved for each of four reasons. Gaussian: features "
    "independent, no structure that an index could use; clustered: 2,000 clusters, some features ten times as wide as "
    "others. Recall is against exact search over the queries of {judged} users. `same` is the share of their slates "
    "that are the exact slate over the whole catalogue, `lost` the value that the others miss, in deviations of the "
    "best slates' value over users. Peak memory is the whole process's, the item features ({size:.2f} GB) included. "
    "Load is the machine's, of which the benchmark is 2: with more, the wall clock says little."
)
FEATURES, SLOTS, BATCH, CANDIDATES, ROUNDS, JUDGED = 64, 10, 256, 100, 3, 32
VALUE, NO_CLICK_VALUE, NO_CLICK = 2.0, 1.5, 5.0


def items_of(kind: str, items: int, generator: torch.Generator) -> Tensor:
    """Return features of which an item's product with a standard normal user has deviation 1, [N, E]."""
    features = torch.randn(items, FEATURES, generator=generator)
    if kind == "clustered":
        centres = torch.randn(2000, FEATURES, generator=generator)
        features = (0.5 * features).add_(centres[torch.randint(2000, (items,), generator=generator)])
        features *= torch.logspace(-0.5, 0.5, FEATURES)
    return features / features.square().sum(1).mean().sqrt()


def users_of(catalogue: Catalogue, rows: int, generator: torch.Generator) -> Observation:
    """Return users to whom every item may be shown."""
    ids = torch.arange(len(catalogue)).expand(rows, -1)
    users = torch.randn(rows, FEATURES, generator=generator)
    return Observation(users, ids, torch.empty(rows, len(catalogue), 0), catalogue)


def fitted(features: Tensor, generator: torch.Generator) -> sw.SlateQ:
    """Return an agent whose values are fitted to 2 + uᵀAf / 2, and 1.5 for no click, on 10,000 of the items."""
    names = tuple(map(str, range(FEATURES)))
    spec = Spec(names, names, (), ("reward",), len(features), SLOTS)
    agent = sw.SlateQ(spec, choice=Logit(InnerProduct(FEATURES), NO_CLICK), seed=0)
    few = Catalogue.of(features[:10_000])
    taste = torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5
    users = torch.randn(20_000, FEATURES, generator=generator)
    ids = torch.randint(len(few), (20_000, 16), generator=generator)
    observation = Observation(users, ids, torch.empty(20_000, 16, 0), few)
    targets = VALUE + 0.5 * observation.products(users @ taste, few.features)
    targets = torch.cat([targets, torch.full_like(targets[:, :1], NO_CLICK_VALUE)], 1)
    positions = torch.cat([torch.arange(16), torch.tensor([-1])]).expand(20_000, -1)
    agent.regression.network.learn_scale(observation)
    weights = torch.ones_like(targets)
    agent.regression.fit(observation, positions, targets.double(), weights, 6, 40, 1.0, agent.generator)
    return agent


def worth(agent: sw.SlateQ, observation: Observation, slate: Tensor) -> Tensor:
    """Return the value of slates of catalogue rows, [B]."""
    assert agent.choice is not None
    shown = replace(observation, item_ids=slate, items=observation.items[:, : slate.shape[1]])
    values, no_click = agent.values(shown)
    everything = torch.arange(slate.shape[1]).expand(len(slate), -1)
    return slate_value(agent.choice, agent.choice.scores(shown), values, no_click, everything)


def agreement(retrieved: Retrieved, agent: sw.SlateQ, observation: Observation) -> dict[str, float]:
    """Compare slates with those over the whole catalogue, four users at a time."""
    parts = [agent.act(observation[i : i + 4], explore=False).slate for i in range(0, len(observation), 4)]
    full, slate = torch.cat(parts), retrieved.act(observation, explore=False).slate
    best = worth(agent, observation, full)
    lost = (best - worth(agent, observation, slate)) / best.std()
    same = (full.sort(1).values == slate.sort(1).values).all(1)
    return {"same": float(same.double().mean()), "lost": float(lost.mean().clamp(min=0))}


def measure(kind: str, name: str, items: int) -> dict[str, Any]:
    """Build one index over one catalogue, and act with it."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    catalogue = Catalogue.of(items_of(kind, items, generator))
    agent = fitted(catalogue.features, generator)
    retrieved = Retrieved(agent, CANDIDATES, INDEXES[name])
    started = time.perf_counter()
    retrieved.narrow(users_of(catalogue, 1, generator))
    built = time.perf_counter() - started
    seconds, cpu_seconds = list[float](), list[float]()
    for _ in range(ROUNDS):
        observation = users_of(catalogue, BATCH, generator)
        clock, cpu = time.perf_counter(), time.process_time()
        retrieved.act(observation)
        seconds.append(time.perf_counter() - clock)
        cpu_seconds.append(time.process_time() - cpu)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    index, queries = retrieved.searched(observation[:JUDGED])
    with torch.no_grad():
        vectors = torch.cat([agent.regression.network.vectors(catalogue), catalogue.features], 1)
    found = recall(index, ExactIndex(vectors), torch.cat(queries), CANDIDATES)
    return {
        "catalogue": kind,
        "index": name,
        "build_seconds": round(built, 1),
        "decisions_per_second": round(BATCH / min(seconds)),
        "decisions_per_cpu_second": round(BATCH / min(cpu_seconds)),
        "recall": round(float(found.mean()), 4),
        **{key: round(value, 5) for key, value in agreement(retrieved, agent, observation[:JUDGED]).items()},
        "peak_gb": round(memory, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--catalogues", nargs="+", default=["gaussian", "clustered"])
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(*arguments.only, arguments.items)))
        return
    rows = list[dict[str, Any]]()
    for kind in arguments.catalogues:
        for name in INDEXES:
            command = [sys.executable, __file__, "--items", str(arguments.items), "--only", kind, name]
            environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # idle threads sleep
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
    claim = CLAIM.format(
        items=arguments.items, features=FEATURES, slots=SLOTS, batch=BATCH, rounds=ROUNDS, candidates=CANDIDATES,
        judged=JUDGED, size=arguments.items * FEATURES * 4 / 1e9,
    )  # fmt: skip
    save("retrieval", claim, rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
