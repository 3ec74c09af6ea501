"""`slatewise train --resume`: what a run was begun with stands for all that is not given again."""

import shlex
from pathlib import Path
from typing import Any


def begun(folder: Path, agent: str, env_name: str | None) -> dict[str, Any]:
    """Return what the run of a folder was begun with, as `run.json` says.

    Raises InputError where the folder is no run, or trains another agent or, if one is named, in another world.
    """
    from slatewise.agents import agent_class
    from slatewise.environments import world
    from slatewise.registry import registered_name
    from slatewise.runs import check_names, read

    described = read(folder)
    learner, place = agent_class(agent), world(env_name or described["world"])
    mine = registered_name(learner, learner.name), registered_name(place, f"{place.name}-v{place.version}")
    check_names(folder, described, *mine)
    known = learner.Settings.model_fields  # an earlier version of the agent may have had more
    settings = {key: value for key, value in described["agent_settings"].items() if key in known}
    return described | {"agent_settings": settings}


def command(agent: str, folder: Path, threads: int, device: str) -> str:
    """Return the command that goes on with a run that was stopped."""
    words = ["slatewise", "train", agent, "--resume", "--out", str(folder)]
    words += ["--threads", str(threads)] * (threads != 1) + ["--device", device] * (device != "cpu")
    return shlex.join(words)
