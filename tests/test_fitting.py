"""Fitted choice models: data simulated from known parameters give them back, within their standard errors."""

import math
from dataclasses import replace

import pytest
import torch

import slatewise as sw
from slatewise.choice import (
    Bilinear,
    Choice,
    ExponentialCascade,
    FirstPosition,
    InnerProduct,
    Logit,
    PositionBased,
    Proportional,
    ProportionalCascade,
    choose,
    from_json,
    to_json,
)
from slatewise.drawing import uniform_propensity, uniform_slate
from slatewise.environments.base import response_of
from slatewise.errors import InputError
from slatewise.fitting import Fit, fit, log_likelihood
from slatewise.interactions import Catalogue, Decision, Interactions, Observation

WEIGHTS = torch.tensor([[0.4, -0.3, 0.2], [0.0, 0.3, -0.5]])
ITEMS = torch.tensor([0.3, -0.4, 0.2])
AFFINITY = Bilinear(tuple(tuple(row) for row in WEIGHTS.tolist()), tuple(ITEMS.tolist()))
# Where scaling · exp(score) is cut at 1, the likelihood of a cascade has kinks: in these data it is never.
TRUTHS: dict[str, Choice] = {
    "logit": Logit(AFFINITY, no_click=0.4),
    "exponential-cascade": ExponentialCascade(AFFINITY, scaling=0.06),
    "position-based": PositionBased(replace(AFFINITY, bias=-0.5), (1.0, 0.6, 0.3)),
}
each_truth = pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS.keys())


