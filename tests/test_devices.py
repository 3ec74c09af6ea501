"""The pretended device refuses what CUDA does; what is no world and no agent works on it too.

Worlds and agents are in `contract/test_every_device.py`. No run on a GPU stands behind these tests: `pretended_device`
says what they cannot show.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slatewise as sw
from on_both import check_same
from pretended_device import CUDA, PretendedDevice, pretended_device
from slatewise.batch import shared
from slatewise.choice import NAMES, InnerProduct, Logit, PositionBased
from slatewise.evaluation import simulate
from slatewise.fitting import fit
from slatewise.gym import SlateVectorEnv
from slatewise.indexes import ExactIndex, recall
from slatewise.metrics import Tally
from slatewise.retrieval import Retrieved, agreement
from slatewise.sessions import play
from slatewise.slates import best_slate, greedy_slate, slate_value, top_k_slate


@pytest.fixture(autouse=True)
def device() -> Iterator[PretendedDevice]:
    with pretended_device() as found:
        yield found


# The pretence.


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def here(*shape: int) -> Tensor:
    return torch.ones(shape)


def number() -> Tensor:
    return torch.tensor(2.0)


def index() -> Tensor:
    return torch.tensor([1, 0])


MIXED = "Expected all tensors to be on the same device"
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a sum": (lambda: there(2) + here(2), MIXED),
    "a number of the device in a sum": (lambda: there() + here(2), MIXED),
    "a product": (lambda: here(2, 2) @ there(2, 2), MIXED),
    "a product with a number": (lambda: torch.cat([there(1), number().view(1)]), MIXED),
    "a stack of numbers": (lambda: torch.stack([there(), number()]), MIXED),
    "a number among three": (lambda: torch.lerp(there(2), there(2), number()), MIXED),
    "a condition": (lambda: torch.where(here(2) > 0, there(2), there(2)), MIXED),
    "a mask": (lambda: there(2).masked_fill(here(2) > 0, 0.0), MIXED),
    "onto the CPU": (lambda: number().add_(there()), MIXED),
    "a list": (lambda: torch._foreach_add([there(2)], [here(2)]), MIXED),
    "a network": (lambda: nn.Linear(2, 2).to("cuda")(here(1, 2)), MIXED),
    "a gather": (lambda: there(2).gather(0, index()), MIXED),
    "a product of whole numbers": (lambda: there(2, 2).long() @ there(2, 2).long(), "not implemented for 'Long'"),
    "indices of the device": (lambda: here(2)[index().to("cuda")], "indices should be either on cpu or on the same"),
    "values put in places": (lambda: there(2).index_put_((index(),), here(2)), MIXED),
    "values set in places": (lambda: there(2).__setitem__(index(), here(2)), MIXED),
    "NumPy": (lambda: there(2).numpy(), "can't convert cuda:0 device type tensor to numpy"),
    "an array": (lambda: np.asarray(there(2)), "can't convert cuda:0 device type tensor to numpy"),
    "a generator of the CPU": (
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        "Expected a 'cuda' device type for generator but found 'cpu'",
    ),
    "a generator of the device": (
        lambda: here(2).multinomial(1, generator=torch.Generator("cuda")),
        "Expected a 'cpu' device type for generator but found 'cuda'",
    ),
    "the default place of numbers": (lambda: torch.rand(2, generator=torch.Generator("cuda")), "Expected a 'cpu'"),
    "a state of another kind": (
        lambda: torch.Generator("cuda").set_state(torch.Generator().get_state()),
        "RNG state is wrong size",
    ),
    "a state on the device": (
        lambda: torch.Generator("cuda").set_state(torch.Generator("cuda").get_state().to("cuda")),
        "expected a torch.ByteTensor",
    ),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cuda_refuses_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=words):
        call()


ALLOWED: dict[str, Callable[[], Tensor]] = {
    "a number of the CPU": lambda: there(2) * number(),
    "a choice of numbers": lambda: torch.where(there(2) > 0, number(), number()),
    "indices of the CPU": lambda: there(2)[index()],
    "a copy": lambda: there(2).copy_(here(2)),
    "values set in a slice": lambda: _set(there(2), slice(0, 1), here(1)),
    "what is like it": lambda: torch.zeros_like(there(2)),
    "new values": lambda: there(2).new_tensor([1.0]),
    "the place of another": lambda: here(2).to(there(1)),
    "a network": lambda: nn.GRU(2, 3).to("cuda")(there(1, 1, 2))[0],
    "a copied network": lambda: deepcopy(nn.Linear(2, 2).to("cuda"))(there(1, 2)),
    "a derivative": lambda: _gradient(there(2)),
    "numbers of its generator": lambda: torch.rand(2, device="cuda", generator=torch.Generator("cuda").manual_seed(1)),
}


def _set(tensor: Tensor, where: Any, values: Tensor) -> Tensor:
    tensor[where] = values
    return tensor


def _gradient(x: Tensor) -> Tensor:
    x.requires_grad_()
    (x * x).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_stays_on_the_device(call: Callable[[], Tensor]) -> None:
    assert call().device == CUDA
    assert call().cpu().device == torch.device("cpu")


def test_reads_are_counted(device: PretendedDevice) -> None:
    x = there(3)
    y = x.sum() + 1
    assert device.reads == 0
    assert (float(y), x.tolist(), bool(y > 0), len(x[x > 0]), len(x.nonzero())) == (4.0, [1.0] * 3, True, 3, 3)
    assert device.reads == 5


# Records.


def test_what_is_one_row_in_memory_moves_as_one() -> None:
    env = sw.make("long-term-satisfaction", users=5)
    assert shared(env.observation.item_ids)
    moved = env.observation.to("cuda")
    assert shared(moved.item_ids)
    assert shared(moved.to("cpu").item_ids)
    assert torch.equal(moved.item_ids.cpu(), env.observation.item_ids)


def test_a_catalogue_moves_once() -> None:
    env = sw.make("interest-evolution", users=5, device="cuda")
    first, second = (env.observation[rows].to("cpu").catalogue for rows in (slice(2), slice(2, 4)))
    assert first is second
    assert env.observation.to("cuda").catalogue is env.observation.catalogue


# Slates and choice models.


def model_of(name: str) -> Any:
    if name == "first-position":
        return NAMES[name]()
    return NAMES[name](InnerProduct(20), **({"examination": (1.0, 0.5, 0.3)} if name == "position-based" else {}))


FREE = sw.Constraints()
RULES = {
    "free": None,
    "limited": sw.Constraints(list(range(20)), at_most=1, at_least={3: 1}, fixed={1: 4}, excluded=(5,)),
    "excluding": sw.Constraints(excluded=(5, 6)),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", [name for name in NAMES if NAMES[name] is not PositionBased])
def test_slates(name: str, rules: str) -> None:
    choice, constraints = model_of(name), RULES[rules]
    coupled = name.endswith("cascade") and rules == "limited"  # has no exact method

    def run(where: str) -> dict[str, Any]:
        seen = sw.make("interest-evolution", users=9, device=where, seed=4).observation
        scores, values, nothing = choice.scores(seen), seen.user[:, :10] + 1, seen.user[:, 0]
        found: dict[str, Any] = {"scores": scores, "probabilities": choice.probabilities(scores, seen.mask)}
        limits = None if constraints is None else constraints.on(seen.item_ids, 3)
        for make in (greedy_slate, top_k_slate) if coupled else (best_slate, greedy_slate, top_k_slate):
            slate = make(choice, scores, values, nothing, seen.mask, 3, limits)
            found[make.__name__] = dict(enumerate(slate)) if isinstance(slate, tuple) else slate
        found["value"] = slate_value(choice, scores, values, nothing, found["top_k_slate"])
        if limits is not None:
            found["met"] = limits.met(found["top_k_slate"], seen.mask)
        return found

    check_same(run)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "first-position"])  # has nothing to fit
def test_choice_models_are_fitted(name: str) -> None:
    def run(where: str) -> dict[str, Any]:
        env = sw.make("interest-exploration", users=60, device=where, slate_size=3)
        rows = env.step(env.rule("random").act(env.observation))
        affinity = InnerProduct(2) if name.startswith("proportional") else None  # needs scores above 0
        found = fit(name, rows, affinity, standard_errors=name == "logit")
        scores = found.choice.scores(rows.observation)
        return {"fitted": found.parameters, "errors": found.standard_errors, "scores": scores}

    check_same(run, last_bit=False)


@pytest.mark.parametrize("policy", ["slateq", "lints", "random"])
@pytest.mark.parametrize("rules", ["limited", "excluding"])
def test_policies_under_constraints(policy: str, rules: str) -> None:
    def run(where: str) -> dict[str, Any]:
        env = sw.make("interest-evolution", users=9, device=where, slate_size=3)
        own = env.rule("random") if policy == "random" else sw.make_agent(policy, env.spec, env.choice, 1, where)
        held = sw.Constrained(own, RULES[rules], seed=2, device=where)
        decision = held.act(env.observation)
        propensity = held.propensity(env.observation, decision.slate)
        return {"decision": decision, "propensity": propensity, "first": held.probabilities(env.observation)}

    check_same(run)


def test_a_policy_under_constraints_is_where_the_policy_is() -> None:
    env = sw.make("interest-evolution", users=9, device="cuda", slate_size=3)
    held = sw.Constrained(sw.SlateQ(env.spec, env.choice, 1, "cuda"), RULES["excluding"])
    assert held.device == CUDA
    assert held.act(env.observation).slate.device == CUDA
    assert sw.Constrained(env.rule("random"), RULES["excluding"]).device == env.device


# Whole catalogues.


def test_retrieval() -> None:
    def run(where: str) -> dict[str, Any]:
        env = sw.make("many-armed-bandit", users=9, seed=2, device=where, items=60, candidates=60, features=4)
        agent = sw.SlateQ(env.spec, Logit(InnerProduct(4)), seed=0, device=where)
        held = Retrieved(agent, candidates=5)
        seen, decision = env.observation, held.act(env.observation)
        index, queries = held.searched(seen)
        index.add(torch.nn.functional.pad(seen.user, (0, index.vectors.shape[1] - seen.user.shape[1])))
        return {
            "decision": decision,
            "propensity": held.propensity(seen, decision.slate),
            "narrowed": held.narrowed(env.step(decision)),
            "found": index.search(queries[0], 3),
            "recall": recall(index, ExactIndex(index.vectors[:50]), queries[0], 3),
            "agreement": agreement(held, seen),
        }

    check_same(run)


# Loops.


def counted(tally: Tally) -> dict[str, Tensor]:
    """Return metrics as numbers of the host."""
    values = {key: value for key, value in tally.metrics().to_json().items() if isinstance(value, float)}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}


def on_host(key: str, _: Tensor) -> bool:
    return key.startswith(("metrics", "evaluated", "log")) or key.endswith((".step", "counters"))


def test_training_goes_on_and_is_evaluated(tmp_path: Path) -> None:
    def run(where: str) -> dict[str, Any]:
        def begin() -> tuple[sw.SlateQ, sw.Environment]:
            env = sw.make("interest-evolution", users=8, seed=1, device=where, candidates=4, horizon=9)
            return sw.SlateQ(env.spec, choice=env.choice, seed=2, device=where, rollout_steps=4, epochs=1), env

        agent, env = begin()
        lines: list[dict[str, Any]] = []
        sw.train(agent, env, 128, tmp_path / where, progress=False, on_metrics=lines.append)
        again, other = begin()
        sw.train(again, other, 128, tmp_path / where, resume=True, progress=False)
        tally = Tally(env.spec)
        result = sw.evaluate(again, other, 16, paired_with=env.rule("random"), on_interactions=tally.add)
        session = play(again, env)
        return {
            "learned": agent.tensors(),
            "resumed": again.tensors(),
            "metrics": torch.tensor([line["loss"] for line in lines]),
            "evaluated": torch.tensor([result.mean, result.difference.mean, session.reward[0]], dtype=torch.float64),
            "metrics counted": counted(tally),
        }

    check_same(run, on_host)


def test_a_run_goes_on_only_on_its_kind_of_device(tmp_path: Path) -> None:
    def begin(where: str) -> tuple[sw.LinUCB, sw.Environment]:
        env = sw.make("interest-evolution", users=4, device=where)
        return sw.LinUCB(env.spec, seed=2, device=where), env

    sw.train(*begin("cuda"), 8, tmp_path / "run", progress=False)
    with pytest.raises(sw.InputError, match="snapshot was taken on another kind of device than cpu"):
        sw.train(*begin("cpu"), 8, tmp_path / "run", resume=True, progress=False)


def test_logs_teach_and_judge_policies_on_a_device(tmp_path: Path) -> None:
    def run(where: str) -> dict[str, Any]:
        env = sw.make("interest-exploration", users=20, seed=1, device=where, slate_size=1, horizon=5)
        with sw.LogWriter(tmp_path / where, env.spec, {"kind": "test"}) as writer:
            simulate(env.rule("random"), env, 400, on_interactions=writer.add)
        log = sw.Log(tmp_path / where)
        agent = sw.LinUCB(env.spec, seed=0, device=where, explore_floor=0.2)
        sw.learn(agent, log, progress=False)
        policies = {"agent": agent, "random": sw.Random(1, 3, where), "held": sw.Constrained(agent, FREE, 0, where)}
        result = sw.off_policy.evaluate(log, policies, explore=True)
        estimates = [e.value for p in result.policies.values() for e in p.estimates.values()]
        return {"learned": agent.tensors(), "log": {"rows": log.read(), "estimates": torch.tensor(estimates)}}

    check_same(run, on_host)


def test_gymnasium() -> None:
    found: list[Any] = []
    for where in ("cpu", "cuda"):
        env = SlateVectorEnv("interest-evolution", 5, device=where, history=2)
        env.reset(seed=3)
        found.append(env.step(np.array([[0, 0], [1, 2], [3, 3], [4, 5], [6, 7]])))
    assert type(found[1][0]["user"]) is np.ndarray
    for one, other in zip(found[0][:4], found[1][:4], strict=True):
        np.testing.assert_equal(one, other)
