"""How good is SlateQ after so many CPU seconds? Each budget is a run of its own, whose schedules end with it."""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import torch
from curves_drawing import write_names
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import HERE, save, unlearned

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.plots.base import FAINT, INK

CLAIM = (
    "Greedy return of SlateQ, median over seeds, 2,000 sessions of new users each, beside random, the best rule "
    "without learning and the ceiling; the budget of interest evolution stays hidden. Settings are the defaults unless "
    "said; `best`, `robust` and `noisy` are presets. CPU seconds and steps per CPU second are of training on one "
    "thread, evaluation excluded (RLlib's SlateQ, measured the same way: 38 steps per CPU second while learning). "
    "`over planner`: difference to the planner for the same users and noise, averaged over seeds, with its lower 95 % "
    "bound over the sessions. Published SlateQ reaches 13 % of the possible gain on interest evolution with slates of "
    "3; the tutorials' DQN 138.0 on `sweetness` after 3,224 seconds. The raw results hold every seed and the training "
    "return along the way."
)
USERS, POINTS = 256, 40
EVOLUTION, SATISFACTION = "interest-evolution", "long-term-satisfaction"
BEST, NOISY, ROBUST = (dict(sw.SlateQ.presets[name].settings) for name in ("best", "noisy", "robust"))


@dataclass(frozen=True)
class Case:
    """One world and one budget."""

    name: str
    world: str
    settings: dict[str, Any]
    steps: int
    agent: dict[str, Any] = field(default_factory=dict[str, Any])
    assumed: str | None = None  # choice model that the agent assumes, if not the users' own
    paired: bool = False  # with the planner


MANY = {"candidates": 100, "slate_size": 10}
MEMORY = {"variant": "sweetness", "history": 9}
CASCADE = {"slate_size": 3, "choice": "exponential-cascade"}
STEPS = BEST | {"step_values": True}
CASES = (
    Case("evolution, 10 candidates, slates of 2", EVOLUTION, {}, 1_000_000, paired=True),
    Case("evolution, 10 candidates, slates of 2, best", EVOLUTION, {}, 2_500_000, BEST, paired=True),
    Case("evolution, slates of 3, logit, best", EVOLUTION, {"slate_size": 3, "choice": "logit"}, 2_500_000, BEST),
    Case("evolution, 50 candidates, slates of 2, best", EVOLUTION, {"candidates": 50}, 2_500_000, BEST),
    Case("evolution, 100 candidates, slates of 10", EVOLUTION, MANY, 1_000_000),
    Case("evolution, 100 candidates, slates of 10, best", EVOLUTION, MANY, 2_500_000, BEST),
    Case("evolution, slates of 3, cascade, logit assumed", EVOLUTION, CASCADE, 2_500_000, assumed="logit"),
    Case("evolution, slates of 3, cascade, logit assumed, robust", EVOLUTION, CASCADE, 1_000_000, ROBUST, "logit"),
    Case("sweetness", SATISFACTION, {"variant": "sweetness"}, 2_500_000),
    Case("sweetness, best, values of steps apart", SATISFACTION, {"variant": "sweetness"}, 2_500_000, STEPS),
    Case("sweetness, what was consumed remembered", SATISFACTION, MEMORY, 1_000_000),
    Case("slides, noisy", SATISFACTION, {"variant": "slides"}, 1_000_000, NOISY),
)
PICTURED = (
    "evolution, 10 candidates, slates of 2, best",
    "evolution, slates of 3, logit, best",
    "sweetness",
    "slides, noisy",
)
Raw = dict[str, dict[str, dict[str, Any]]]  # case, seed, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--missing", action="store_true", help="keep the runs that the result file has")
    arguments = parser.parse_args()
    raw = kept() if arguments.missing else {}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    todo = [(case, seed) for seed in seeds for case in CASES if str(seed) not in raw.get(case.name, {})]
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = {pool.submit(run, case, seed, arguments.episodes): (case, seed) for case, seed in todo}
        for job in as_completed(jobs):
            case, seed = jobs[job]
            raw.setdefault(case.name, {})[str(seed)] = job.result()
            print(case.name, seed, {k: v for k, v in job.result().items() if k != "curve"}, flush=True)
            finish(raw)
    finish(raw)


def kept() -> Raw:
    path = HERE / "results" / "slateq.json"
    return json.loads(path.read_text()).get("raw", {}) if path.is_file() else {}


