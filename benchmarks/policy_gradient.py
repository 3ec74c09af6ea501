"""Do policy gradients and evolution strategies learn, and do REINFORCE's corrections matter? Worlds and logs."""

import argparse
import math
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from results import save, table

import slatewise as sw
from slatewise.agents import make_agent
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Greedy return of policy gradients with their default settings, over 2,000 sessions of new users, beside random, "
    "the best rule without learning, SlateQ (which is told the choice model) and the ceiling; hidden state stays "
    "hidden. Mean over seeds with its standard error; CPU seconds of training, the median."
)
EVOLUTION = (
    "Greedy return of evolution strategies with their default settings, one perturbed policy a user of 256, after so "
    "many user-steps, over 2,000 sessions of new users; as in `policy_gradient`, whose agents stand beside it."
)
LOGS = (
    "REINFORCE from 50,000 decisions that a random policy took in a world: greedy return over 2,000 sessions, mean "
    "over seeds with its standard error, with and without what the method consists of. It sees no decision of its own."
)
PAPER = (
    "The two simulations of Chen et al. 2019 (arXiv 1812.02353): one state, ten items, logs of single items. In the "
    "first, item i earns i and is shown in proportion to 11 − i; in the second, two items earn 10 and 9, the others 1, "
    "all are shown alike, and two will be shown. Probabilities of items under the learned policy, mean over seeds. "
    "Without weights the gradient is 0 where the policy is proportional to chance × reward; the best policy for two "
    "independent draws has 10/19 and 9/19."
)
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "interest evolution 10/2": ("interest-evolution", {}),
    "interest evolution 10/3": ("interest-evolution", {"slate_size": 3}),
    "sweetness": ("long-term-satisfaction", {"variant": "sweetness"}),
}
STEPS = {"reinforce": 1_000_000, "ppo": 500_000, "slateq": 1_000_000}
SPANS = {"1 million steps": 1_000_000, "4 million steps": 4_000_000}
EVOLVED = ("interest evolution 10/2", "sweetness")
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no weights": {"weight_cap": 0},
    "no baseline": {"baseline": False},
}
USERS = 256
TEN = torch.arange(1, 11).double()
Job = tuple[str, str, int]  # world, agent or variant, seed
Outcome = tuple[float, float]  # mean return, CPU seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="all, or some of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes, initializer=prepare) as pool:
        for part in arguments.parts:
            name, claim, work, firsts, seconds = PARTS[part]
            jobs = [(one, two, seed) for one in firsts for two in seconds for seed in range(arguments.seeds)]
            outcomes = dict(zip(jobs, pool.map(work, jobs), strict=True))
            save(name, claim, rows_of(part, outcomes))


def prepare() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def in_a_world(job: Job) -> Outcome:
    """Train an agent in a world."""
    world, name, seed = job
    env = make_world(world, USERS, seed)
    agent = make_agent(name, env.spec, env.choice, seed)
    training = sw.train(agent, env, STEPS[name], progress=False)
    return report(job, agent, training.cpu_seconds)


def by_evolution(job: Job) -> Outcome:
    """Let evolution strategies learn in a world, for so many steps."""
    world, span, seed = job
    env = make_world(world, USERS, seed)
    agent = make_agent("evolution-strategies", env.spec, None, seed)
    training = sw.train(agent, env, SPANS[span], progress=False)
    return report(job, agent, training.cpu_seconds)


def from_a_log(job: Job) -> Outcome:
    """Let REINFORCE learn from what a random policy did."""
    world, variant, seed = job
    with tempfile.TemporaryDirectory() as folder:
        env = make_world(world, 1000, seed)
        policy = env.rule("random", seed)
        with sw.LogWriter(f"{folder}/log", env.spec, {"kind": "simulation", "world": env.full_name}) as writer:
            for _ in range(50):
                writer.add(env.step(policy.act(env.observation)))
        agent = sw.Reinforce(env.spec, seed=seed, **VARIANTS[variant])
        started = time.process_time()
        sw.learn(agent, sw.Log(f"{folder}/log"), progress=False)
        return report(job, agent, time.process_time() - started)


def report(job: Job, agent: sw.Agent, seconds: float) -> Outcome:
    result = sw.evaluate(agent, make_world(job[0], 2000, 1000 + job[2]), 2000)
    print(*job, f"{result.mean:.1f} ± {result.standard_error:.1f}, {seconds:.0f} CPU s", flush=True)
    return result.mean, seconds


def make_world(world: str, users: int, seed: int) -> sw.Environment:
    name, settings = WORLDS[world]
    return sw.make(name, users=users, seed=seed, **settings)


