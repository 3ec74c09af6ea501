"""How much memory and time does it take to judge a policy on a log far larger than memory? One thread.

python benchmarks/off_policy_scale.py [--rows 2000000 20000000] [--folder DIR]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from results import save, table
from torch import Tensor

import slatewise as sw
from slatewise.allocation import keep_freed_memory
from slatewise.interactions import Catalogue, Decision, Interactions, Observation, Response, Spec
from slatewise.off_policy import evaluate

CLAIM = (
    "A generated log of single decisions: 10 candidates of a catalogue of 1,000 items with 8 features, 16 user "
    "features, a user a decision, clicks of about 5 %. A softmax policy is judged on the log of another, each in a "
    "process of its own: peak memory (the process's largest resident set, PyTorch and Arrow included, {base:.0f} MB "
    "before the first row), and rows per CPU second beside reading the Parquet alone, by PyArrow and by the log with "
    "its checks. DR fits its ridge regression in a first pass."
)
CANDIDATES, ITEMS, FEATURES, USER = 10, 1000, 8, 16
BLOCK = 50_000
TASKS = ("import", "pyarrow", "blocks", "IPS,SNIPS", "IPS,SNIPS,DR")


class Softmax:
    """A linear softmax policy over the candidates."""

    def __init__(self, seed: int, sharpness: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = sharpness * torch.randn(USER, FEATURES, generator=self.generator) / (USER * FEATURES) ** 0.5

    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return the probability of every candidate, float64 [B, C]."""
        assert observation.catalogue is not None
        scores = observation.products(observation.user @ self.weights, observation.catalogue.features)
        return scores.double().softmax(1)

    def act(self, observation: Observation, explore: bool = True) -> Decision:  # noqa: ARG002
        """Draw a candidate."""
        every = self.probabilities(observation)
        slate = every.multinomial(1, generator=self.generator)
        return Decision(slate, every.gather(1, slate))

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:  # noqa: ARG002
        """Return the probability of the shown candidate, float64 [B, 1]."""
        return self.probabilities(observation).gather(1, slate.clamp(min=0))


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Write a log of so many decisions."""
    generator = torch.Generator().manual_seed(seed)
    catalogue = Catalogue.of(torch.randn(ITEMS, FEATURES, generator=generator))
    spec = Spec(
        tuple(f"u{i}" for i in range(USER)), tuple(f"i{i}" for i in range(FEATURES)), (), (), CANDIDATES, 1
    )  # fmt: skip
    logged, taste = Softmax(1, 0.7), Softmax(2, 0.5)
    with sw.LogWriter(folder, spec, {"kind": "generated"}, overwrite=True) as writer:
        for start in range(0, rows, BLOCK):
            writer.add(block(start, catalogue, logged, taste, generator))


def block(
    start: int, catalogue: Catalogue, logged: Softmax, taste: Softmax, generator: torch.Generator
) -> Interactions:
    user = torch.randn(BLOCK, USER, generator=generator)
    ids = torch.randint(ITEMS, (BLOCK, CANDIDATES), generator=generator)
    observation = Observation(user, ids, torch.zeros(BLOCK, CANDIDATES, 0), catalogue)
    decision = logged.act(observation)
    slate = decision.slate
    score = observation.products(user @ taste.weights, catalogue.features).gather(1, slate)
    clicked = torch.rand(BLOCK, 1, generator=generator) < (score - 3).sigmoid()
    zeros, ones = torch.zeros(BLOCK, dtype=torch.float64), torch.ones(BLOCK, dtype=torch.bool)
    return Interactions(
        observation,
        decision,
        Response(clicked, torch.zeros(BLOCK, 1, 0), clicked.double(), zeros, ones),
        None,
        ones,
        ~ones,
        start + torch.arange(BLOCK),
        torch.zeros(BLOCK, dtype=torch.int64),
    )


def run(task: str, folder: Path) -> dict[str, float]:
    """Do one task in this process; return CPU seconds and peak memory in MB."""
    torch.set_num_threads(1)
    keep_freed_memory()
    started = time.process_time()
    if task == "pyarrow":
        for file in sorted(folder.glob("part-*.parquet")):
            for _ in pq.ParquetFile(file).iter_batches(65_536, use_threads=False):
                pass
    elif task == "blocks":
        for _ in sw.Log(folder).blocks():
            pass
    elif task != "import":
        evaluate(sw.Log(folder), {"new": Softmax(3, 0.7)}, estimators=task.split(","))
    seconds = time.process_time() - started
    return {"cpu_seconds": seconds, "peak_MB": peak_megabytes()}


def peak_megabytes() -> float:
    """Return the largest resident set of this process so far (Linux: getrusage would count the parent's too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(folder: Path, task: str) -> dict[str, float]:
    """Do one task in a fresh process."""
    command = [sys.executable, __file__, "--task", task, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 20_000_000])
    parser.add_argument("--folder", type=Path, help="where the logs are written, and left")
    parser.add_argument("--task", choices=TASKS, help="do this on the log in --folder, and nothing else")
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(run(arguments.task, arguments.folder)))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        found: list[dict[str, Any]] = []
        base = measure(Path(temporary), "import")["peak_MB"]
        for rows in arguments.rows:
            folder = (arguments.folder or Path(temporary)) / f"rows-{rows}"
            if not folder.is_dir():
                generate(folder, rows)
            for task in TASKS[1:]:
                got = measure(folder, task)
                row = {"rows": rows, "what": task, "peak_MB": round(got["peak_MB"])}
                found.append(row | {"rows_per_cpu_second": round(rows / got["cpu_seconds"])})
                print("\n".join(table(found[-1:])), flush=True)
    save("off_policy_scale", CLAIM.format(base=base), found)


if __name__ == "__main__":
    main()
