"""Learning curves of the agents beside random, the best rule without learning and the ceiling, as on the docs pages.

python benchmarks/curves.py [--agents NAME ...] [--missing]: all agents by default. A new agent is a line in RUNS, and
its label a word in PICTURES.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from curves_drawing import IMAGES, Panel, draw
from exploration import make as make_explorer
from list_worlds import EXAMINATION
from results import HERE, save, table

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.environments.base import References
from slatewise.returns import Mean

CLAIM = (
    "Learning curves: greedy return of what an agent has learned after 1/256, 1/128, … and all of its user-steps, and "
    "its return while learning, exploration included, as its metrics give it. Default settings unless said; hidden "
    "state stays hidden; SlateQ, and `model-planner` with `users=given`, know how users choose, and in interest "
    "exploration SlateQ is as in `exploration`; α is 0.5 for `linucb` on bandits, and `position-ucb` knows how often "
    "positions are looked at. The table has the end: mean greedy return over seeds, {episodes:,} sessions of new users "
    "each (before the end {fewer}; of bandits the true mean reward in {contexts:,} contexts), with its standard error "
    "over seeds; CPU seconds of training on one thread, evaluation excluded, the median. `over best rule`: difference "
    "to the best rule without learning, as far as two standard errors of the two together tell them apart."
)
USERS, EPISODES, SEEDS = 256, 2000, 3
LINES = 40  # of the return while learning
HALVES = 8  # greedy returns before the end, each after half the user-steps of the next
BANDIT_USERS, BANDIT_CONTEXTS = 100, 10_000  # rounds that are decided at a time; contexts of an evaluation

EVOLUTION, SWEETNESS, SPLIT, MAZE = "interest evolution", "sweetness", "interest exploration", "maze"
LINEAR, WHEEL = "linear bandit", "wheel bandit, δ 0.95"
CASCADE, POSITIONS = "lists read to a click", "lists by position"
BANDIT_WORLDS = LINEAR, WHEEL, CASCADE, POSITIONS
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    EVOLUTION: ("interest-evolution", {}),
    SWEETNESS: ("long-term-satisfaction", {"variant": "sweetness"}),
    SPLIT: ("interest-exploration", {"variant": "split"}),
    MAZE: ("maze", {}),
    LINEAR: ("linear-bandit", {}),
    WHEEL: ("wheel-bandit", {"delta": 0.95}),
    CASCADE: ("list_worlds:CascadeLists", {}),
    POSITIONS: ("list_worlds:PositionLists", {}),
}
BANDITS = (
    "linucb", "lints", "squarecb", "explore-first", "bagging", "logistic-thompson", "neural-linear", "epsilon-greedy",
    "ucb1",
)  # fmt: skip
COUNTING = "epsilon-greedy", "softmax", "ucb1", "thompson-beta", "thompson-gaussian"
OWN: dict[str, dict[str, Any]] = {
    "linucb": {"alpha": 0.5},  # as in benchmarks/bandits.py
    "position-ucb": {"examination": EXAMINATION},
}


@dataclass(frozen=True)
class Run:
    """One agent in one world, for so many user-steps. label: its name in pictures, if it has settings of its own."""

    agent: str
    world: str
    steps: int
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    own_label: str | None = None

    @property
    def label(self) -> str:
        """The name in pictures and tables."""
        return self.own_label or self.agent

    @property
    def key(self) -> str:
        """The name in the result file."""
        return f"{self.label}, {self.world}"


RUNS = (
    Run("slateq", EVOLUTION, 1_000_000),
    Run("reinforce", EVOLUTION, 1_000_000),
    Run("ppo", EVOLUTION, 500_000),
    Run("deep-q", EVOLUTION, 1_000_000),
    Run("wolpertinger", EVOLUTION, 1_000_000),
    Run("evolution-strategies", EVOLUTION, 1_000_000),
    Run("model-planner", EVOLUTION, 50_000),
    Run("model-planner", EVOLUTION, 50_000, {"users": "given"}, "model-planner, users=given"),
    Run("supervised", EVOLUTION, 300_000),
    Run("linucb", EVOLUTION, 100_000),
    Run("reinforce", SWEETNESS, 1_000_000),
    Run("ppo", SWEETNESS, 500_000),
    Run("deep-q", SWEETNESS, 1_000_000),
    Run("evolution-strategies", SWEETNESS, 1_000_000),
    Run("supervised", SWEETNESS, 300_000),
    Run("linucb", SWEETNESS, 100_000),
    Run("supervised", SPLIT, 300_000),
    Run("linucb", SPLIT, 200_000),
    Run("slateq", SPLIT, 500_000, own_label="slateq, fitted choice"),
    Run("type-thompson", SPLIT, 500_000),
    Run("q-learning", MAZE, 200_000),
    *(Run(name, LINEAR, 10_000, OWN.get(name, {})) for name in BANDITS),
    *(Run(name, WHEEL, 10_000, OWN.get(name, {})) for name in BANDITS if name != "logistic-thompson"),  # 0 and 1 only
    *(Run(name, CASCADE, 10_000) for name in (*COUNTING, "cascade-ucb")),
    *(Run(name, POSITIONS, 10_000, OWN.get(name, {})) for name in (*COUNTING, "position-ucb")),
)
PICTURES: dict[str, dict[str, tuple[str, ...]]] = {  # docs/images/curves-NAME.png: labels in worlds, a panel each
    "policy-gradient": {EVOLUTION: ("reinforce", "ppo", "slateq"), SWEETNESS: ("reinforce", "ppo")},
    "deep-q": {EVOLUTION: ("deep-q", "slateq"), SWEETNESS: ("deep-q",)},
    "wolpertinger": {EVOLUTION: ("wolpertinger", "slateq")},
    "evolution-strategies": {
        EVOLUTION: ("evolution-strategies", "reinforce"),
        SWEETNESS: ("evolution-strategies", "reinforce"),
    },
    "model-planner": {EVOLUTION: ("model-planner", "model-planner, users=given", "slateq")},
    "supervised": {EVOLUTION: ("supervised", "linucb"), SWEETNESS: ("supervised", "linucb")},
    "exploration": {SPLIT: ("supervised", "linucb", "slateq, fitted choice", "type-thompson")},
    "maze": {MAZE: ("q-learning",)},
    "bandits": {LINEAR: BANDITS, WHEEL: BANDITS},
    "lists": {CASCADE: (*COUNTING, "cascade-ucb"), POSITIONS: (*COUNTING, "position-ucb")},
}
Result = dict[str, Any]  # of one seed: return, standard_error, cpu_seconds, greedy, learning
Raw = dict[str, dict[str, Result]]  # run, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="train these only; the others stay as they are")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--missing", action="store_true", help="keep the runs that the result file has")
    arguments = parser.parse_args()
    unknown = set(arguments.agents or ()) - {run.agent for run in RUNS}
    if unknown:
        parser.error(f"no run of {', '.join(sorted(unknown))} in RUNS")
    torch.set_num_threads(1)
    keep_freed_memory()
    raw = kept()
    todo = [run for run in RUNS if arguments.agents is None or run.agent in arguments.agents]
    if not arguments.missing:
        raw = {key: seeds for key, seeds in raw.items() if key not in {run.key for run in todo}}
    for seed in range(arguments.seeds):
        for run in todo:
            if str(seed) not in raw.get(run.key, {}):
                raw.setdefault(run.key, {})[str(seed)] = result = learn(run, seed)
                print(run.key, seed, f"{result['return']:.2f}, {result['cpu_seconds']:.1f} CPU s", flush=True)
                save("curves", claim(), rows_of(raw), raw=raw)
    finish(raw)


def kept() -> Raw:
    """Return the raw results that the file has, of runs that are still in the table."""
    path = HERE / "results" / "curves.json"
    raw: Raw = json.loads(path.read_text()).get("raw", {}) if path.is_file() else {}
    return {run.key: raw[run.key] for run in RUNS if run.key in raw}


def finish(raw: Raw) -> None:
    """Write rows, raw results and the pictures from what has been run."""
    rows = rows_of(raw)
    print("\n".join(table(rows)))
    save("curves", claim(), rows, raw=raw)
    for name, panels in PICTURES.items():
        drawn = [one for world, labels in panels.items() if (one := panel(raw, world, labels)).runs]
        if drawn:
            draw(drawn, IMAGES / f"curves-{name}.png")


def claim() -> str:
    return CLAIM.format(episodes=EPISODES, fewer=EPISODES // 4, contexts=BANDIT_CONTEXTS)


def world(run: Run, users: int, seed: int) -> sw.Environment:
    name, settings = WORLDS[run.world]
    return sw.make(name, users=users, seed=seed, **settings)


def is_bandit(run: Run) -> bool:
    return run.world in BANDIT_WORLDS


def agent_of(run: Run, env: sw.Environment, seed: int) -> sw.Agent:
    """Make an agent; where nobody knows how users choose, SlateQ gets a choice model fitted to random slates."""
    if run.world == SPLIT:
        return make_explorer(run.agent, env, seed)
    return sw.make_agent(run.agent, env.spec, env.choice, seed, **run.settings)


class Course:
    """Follows a run: its metrics lines, and the greedy return at its halves. Its own time is not the run's."""

    def __init__(self, run: Run, agent: sw.Agent, seed: int) -> None:
        self.agent, self.bandit = agent, is_bandit(run)
        episodes = BANDIT_CONTEXTS if self.bandit else EPISODES
        self.fresh, self.fewer = world(run, episodes, 1000 + seed), world(run, episodes // 4, 1000 + seed)
        self.due = [run.steps >> halves for halves in range(1, HALVES + 1)]  # the earliest last
        self.end = run.steps
        self.learning: list[list[float]] = []
        self.greedy: list[list[float]] = []
        self.seconds = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        """Take a line of metrics."""
        started = time.process_time()
        at = [line["steps"], line["cpu_seconds"] - self.seconds]
        if line["return"] is not None and not self.bandit:  # theirs is in bandit_regret, without the noise of rewards
            self.learning.append([*at, line["return"]])
        if self.due and line["steps"] >= self.due[-1] and line["steps"] < self.end:
            self.due = [steps for steps in self.due if steps > line["steps"]]
            self.greedy.append([*at, self.evaluate(self.fewer).mean])
        self.seconds += time.process_time() - started

    def evaluate(self, users: sw.Environment) -> Mean:
        """Measure the greedy policy on new users, always the same; bandits by the true means of what they show."""
        if self.bandit:
            return Mean.of(users.expected_reward(self.agent.act(users.observation, explore=False).slate))
        result = sw.evaluate(self.agent, users, users.users)
        return Mean(result.mean, result.standard_error, result.episodes)


def learn(run: Run, seed: int) -> Result:
    """Train one agent and follow it."""
    env = world(run, BANDIT_USERS if is_bandit(run) else USERS, seed)
    agent = agent_of(run, env, seed)
    course = Course(run, agent, seed)
    training = sw.train(agent, env, run.steps, progress=False, on_metrics=course)
    seconds, result = training.cpu_seconds - course.seconds, course.evaluate(course.fresh)
    greedy = [*course.greedy, [training.steps, seconds, result.mean]]
    return {
        "return": shorter(result.mean),
        "standard_error": shorter(result.standard_error),
        "cpu_seconds": shorter(seconds),
        "greedy": [[shorter(value) for value in point] for point in greedy],
        "learning": [[shorter(value) for value in point] for point in thinned(course.learning, run.steps)],
    }


def shorter(value: float) -> float:
    """Return five digits of a number, and whole numbers as they are."""
    return value if isinstance(value, int) else float(f"{value:.5g}")


def thinned(lines: list[list[float]], steps: int) -> list[list[float]]:
    """Return about LINES of the metrics lines: those next to equal steps of the logarithm of user-steps."""
    if not lines:
        return []
    ratio = (steps / lines[0][0]) ** (1 / LINES)
    picked, following = [lines[0]], lines[0][0] * ratio
    for line in lines[1:]:
        if line[0] >= following or line is lines[-1]:
            picked.append(line)
            following = line[0] * ratio
    return picked


@cache
def references_of(name: str) -> References:
    world, settings = WORLDS[name]
    references = sw.make(world, users=1, **settings).references
    assert references is not None  # the worlds here have them
    assert references.ceiling is not None
    return references


def rows_of(raw: Raw) -> list[dict[str, Any]]:
    """Summarise the seeds of every run."""
    rows: list[dict[str, Any]] = []
    for run in RUNS:
        if run.key not in raw:
            continue
        runs = list(raw[run.key].values())
        means, references = [one["return"] for one in runs], references_of(run.world)
        mean, error = statistics.mean(means), standard_error(means)
        best = references.best_rule()
        rule, ceiling = references.rules[best], references.ceiling
        assert ceiling is not None
        rows.append(
            {
                "world": run.world,
                "agent": run.label,
                "steps": run.steps,
                "cpu_seconds": statistics.median(one["cpu_seconds"] for one in runs),
                "mean": mean,
                "standard_error": error,
                "seeds": means,
                "best_rule": f"{best} {rule.mean:.5g}",
                "over_best_rule": verdict(mean - rule.mean, math.hypot(error, rule.standard_error)),
                "ceiling": f"{ceiling.mean:.5g} ({ceiling.kind})",
            }
        )
    return rows


def standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def verdict(difference: float, error: float) -> str:
    """Say whether a difference is more than two of its standard errors."""
    if math.isnan(error):  # of one seed
        return f"{difference:+.3g}"
    side = "above" if difference > 2 * error else "below" if difference < -2 * error else "level"
    return f"{side}, {difference:+.3g}"


def panel(raw: Raw, world_name: str, labels: tuple[str, ...]) -> Panel:
    """Gather what one panel shows."""
    shown = [run for run in RUNS if run.world == world_name and run.label in labels and run.key in raw]
    bandit = world_name in BANDIT_WORLDS
    return Panel(
        title=world_name,
        references=references_of(world_name),
        runs={run.label: list(raw[run.key].values()) for run in sorted(shown, key=lambda run: labels.index(run.label))},
        what="reward of a round, greedy" if bandit else "return; thin: while learning",
        steps="rounds" if bandit else "user-steps",
        timed=not bandit,
    )


if __name__ == "__main__":
    main()
