"""Run folders: what was trained and how, its metrics, and checkpoints that are swapped in whole.

run.json           world, agent, settings, seed, versions
metrics.jsonl      one line of metrics at a time
checkpoints/STEP/  the agent, the world's snapshot, how far the run was, and the returns that its metrics average; the
                   newest has the agent's memory too
latest             the name of the newest whole checkpoint
"""

import json
import os
import platform
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from slatewise.agents import CHECKPOINTS, LATEST, latest_checkpoint
from slatewise.agents.base import DESCRIPTION, Agent
from slatewise.documents import read_document
from slatewise.environments import make, world
from slatewise.environments.base import Environment
from slatewise.errors import InputError
from slatewise.registry import registered_name

FORMAT = 1
RUN = "run.json"
METRICS = "metrics.jsonl"
PROGRESS = "progress.json"
RETURNS = "returns.safetensors"
MEMORY = "memory.safetensors"
KEPT = 3  # newest checkpoints that are not deleted


def save_agent(agent: Agent, folder: str | Path, overwrite: bool = False) -> None:
    """Write an agent into a folder of its own, never half of it. Raises InputError where the folder exists."""
    folder = Path(folder)
    check_agent_folder(folder, overwrite)
    whole = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(whole, ignore_errors=True)
    agent.save(whole)
    shutil.rmtree(folder, ignore_errors=True)
    whole.replace(folder)


def check_agent_folder(folder: Path, overwrite: bool) -> None:
    """Raise InputError for a folder that exists, unless `overwrite` and it holds an agent."""
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(f"{folder} exists: choose another folder, or --overwrite")
    if not (folder / DESCRIPTION).is_file():
        raise InputError(f"{folder} holds no saved agent, so it is not overwritten: choose another folder")


