"""The SlateQ paper's table: its rows as published, where no click is worth nothing, and as they should be."""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
from results import HERE, save, with_error

import slatewise as sw
from slatewise.allocation import keep_freed_memory

CLAIM = (
    "Rows of Ie et al. 2019 (arXiv 1905.12767, interest evolution, multinomial logit, slates of 3 from 10 candidates, "
    "budget hidden), each trained anew: `as published` with one-step targets and no value of no click "
    "(null_value=false, trace=0), `as it should be` with our defaults. Mean greedy return over seeds and its standard "
    "error over seeds, 2,000 sessions of new users each; the paper's own figure beside them. Names as in the paper: "
    "first how the next slate is made in training (T top-k, G greedy, O exact), then in serving. Random 159.4, best "
    "topics 267.3, planner 274.6 (a lower bound on the optimum). `cascade` is the paper's robustness experiment: users "
    "choose by an exponential cascade and the agent assumes logit (random 92.1, myopic 116.0, best topics 122.9 in our "
    "world; the paper's cascade has other constants: random 159.9, myopic 163.6, its best agent 167.6); the last rows "
    "know the cascade. `20 candidates` is the paper's comparison with Q-learning over all 1,140 slates, here deep-q, "
    "which needs no choice model: as published with one-step targets (trace=0), as it should be with our defaults."
)
USERS = 256


@dataclass(frozen=True)
class Row:
    """A row of the paper: how slates are made in training and serving, and its figure."""

    name: str
    settings: dict[str, Any]
    paper: float | None
    choice: str = "logit"  # the users'
    assumed: str = "logit"
    candidates: int = 10
    agent: str = "slateq"


VARIANTS: dict[str, dict[str, Any]] = {
    "MYOP-GS": {"discount": 0.0, "target": "greedy", "serve": "greedy"},
    "SARSA-TS": {"target": "sarsa", "serve": "top-k"},
    "SARSA-GS": {"target": "sarsa", "serve": "greedy"},
    "QL-TT-TS": {"target": "top-k", "serve": "top-k"},
    "QL-GT-GS": {"target": "greedy", "serve": "greedy"},
    "QL-OT-GS": {"target": "exact", "serve": "greedy"},
    "QL-OT-OS": {"target": "exact", "serve": "exact"},
}
PAPER = {
    "MYOP-GS": 166.3,
    "SARSA-TS": 168.4,
    "SARSA-GS": 172.1,
    "QL-TT-TS": 168.4,
    "QL-GT-GS": 172.9,
    "QL-OT-GS": 173.8,
    "QL-OT-OS": 174.6,
}
CASCADE = "exponential-cascade"
ROWS = (
    *(Row(name, settings, PAPER[name]) for name, settings in VARIANTS.items()),
    *(Row(f"cascade, {name}", settings, None, CASCADE) for name, settings in VARIANTS.items()),
    Row("20 candidates, full-slate Q", {}, 164.2, candidates=20, agent="deep-q"),
    Row("20 candidates, SARSA-TS", VARIANTS["SARSA-TS"], 170.7, candidates=20),
    *(Row(f"cascade known, {name}", VARIANTS[name], None, CASCADE, CASCADE) for name in ("SARSA-TS", "QL-OT-OS")),
)
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "as published": {"slateq": {"null_value": False, "trace": 0.0}, "deep-q": {"trace": 0.0}},
    "as it should be": {"slateq": {}, "deep-q": {}},
}
Raw = dict[str, dict[str, dict[str, float]]]  # row, recipe, seed, return


def world(choice: str, users: int, seed: int, candidates: int) -> sw.Environment:
    return sw.make("interest-evolution", users, seed, slate_size=3, choice=choice, candidates=candidates)


def trained(row: Row, recipe: str, steps: int, seed: int, episodes: int) -> float:
    torch.set_num_threads(1)
    keep_freed_memory()
    env = world(row.choice, USERS, seed, row.candidates)
    settings = row.settings | RECIPES[recipe][row.agent]
    agent = sw.make_agent(row.agent, env.spec, world(row.assumed, 1, 0, row.candidates).choice, seed, **settings)
    sw.train(agent, env, steps, progress=False)
    return sw.evaluate(agent, world(row.choice, episodes, 1000 + seed, row.candidates), episodes).mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--missing", action="store_true", help="keep the runs that the result file has")
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS], help="train only these; see --missing")
    arguments = parser.parse_args()
    raw = kept() if arguments.missing else {}
    todo = [
        (row, recipe, seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for row in ROWS
        if row.name in arguments.rows
        for recipe in RECIPES
        if str(seed) not in raw.get(row.name, {}).get(recipe, {})
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = {
            pool.submit(trained, row, recipe, arguments.steps, seed, arguments.episodes): (row, recipe, seed)
            for row, recipe, seed in todo
        }
        for job in as_completed(jobs):
            row, recipe, seed = jobs[job]
            raw.setdefault(row.name, {}).setdefault(recipe, {})[str(seed)] = job.result()
            print(f"{row.name}, {recipe}, seed {seed}: {job.result():.1f}", flush=True)
            finish(raw, arguments.steps)
    finish(raw, arguments.steps)


def finish(raw: Raw, steps: int) -> None:
    """Write the table of what has been run."""
    save("slateq_paper", CLAIM, [summary(row, raw[row.name], steps) for row in ROWS if row.name in raw], raw)


def kept() -> Raw:
    path = HERE / "results" / "slateq_paper.json"
    return json.loads(path.read_text()).get("raw", {}) if path.is_file() else {}


def summary(row: Row, recipes: dict[str, dict[str, float]], steps: int) -> dict[str, Any]:
    """Return one line of the table."""
    shown: dict[str, Any] = {"row": row.name, "candidates": row.candidates, "paper": row.paper}
    for recipe in [name for name in RECIPES if name in recipes]:
        means = [recipes[recipe][seed] for seed in sorted(recipes[recipe], key=int)]
        shown |= {recipe: with_error(means), f"{recipe}, seeds": [round(mean, 1) for mean in means]}
    return shown | {"steps": steps}


if __name__ == "__main__":
    main()
