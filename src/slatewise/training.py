"""Training in simulation: the loop, its progress, its run folder, and stopping without losing anything."""

import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slatewise.agents.base import Agent
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.interactions import Interactions
from slatewise.progress import Bar
from slatewise.returns import SessionReturns
from slatewise.runs import Run, check_names, describe, read
from slatewise.runs import metrics as read_metrics

Metrics = dict[str, Any]
LINES = 200  # metrics lines of a run
RECENT = 1000  # sessions that the progress averages over
CHECKPOINT_SECONDS = 10.0
SPARED = 20  # times what the last checkpoint took, before the next: a large memory takes under 5 % of a run to write
PATIENCE = 1000  # vector steps without learning after which a run may stop all the same


@dataclass(frozen=True)
class Training:
    """What a training did. seconds, cpu_seconds: of the loop. metrics: the last line of metrics.

    had_finished: whether the run that was resumed had taken all its steps before, so that nothing was left to do.
    """

    run: str | None
    steps: int
    updates: int
    seconds: float
    cpu_seconds: float
    interrupted: bool
    metrics: Metrics
    had_finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def train(
    agent: Agent,
    env: Environment,
    steps: int,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    on_metrics: Callable[[Metrics], None] | None = None,
) -> Training:
    """Let an agent act, observe and update until it has taken a number of user-steps; its schedules end with them.

    steps: all that the agent takes in its life, rounded up to a whole update (a rollout of all users).
    out: the run's folder, with metrics and checkpoints; None keeps nothing.  resume: go on from the newest
    checkpoint in `out`, to the bit.  overwrite: replace a run that is there.  progress: show it on standard error.
    on_metrics: called with every line
    of metrics: `steps`, `updates`, `seconds`, `cpu_seconds`, `steps_per_second`, `return` (mean of the last
    sessions that ended, exploration included, None before the first) and what the agent's update says.
    The first Ctrl-C stops after the update under way and leaves a whole checkpoint; a second stops at once.
    Raises InputError before anything starts, or where the agent cannot learn from these users: then no folder is left.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: at least one user-step is needed")
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: choose one")
    if agent.steps >= steps and not resume:
        raise InputError(
            f"steps={steps}: this agent has taken {agent.steps} already, and steps counts all of them: ask for more"
        )
    run = Run(out) if out is not None else None
    if run is not None and not resume:
        run.clear(overwrite)
    agent.plan(steps)
    loop = _Loop(agent, env, steps, run, on_metrics)
    if resume:
        loop.resume()
    elif run is not None:
        run.begin(env, agent, steps)
        loop.checkpoint()  # a run is usable and resumable from its first moment
    with _interruptions() as interrupted, Bar(f"train {agent.name}", steps, progress) as bar:
        return loop.go(interrupted, bar)


class _Loop:
    """The state of one training loop."""

    def __init__(
        self,
        agent: Agent,
        env: Environment,
        steps: int,
        run: Run | None,
        on_metrics: Callable[[Metrics], None] | None,
    ) -> None:
        self.agent, self.env, self.steps, self.run, self.on_metrics = agent, env, steps, run, on_metrics
        self.sessions = SessionReturns(env.users, env.device)
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.cut = torch.zeros(env.users, dtype=torch.bool, device=env.device)  # sessions whose beginning was lost
        self.line: Metrics = {}
        self.spent = 0.0  # seconds that the last checkpoint took
        self.before = (0.0, 0.0)  # seconds and CPU seconds of earlier, interrupted parts of the run
        self.started = (time.perf_counter(), time.process_time())

    def resume(self) -> None:
        """Take agent and world back to the newest checkpoint."""
        if self.run is None:
            raise InputError("resume needs the folder of the run: give out=")
        described = read(self.run.folder)
        mine = describe(self.env, self.agent, self.steps)
        check_names(self.run.folder, described, mine["agent"], mine["world"])
        if described["steps"] != self.steps:
            raise InputError(
                f"{self.run.folder} was planned for {described['steps']} steps, and its schedules end there: "
                f"resume with --steps {described['steps']}, or begin another run"
            )
        _check_same(str(self.run.folder), described, mine)
        folder, progress, snapshot = self.run.latest()
        loaded = type(self.agent).load(folder, self.agent.device)
        self.agent.load_tensors(loaded.tensors())
        self.agent.generator.set_state(loaded.generator.get_state())
        self.agent.steps, self.agent.updates = loaded.steps, loaded.updates
        self.run.load_memory(folder, self.agent, bool(progress.get("memory")))
        self.env.restore(snapshot)
        self.before = (progress["seconds"], progress["cpu_seconds"])
        self.run.forget_after(self.agent.steps)
        self._go_on(self.run.load_returns(folder))
        self.line = (read_metrics(self.run.folder) or [{}])[-1]

    def _returns(self) -> dict[str, Tensor]:
        """Return what `return` among the metrics goes on with: recent returns, and the sessions under way."""
        recent = torch.tensor(list(self.recent), dtype=torch.float64)
        return {"recent": recent, "cut": self.cut, **self.sessions.under_way()}

    def _go_on(self, returns: dict[str, Tensor]) -> None:
        """Take back what `_returns` gave; a checkpoint of an earlier version has none."""
        if not returns:
            self.cut[:] = True
            return
        self.recent.extend(returns["recent"].tolist())
        self.cut.copy_(returns["cut"])
        self.sessions.go_on(returns)

    def go(self, interrupted: threading.Event, bar: Bar) -> Training:
        """Run to the end, or to the update after an interruption."""
        had_finished = self.agent.steps >= self.steps
        next_line, saved = self.agent.steps, time.perf_counter()
        self.started = (time.perf_counter(), time.process_time())
        while self.agent.steps < self.steps and not interrupted.is_set():
            metrics = self._round(interrupted)
            if self.agent.steps >= next_line or self.agent.steps >= self.steps:
                self._report(metrics)
                bar.update(self.agent.steps, _note(self.line))
                next_line = self.agent.steps + self.steps / LINES
            if self.run is not None and time.perf_counter() - saved > max(CHECKPOINT_SECONDS, SPARED * self.spent):
                self.checkpoint()
                saved = time.perf_counter()
        if self.run is not None:
            self.checkpoint()
        seconds, cpu_seconds = self._times()
        folder = str(self.run.folder) if self.run is not None else None
        stopped = self.agent.steps < self.steps
        spent = seconds, cpu_seconds
        return Training(folder, self.agent.steps, self.agent.updates, *spent, stopped, self.line, had_finished)

    def _round(self, interrupted: threading.Event) -> Metrics:
        """Step until the agent has learned once, so that its rollout is empty and a checkpoint is whole.

        An agent that does not learn for long is not waited for once it is time to stop.
        """
        for taken in itertools.count(1):
            interactions = self.env.step(self.agent.act(self.env.observation))
            self._observe(interactions)
            self._count(interactions)
            metrics = self.agent.update()
            if metrics is not None:
                return metrics
            if taken >= PATIENCE and (interrupted.is_set() or self.agent.steps >= self.steps):
                break
        return {}

    def _observe(self, interactions: Interactions) -> None:
        """Let the agent observe. A run with users that it cannot learn from leaves no folder in the way of others."""
        try:
            self.agent.observe(interactions)
        except InputError:
            if self.run is not None and self.agent.updates == 0:
                self.run.withdraw()
            raise

    def _count(self, interactions: Interactions) -> None:
        """Take the returns of sessions that ended, but of those whose beginning nobody kept."""
        returns, done = self.sessions.add(interactions), interactions.done
        self.recent.extend(returns[~self.cut[done]].tolist())
        self.cut &= ~done

    def _report(self, metrics: Metrics) -> None:
        seconds, cpu_seconds = self._times()
        mean = sum(self.recent) / len(self.recent) if self.recent else None
        rate = self.agent.steps / seconds if seconds > 0 else 0.0
        self.line = {
            "steps": self.agent.steps,
            "updates": self.agent.updates,
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "steps_per_second": round(rate),
            "return": mean,
            **metrics,
        }
        if self.run is not None:
            self.run.write_metrics(self.line)
        if self.on_metrics is not None:
            self.on_metrics(self.line)

    def checkpoint(self) -> None:
        """Write where the run stands."""
        assert self.run is not None  # the callers know
        seconds, cpu_seconds = self._times()
        started = time.perf_counter()
        spent = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        self.run.checkpoint(self.env, self.agent, spent, self._returns())
        self.spent = time.perf_counter() - started

    def _times(self) -> tuple[float, float]:
        now = (time.perf_counter(), time.process_time())
        return self.before[0] + now[0] - self.started[0], self.before[1] + now[1] - self.started[1]


def _note(line: Metrics) -> str:
    mean = "" if line["return"] is None else f"return {line['return']:.1f}  "
    return f"{mean}{line['steps_per_second']:,} steps/s"


def _check_same(run: str, described: Metrics, mine: Metrics) -> None:
    """Raise InputError for a setting, number of users or seed that is not the run's."""
    had = {**described["world_settings"], **described["agent_settings"]}
    have = {**mine["world_settings"], **mine["agent_settings"]}
    for key in ("users", "world_seed", "agent_seed"):
        had[key], have[key] = described[key], mine[key]
    for key, value in have.items():
        if had.get(key) != value:
            raise InputError(
                f"{run} was begun with {key}={had.get(key)}, not {value}: resume with the settings, users and seed "
                "that it was begun with, or begin another run"
            )


@contextmanager
def _interruptions() -> Generator[threading.Event]:
    """Turn the first Ctrl-C into an event; the next one stops at once. In other threads: nothing."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def first(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
