"""`slatewise train --log`: let an agent learn from a log."""

import time
from collections.abc import Sequence
from pathlib import Path

from slatewise.cli.base import pairs
from slatewise.errors import InputError
from slatewise.output import show


def learn_from(
    path: Path,
    name: str,
    out: Path,
    settings: Sequence[str] | None,
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make an agent for a log, let it learn, and save it."""
    from slatewise.agents import make_agent
    from slatewise.learning import learn
    from slatewise.logs import Log
    from slatewise.runs import check_agent_folder, save_agent

    check_agent_folder(out, overwrite)
    given = {key.removeprefix("agent."): value for key, value in pairs(settings).items()}
    history = given.pop("history", None)
    if history is not None and not history.isdecimal():
        raise InputError(f"history={history}: how many interactions the log is read with, a whole number")
    log = Log(path, history=None if history is None else int(history))
    agent = make_agent(name, log.spec, None, seed, device, **given)
    started = time.perf_counter(), time.process_time()
    learn(agent, log, progress=not as_json)
    seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    save_agent(agent, out, overwrite)
    row = {
        "run": str(out),
        "steps": agent.steps,
        "updates": agent.updates,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
    }
    show(as_json, row, f"{name} from {path}", [row])