class Run:
    """A run folder that is being written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._made: bool | None = None  # whether `begin` made the folder, once it was called

    def clear(self, overwrite: bool) -> None:
        """Make room. Raises InputError where the folder exists, unless `overwrite` and it is a run."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        if not overwrite:
            raise InputError(f"{self.folder} exists: give --resume to go on, --overwrite, or another folder")
        if not (self.folder / RUN).is_file():
            raise InputError(f"{self.folder} is not a run (no {RUN}), so it is not overwritten: choose another")
        shutil.rmtree(self.folder)

    def begin(self, env: Environment, agent: Agent, steps: int) -> None:
        """Create the folder and say in it what is run."""
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / RUN, json.dumps(describe(env, agent, steps), indent=2) + "\n")

    def withdraw(self) -> None:
        """Take back what `begin` and the first checkpoint wrote, so that a run that never learned blocks no other.

        A run that goes on is left as it is.
        """
        if self._made is None:
            return
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        for name in (LATEST, RUN):
            (self.folder / name).unlink(missing_ok=True)
        if self._made and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line of metrics."""
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(
        self, env: Environment, agent: Agent, progress: Mapping[str, Any], returns: Mapping[str, Tensor]
    ) -> Path:
        """Write a checkpoint beside the others, and only when it is whole make it the latest."""
        name = f"{agent.steps:012d}"
        final = self.folder / CHECKPOINTS / name
        if final.is_dir() and latest_checkpoint(self.folder) == final:
            return final  # nothing happened since, and replacing it could lose it
        unfinished = final.with_name(f".{name}")
        for cut in (self.folder / CHECKPOINTS).glob(".[0-9]*"):
            shutil.rmtree(cut, ignore_errors=True)  # what a kill left behind, perhaps a whole memory
        agent.save(unfinished)
        save_file(env.snapshot(), unfinished / "environment.safetensors")
        save_file(dict(returns), unfinished / RETURNS)
        memory = agent.memory_tensors()
        if memory:
            save_file({key: value.contiguous() for key, value in memory.items()}, unfinished / MEMORY)
        remembers = {"memory": bool(memory)}
        (unfinished / PROGRESS).write_text(json.dumps({"format": FORMAT, **progress, **remembers}) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        _write(self.folder / LATEST, name + "\n")
        for old in sorted((self.folder / CHECKPOINTS).glob("[0-9]*"))[:-KEPT]:
            shutil.rmtree(old)
        for old in (self.folder / CHECKPOINTS).glob(f"[0-9]*/{MEMORY}"):
            if old.parent != final:
                old.unlink()  # it is large, and nothing goes on from there any more
        return final

    def load_memory(self, folder: Path, agent: Agent, saved: bool) -> None:
        """Give an agent the memory that a checkpoint holds; saved: whether its progress says that it holds one.

        Warns where a checkpoint of an earlier version has none. Raises InputError for one that cannot be read.
        """
        path, wanted = folder / MEMORY, bool(agent.memory_tensors())
        if wanted and not saved:
            warnings.warn(
                f"{folder} was written without the memory that {agent.name} learns from: it begins anew, so this run "
                "does not go on as it would have",
                stacklevel=2,
            )
        if not wanted or not saved:
            return
        if not path.is_file():
            raise InputError(f"{path} is missing, and the run goes on with it: copy it again, or begin another run")
        try:
            agent.load_memory_tensors(load_file(path, device=str(agent.device)))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} cannot be read ({reason}): copy it again, or begin another run") from None

    def latest(self) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
        """Return the newest checkpoint's folder, its progress, and the world's snapshot."""
        folder = latest_checkpoint(self.folder)
        if folder is None:
            raise InputError(f"{self.folder} has no checkpoint: start it again with --overwrite")
        progress = read_document(folder / PROGRESS, FORMAT, ("seconds", "cpu_seconds"))
        try:
            return folder, progress, load_file(folder / "environment.safetensors")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder}: the world's snapshot cannot be read ({error}): copy it again") from None

    def load_returns(self, folder: Path) -> dict[str, Tensor]:
        """Return the returns that a checkpoint holds: none where an earlier version wrote it.

        Raises InputError for a file that cannot be read.
        """
        path = folder / RETURNS
        try:
            return load_file(path) if path.is_file() else {}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}): copy it again, or delete it") from None

    def forget_after(self, steps: int) -> None:
        """Drop metrics written after a checkpoint that the run goes on from."""
        path = self.folder / METRICS
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if _whole(line) and json.loads(line)["steps"] <= steps]
        _write(path, "".join(line + "\n" for line in kept))


def describe(env: Environment, agent: Agent, steps: int) -> dict[str, Any]:
    """Return what `run.json` says."""
    return {
        "format": FORMAT,
        "agent": registered_name(type(agent), agent.name),
        "agent_settings": agent.settings.model_dump(mode="json"),
        "agent_seed": agent.seed,
        "world": registered_name(type(env), env.full_name),
        "world_settings": env.settings.model_dump(mode="json"),
        "world_seed": env.seed,
        "users": env.users,
        "steps": steps,
        "versions": {name: version(name) for name in ("slatewise", "torch", "numpy")}
        | {"python": platform.python_version()},
    }


def read(folder: str | Path) -> dict[str, Any]:
    """Read `run.json`. Raises InputError where the folder is not a run."""
    path = Path(folder) / RUN
    if not path.is_file():
        raise InputError(f"{folder} is not a run: {RUN} is missing")
    keys = ("agent", "agent_settings", "agent_seed", "world", "world_seed", "users", "steps")
    described = read_document(path, FORMAT, keys)
    if not isinstance(described.get("world_settings"), dict) or not isinstance(described["agent_settings"], dict):
        raise InputError(f"{path}: its settings are no objects: it is damaged, copy it again")
    return described


def check_names(folder: str | Path, described: Mapping[str, Any], agent: str, world: str) -> None:
    """Raise InputError where a run trains another agent, or in another world, than those of these names."""
    if described["agent"] != agent or described["world"] != world:
        raise InputError(
            f"{folder} trains {described['agent']} in {described['world']}, not {agent} in {world}: name those, or "
            "another folder"
        )


def metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, oldest first."""
    path = Path(folder) / METRICS
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if _whole(line)]


def make_world(
    folder: str | Path,
    users: int | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    **changes: Any,
) -> Environment:
    """Make the world that a run was trained in, with another number of users, seed or settings if given.

    Raises InputError where the folder is not a run, or holds an agent that learned from a log and knows no world.
    """
    run = _read_with_world(folder)
    settings = run["world_settings"] | changes
    seed = int(run["world_seed"]) if seed is None else seed
    return make(run["world"], users or run["users"], seed, device, **settings)


def world_of_run(folder: str | Path) -> type[Environment]:
    """Return the class of the world that a run was trained in. Raises InputError as `make_world` does."""
    return world(_read_with_world(folder)["world"])


def _read_with_world(folder: str | Path) -> dict[str, Any]:
    if (Path(folder) / DESCRIPTION).is_file():
        raise InputError(f"{folder} holds an agent alone, as learned from a log, and no world: name one with --env")
    return read(folder)


def _whole(line: str) -> bool:
    """Whether a line was written to its end; a kill can cut the last one."""
    return line.startswith("{") and line.endswith("}")


def _write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    os.replace(unfinished, path)