def clicks_of(choice: Choice, scores: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if isinstance(choice, PositionBased):
        return torch.rand(scores.shape, generator=generator) < choice.click_probabilities(scores, mask)
    slot = choose(choice.probabilities(scores, mask), torch.rand(len(scores), generator=generator))
    return slot.unsqueeze(1) == torch.arange(scores.shape[1])


def uniform(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Return numbers of variance 1 that are nowhere beyond √3."""
    return math.sqrt(3) * (2 * torch.rand(shape, generator=generator) - 1)


def simulated(choice: Choice, rows: int, seed: int = 0, k: int = 3) -> Interactions:
    """Return users who see uniform slates of five items and choose so; one row in ten has a hole."""
    generator = torch.Generator().manual_seed(seed)
    catalogue = Catalogue.of(uniform(generator, 12, 2))
    ids = torch.randint(12, (rows, 5), generator=generator)
    user, items = uniform(generator, rows, 2), uniform(generator, rows, 5, 1)
    observation = Observation(user, ids, items, catalogue)
    mask = observation.mask
    mask[: rows // 10, 2:] = False
    slate = uniform_slate(mask, k, generator)
    scores = choice.scores(observation).gather(1, slate.clamp(min=0))
    clicked = clicks_of(choice, scores, slate >= 0, generator)
    zeros = torch.zeros(rows, dtype=torch.bool)
    response = response_of(clicked, torch.zeros(rows, k, 0), clicked.double())
    numbers = torch.arange(rows)
    decision = Decision(slate, uniform_propensity(mask, slate))
    return Interactions(observation, decision, response, None, ~zeros, zeros, numbers, numbers)


def likelihood_of(choice: Choice, data: Interactions) -> float:
    slate = data.decision.slate
    scores = choice.scores(data.observation).gather(1, slate.clamp(min=0))
    return float(log_likelihood(choice, scores, data.response.clicked, slate >= 0).mean())


def truth_of(choice: Choice) -> dict[str, torch.Tensor]:
    constants = {key: torch.tensor(v) for key, v in vars(choice).items() if key in ("no_click", "scaling")}
    if isinstance(choice, PositionBased):
        constants = {"examination": torch.tensor(choice.examination[1:]), "bias": torch.tensor(-0.5)}
    return {"weights": WEIGHTS, "items": ITEMS, **constants}


def test_log_likelihood_in_closed_form() -> None:
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    clicked = torch.tensor([[True, False], [False, False], [False, True]])
    mask = torch.tensor([[True, True], [True, True], [False, True]])
    total = 1 + math.e + math.exp(0.5)
    found = log_likelihood(Logit(AFFINITY, no_click=0.5), scores, clicked, mask)
    alone = math.e / (math.e + math.exp(0.5))
    expected = [math.log(1 / total), math.log(math.exp(0.5) / total), math.log(alone)]
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    model = PositionBased(AFFINITY, (1.0, 0.5))
    half = 0.5 / (1 + math.exp(-1))
    expected = [math.log(0.5 * (1 - half)), math.log(0.5 * (1 - half)), math.log(half)]
    assert log_likelihood(model, scores, clicked, mask).tolist() == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_has_no_likelihood() -> None:
    clicked = torch.tensor([[False, True], [True, False]])
    found = log_likelihood(FirstPosition(), torch.zeros(2, 2), clicked, torch.ones(2, 2, dtype=torch.bool))
    assert found.tolist() == [-math.inf, 0.0]


@each_truth
def test_known_parameters_are_recovered(truth: Choice) -> None:
    """Each within 4.5 standard errors, 20,000 rows; together they are as far off as their errors say.

    Their mean squared z is χ² / n: below 1 + 4.5 √(2 / n).
    """
    data = simulated(truth, 20_000)
    found = fit(truth.name, data, penalty=0.0, standard_errors=True)
    expected = truth_of(truth)
    assert found.parameters.keys() == found.standard_errors.keys() == expected.keys()
    z = [(found.parameters[k] - expected[k]).flatten() / found.standard_errors[k].flatten() for k in expected]
    together = torch.cat(z)
    assert float(together.abs().max()) < 4.5
    assert float(together.square().mean()) < 1 + 4.5 * math.sqrt(2 / len(together))
    assert max(float(e.max()) for e in found.standard_errors.values()) < 0.1
    assert found.slope < 1e-6
    assert found.rows == 20_000
    # The best fit is at least as likely as the truth: by half a χ² of as many parameters, so little more.
    gain = 20_000 * (found.log_likelihood - likelihood_of(truth, data))
    assert 0 <= gain < len(together) / 2 + 4.5 * math.sqrt(len(together) / 2)
    assert likelihood_of(found.choice, data) == pytest.approx(found.log_likelihood, abs=1e-6)


@each_truth
def test_a_fit_is_data(truth: Choice) -> None:
    data = simulated(truth, 2000)
    found, again = (fit(truth.name, data) for _ in range(2))
    assert type(found.choice) is type(truth)
    assert found.choice == again.choice
    assert from_json(to_json(found.choice)) == found.choice
    assert isinstance(hash(found.choice), int)


@each_truth
def test_no_step_from_the_optimum_makes_it_better(truth: Choice) -> None:
    """The objective falls along every coordinate of the affinity, both ways."""
    data, penalty = simulated(truth, 1500), 5.0

    def objective(model: Choice) -> float:
        affinity = model.affinity
        squares = sum(w * w for row in affinity.weights for w in row) + sum(w * w for w in affinity.items)
        return 1500 * likelihood_of(model, data) - penalty / 2 * squares

    found = fit(truth.name, data, penalty=penalty).choice
    best = objective(found)
    for column in range(3):
        for change in (-0.05, 0.05):
            moved = list(found.affinity.items)
            moved[column] += change
            assert objective(replace(found, affinity=replace(found.affinity, items=tuple(moved)))) < best
            rows = [list(row) for row in found.affinity.weights]
            rows[1][column] += change
            weights = tuple(tuple(row) for row in rows)
            assert objective(replace(found, affinity=replace(found.affinity, weights=weights))) < best


def test_a_penalty_draws_weights_to_nothing() -> None:
    data = simulated(TRUTHS["logit"], 500)
    sizes = [float(fit("logit", data, penalty=p).parameters["weights"].square().sum()) for p in (0.0, 10.0, 1e6)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 1e-6


HELD = [
    (Logit(AFFINITY, no_click=-0.7), "no_click"),
    (Proportional(InnerProduct(2), shift=1.0, no_click=1.3), "no_click"),
    (ExponentialCascade(AFFINITY, scaling=0.07), "scaling"),
    (ProportionalCascade(InnerProduct(2), scaling=0.2), "scaling"),
    (PositionBased(AFFINITY, (0.9, 0.5, 0.2)), "examination"),
]


@pytest.mark.parametrize(("truth", "constant"), HELD, ids=lambda x: getattr(x, "name", ""))
def test_constants_are_fitted_alone_where_the_affinity_is_known(truth: Choice, constant: str) -> None:
    """Within 4.5 standard errors, 20,000 rows."""
    data = simulated(truth, 20_000, seed=1)
    found = fit(truth.name, data, affinity=truth.affinity, standard_errors=True)
    assert found.choice.affinity is truth.affinity
    assert list(found.parameters) == [constant]
    difference = found.parameters[constant] - torch.tensor(getattr(truth, constant))
    assert bool((difference.abs() < 4.5 * found.standard_errors[constant]).all())
    assert float(found.standard_errors[constant].max()) < 0.1
    assert found.slope < 1e-6
    assert found.log_likelihood >= likelihood_of(truth, data)


def test_attention_times_scaling_is_what_a_cascade_shows() -> None:
    truth = ExponentialCascade(AFFINITY, attention=0.3, scaling=0.05)
    found = fit("exponential-cascade", simulated(truth, 20_000), affinity=AFFINITY, standard_errors=True)
    assert isinstance(found.choice, ExponentialCascade)
    error = 0.65 * float(found.standard_errors["scaling"])
    assert abs(found.choice.attention * found.choice.scaling - 0.015) < 4.5 * error


def random_log(env: sw.Environment, steps: int) -> Interactions:
    policy = env.rule("random", seed=1)
    return Interactions.cat([env.step(policy.act(env.observation)) for _ in range(steps)])


def fitted_to_evolution(penalty: float) -> tuple[sw.Environment, Fit]:
    env = sw.make("interest-evolution", users=1000, choice="logit", slate_size=3, summary=False)
    return env, fit("logit", random_log(env, 20), penalty=penalty)


def test_a_fitted_model_takes_the_place_of_the_users_own() -> None:
    """Fitted to 20,000 random slates, its choice probabilities are within 0.03 of the true ones, on average."""
    env, found = fitted_to_evolution(penalty=10.0)
    observation = env.observation
    slate = env.rule("random").act(observation).slate
    model = found.choice
    assert isinstance(model, Logit)
    scores = model.scores(observation).gather(1, slate)
    guessed = model.probabilities(scores, torch.ones_like(slate, dtype=torch.bool))
    assert float((guessed - env.choice_probabilities(slate)).abs().mean()) < 0.03
    agent = sw.SlateQ(env.spec, model)
    assert agent.act(observation, explore=False).slate.shape == (1000, 3)


BAD = [
    ("logits", {}, "unknown choice model 'logits': did you mean 'logit'"),
    ("first-position", {}, "first-position has nothing to fit: fit logit"),
    ("proportional", {}, "needs scores above −shift, which a fitted affinity does not keep: fit logit"),
    ("proportional-cascade", {}, "fit exponential-cascade"),
    ("logit", {"penalty": -1.0}, r"penalty=-1\.0: it must not be negative"),
]


@pytest.mark.parametrize(("name", "options", "words"), BAD)
def test_what_cannot_be_fitted_is_refused(name: str, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(name, simulated(TRUTHS["logit"], 50), **options)


def test_parameters_that_clicks_do_not_determine_have_no_standard_errors() -> None:
    """A feature that repeats another, and one that is 0, are told apart by a penalty only."""
    data = simulated(TRUTHS["logit"], 500)
    observation = data.observation
    for extra in (observation.items, torch.zeros_like(observation.items)):
        items = torch.cat([observation.items, extra], 2)
        wider = replace(data, observation=replace(observation, items=items))
        with pytest.raises(InputError, match=r"do not determine every parameter of logit .* raise the penalty above 0"):
            fit("logit", wider, penalty=0.0, standard_errors=True)
        errors = fit("logit", wider, penalty=1.0, standard_errors=True).standard_errors
        assert all(bool((e > 0).all()) for e in errors.values())


def test_clicks_that_a_model_does_not_allow_are_refused() -> None:
    data = simulated(TRUTHS["position-based"], 200)
    with pytest.raises(InputError, match=r"has [23] clicks, and under logit .* at most one item \(\d+ rows .*\): use"):
        fit("logit", data)
    data.response.clicked[3, 2] = True
    with pytest.raises(InputError, match="row 3 has a click on a hole"):
        fit("position-based", data)
    with pytest.raises(InputError, match="no interactions"):
        fit("logit", data[:0])


def test_a_log_is_told_to_be_read() -> None:
    class Log:
        pass

    with pytest.raises(InputError, match=r"interactions is a Log: .*log\.read\(\)"):
        fit("logit", Log())  # pyright: ignore[reportArgumentType]
