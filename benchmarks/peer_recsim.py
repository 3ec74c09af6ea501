"""RecSim's own environments, one user at a time: run by simulation.py with a Python that has RecSim.

RecSim 0.2.4 is archived and needs TensorFlow only for its runner and its configuration; both are left out here:
    python3.11 -m venv recsim && recsim/bin/pip install --no-deps recsim==0.2.4 gym==0.26.2 numpy==1.26.4 \\
        absl-py gym-notices cloudpickle six scipy
"""

import json
import sys
import time
import types

STEPS = 6000


def without_tensorflow() -> None:
    gin = types.ModuleType("gin")
    gin.configurable = lambda *a, **_: a[0] if a and callable(a[0]) else (lambda f: f)
    gin.tf = types.ModuleType("gin.tf")
    runner = types.ModuleType("recsim.simulator.runner_lib")
    sys.modules.update({"gin": gin, "gin.tf": gin.tf, "recsim.simulator.runner_lib": runner})


def steps_per_cpu_second(module, candidates: int, slate_size: int) -> float:
    import numpy as np

    settings = {"num_candidates": candidates, "slate_size": slate_size, "resample_documents": True, "seed": 0}
    env = module.create_environment(settings)
    env.reset()
    generator = np.random.default_rng(0)
    slates = [generator.choice(candidates, slate_size, replace=False) for _ in range(STEPS)]
    started = time.process_time()
    for slate in slates:
        _, _, done, _ = env.step(slate)
        if done:
            env.reset()
    return STEPS / (time.process_time() - started)


def main() -> None:
    without_tensorflow()
    from recsim.environments import interest_evolution, interest_exploration, long_term_satisfaction

    worlds = {
        "long-term-satisfaction 10/2": (long_term_satisfaction, 10, 2),
        "interest-evolution 10/2": (interest_evolution, 10, 2),
        "interest-exploration 10/2": (interest_exploration, 10, 2),
        "interest-evolution 100/10": (interest_evolution, 100, 10),
    }
    print(json.dumps({name: steps_per_cpu_second(*arguments) for name, arguments in worlds.items()}))


if __name__ == "__main__":
    main()