def finish(raw: Raw) -> None:
    """Write rows, raw results and the picture from what has been run."""
    rows = [row(case, list(raw[case.name].values())) for case in CASES if case.name in raw]
    save("slateq", CLAIM, rows, raw=raw)
    draw(raw)


def world(case: Case, users: int, seed: int) -> sw.Environment:
    return sw.make(case.world, users=users, seed=seed, **case.settings)


def run(case: Case, seed: int, episodes: int) -> dict[str, Any]:
    """Train one agent and measure it on new users."""
    torch.set_num_threads(1)
    keep_freed_memory()
    env = world(case, USERS, seed)
    choice = env.choice if case.assumed is None else sw.make(case.world, users=1, choice=case.assumed).choice
    agent = sw.SlateQ(env.spec, choice, seed, **case.agent)
    lines: list[dict[str, Any]] = []
    training = sw.train(agent, env, case.steps, progress=False, on_metrics=lines.append)
    fresh = world(case, episodes, 1000 + seed)
    result = sw.evaluate(agent, fresh, episodes, paired_with=fresh.rule("planner") if case.paired else None)
    known = [(line["cpu_seconds"], line["steps"], line["return"]) for line in lines if line["return"] is not None]
    return {
        "return": result.mean,
        "standard_error": result.standard_error,
        "cpu_seconds": training.cpu_seconds,
        "difference": [result.difference.mean, result.difference.standard_error] if result.difference else None,
        "curve": [[round(value, 2) for value in point] for point in known[:: max(1, len(known) // POINTS)]],
    }


def row(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the seeds of one case."""
    references = world(case, 1, 0).references
    middle = statistics.median(one["return"] for one in runs)
    seconds = statistics.median(one["cpu_seconds"] for one in runs)
    cells: dict[str, Any] = {
        "world": case.name,
        "agent_settings": ", ".join(f"{key} {value}" for key, value in case.agent.items()) or "default",
        "steps": case.steps,
        "cpu_seconds": seconds,
        "steps_per_cpu_second": round(case.steps / seconds),
        "median_return": middle,
        "seeds": [round(one["return"], 1) for one in runs],
        "standard_errors": [round(one["standard_error"], 1) for one in runs],
    }
    if references is not None:
        cells |= unlearned(references)
        if references.ceiling is not None:
            cells["share_%"] = 100 * (references.share(middle) or 0.0)
            cells["ceiling"] = f"{references.ceiling.mean} ({references.ceiling.kind})"
    if case.paired:
        mean = statistics.mean(one["difference"][0] for one in runs)
        error = sum(one["difference"][1] ** 2 for one in runs) ** 0.5 / len(runs)
        cells["over_planner"] = f"{mean:.2f}, at least {mean - 1.645 * error:.2f}"
    return cells


def draw(raw: Raw) -> None:
    """Draw the training returns of every seed over CPU seconds, exploration included, beside what is known."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    pictured = [case for name in PICTURED for case in CASES if case.name == name]
    for axes, case in zip(figure.subplots(2, 2).flat, pictured, strict=True):
        draw_case(axes, case, list(raw.get(case.name, {}).values()))
    figure.savefig(HERE.parent / "docs" / "images" / "slateq-curves.png", dpi=110, metadata={"Software": None})


def draw_case(axes: Axes, case: Case, runs: list[dict[str, Any]]) -> None:
    for one in runs:
        seconds, _, returns = zip(*one["curve"], strict=True)
        axes.plot(seconds, returns, color="#2a6f97", linewidth=0.9, alpha=0.8)
        axes.plot(one["cpu_seconds"], one["return"], "o", color="#2a6f97", markersize=4)
    references = world(case, 1, 0).references
    assert references is not None  # the pictured worlds have them
    assert references.ceiling is not None
    lines = {name: rule.mean for name, rule in references.rules.items()}
    what = "planner" if references.ceiling.kind == "planner" else "ceiling"
    shown = {
        name: value for name, value in (lines | {what: references.ceiling.mean}).items() if value >= lines["random"]
    }
    for value in shown.values():
        axes.axhline(value, color=FAINT, linewidth=0.8, linestyle="--")
    low, high = axes.get_ylim()
    labels = sorted(((value - low) / (high - low), f"{name} {value:.1f}", INK) for name, value in shown.items())
    write_names(axes, labels, 0.07)
    axes.set_title(f"{case.name}: {case.steps / 1e6:g} million steps", fontsize=9, loc="left")
    axes.set_xlabel("CPU seconds, one thread", fontsize=8)
    axes.set_ylabel("return", fontsize=8)


if __name__ == "__main__":
    main()