def of_one_state(job: Job) -> Outcome:
    """Repeat one of the paper's simulations; return the probabilities of the best item and the second, not seconds."""
    _, variant, seed = job
    chances, rewards, settings = SIMULATIONS[variant]
    with tempfile.TemporaryDirectory() as folder:
        log = single_items(f"{folder}/log", chances / chances.sum(), rewards, 1100)
        agent = sw.Reinforce(log.spec, seed=seed, **(PLAIN | settings))
        sw.learn(agent, log, progress=False)
        chance = agent.probabilities(log.read()[:1].observation)[0][rewards.argsort(descending=True)]
    print(variant, seed, [round(float(value), 3) for value in chance], flush=True)
    return float(chance[0]), float(chance[1])


def single_items(folder: str, chances: torch.Tensor, rewards: torch.Tensor, rows: int) -> sw.Log:
    """Write a log of one state and single items, each shown as often as its chance says and earning its reward."""
    spec = sw.Spec(("one",), tuple("abcdefghij"), (), (), candidates=10, slate_size=1)
    slate = torch.arange(10).repeat_interleave((chances * rows).round().long()).unsqueeze(1)
    ids, zeros, over = torch.arange(10).expand(rows, -1), torch.zeros(rows), torch.ones(rows, dtype=torch.bool)
    shown = sw.Observation(torch.ones(rows, 1), ids, torch.zeros(rows, 10, 0), sw.Catalogue.of(torch.eye(10)))
    response = sw.Response(over.unsqueeze(1), torch.zeros(rows, 1, 0), rewards[slate], zeros.double(), over)
    decision = sw.Decision(slate, chances[slate])
    with sw.LogWriter(folder, spec, {"kind": "made"}) as writer:
        writer.add(
            sw.Interactions(
                shown, decision, response, None, over, ~over, torch.arange(rows), torch.zeros_like(ids[:, 0])
            )
        )
    return sw.Log(folder)


def rows_of(part: str, outcomes: dict[Job, Outcome]) -> list[dict[str, Any]]:
    """Average the seeds; references stand beside what is learned in worlds."""
    rows: list[dict[str, Any]] = []
    for one, two in dict.fromkeys(job[:2] for job in outcomes):
        first, second = zip(*(value for job, value in outcomes.items() if job[:2] == (one, two)), strict=True)
        if part == "paper":
            rows.append({"log": two, "best_item": statistics.mean(first), "second": statistics.mean(second)})
            continue
        error = statistics.stdev(first) / math.sqrt(len(first)) if len(first) > 1 else math.nan
        row = {"world": one, COLUMNS[part]: two, "mean": statistics.mean(first)}
        row |= {"standard_error": error, "seeds": [round(mean, 1) for mean in first]}
        rows.append(row | {"cpu_seconds": statistics.median(second)} | references(one, two, first))
    print("\n".join(table(rows)), flush=True)
    return rows


def references(world: str, name: str, means: Any) -> dict[str, Any]:
    known = make_world(world, 1, 0).references
    assert known is not None
    assert known.ceiling is not None
    best, share = known.best_rule(), known.share(statistics.mean(means))
    steps = {"steps": STEPS[name]} if name in STEPS else {}
    return steps | {
        "share_%": 100 * share if share is not None else None,
        "random": known.rules["random"].mean,
        "best_rule": f"{best} {known.rules[best].mean}",
        "ceiling": f"{known.ceiling.mean} ({known.ceiling.kind})",
    }


PLAIN: dict[str, Any] = {
    "entropy": 0.0, "baseline": False, "weight_cap": 100, "log_epochs": 300, "learning_rate": 0.02, "hidden": 16
}  # fmt: skip
GOOD = torch.tensor([10.0, 9.0] + [1.0] * 8).double()
SIMULATIONS: dict[str, tuple[torch.Tensor, torch.Tensor, dict[str, Any]]] = {
    "first, no weights": (TEN.flip(0), TEN, {"weight_cap": 0}),
    "first, weights": (TEN.flip(0), TEN, {}),
    "second, K = 1": (torch.ones(10).double(), GOOD, {"top_k": 1}),
    "second, K = 2": (torch.ones(10).double(), GOOD, {"top_k": 2}),
}
COLUMNS = {"worlds": "agent", "logs": "reinforce", "evolution": "evolution_strategies"}  # of the second part of a job
PARTS: dict[str, Any] = {
    "paper": ("policy_gradient_paper", PAPER, of_one_state, ("one state",), SIMULATIONS),
    "logs": ("policy_gradient_logs", LOGS, from_a_log, ("interest evolution 10/2", "sweetness"), VARIANTS),
    "evolution": ("policy_gradient_evolution", EVOLUTION, by_evolution, EVOLVED, SPANS),
    "worlds": ("policy_gradient", CLAIM, in_a_world, WORLDS, STEPS),
}


if __name__ == "__main__":
    main()
