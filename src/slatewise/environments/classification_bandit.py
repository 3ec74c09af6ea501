"""Data sets for classification as bandits: the context is a row, the items are the classes, the right one earns 1.

The manner of Bietti et al. 2018, arXiv 1802.04064, with data that come with scikit-learn.
"""

import random
from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from slatewise.environments.bandit import BanditSettings, BanditWorld
from slatewise.environments.base import Reference, References, SlateRule, State
from slatewise.errors import InputError
from slatewise.interactions import Spec
from slatewise.noise import Noise

CLASSES = {"digits": 10, "wine": 3, "breast-cancer": 2, "iris": 3}


class Settings(BanditSettings):
    """Settings of classification bandits; candidates are the classes."""

    data: Literal["digits", "wine", "breast-cancer", "iris"] = Field("digits", description="which data set")
    candidates: int = Field(10, ge=2, le=10, description="classes of the data set")

    @model_validator(mode="before")
    @classmethod
    def _of_data(cls, values: dict[str, Any]) -> dict[str, Any]:
        classes = CLASSES.get(str(values.get("data", "digits")))
        if classes is not None and int(values.get("candidates", classes)) != classes:
            raise ValueError(f"{values.get('data', 'digits')} has {classes} classes: leave candidates out")
        return values if classes is None else {"candidates": classes} | values


@cache
def load_data(name: str) -> tuple[Tensor, Tensor]:
    """Return standardised features, float32 [n, U], and classes, int64 [n], of a data set.

    Raises InputError where scikit-learn is not installed.
    """
    state = random.getstate()
    try:
        from sklearn import datasets
    except ImportError:
        raise InputError("classification-bandit needs scikit-learn: pip install 'slatewise[datasets]'") from None
    finally:
        random.setstate(state)  # what scikit-learn imports draws from it
    found: Any = getattr(datasets, f"load_{name.replace('-', '_')}")()
    features, classes = torch.tensor(found.data, dtype=torch.float64), torch.tensor(found.target, dtype=torch.int64)
    deviation = features.std(0, correction=0)
    return ((features - features.mean(0)) / torch.where(deviation > 0, deviation, 1.0)).float(), classes


class ClassificationBandit(BanditWorld):
    """A row of the data, drawn anew for everybody, and its classes to guess from."""

    name = "classification-bandit"
    version = 1
    summary_text = "a data set for classification as a bandit: the right class earns 1"
    Settings = Settings

    def build_problem(self) -> Spec:
        """Load the data."""
        s = self.settings
        features, classes = load_data(s.data)
        self.features, self.classes = features.to(self.device), classes.to(self.device)
        names = tuple(f"x{i}" for i in range(features.shape[1]))
        return Spec(names, (), (), ("reward",), s.candidates, s.slate_size, s.history)

    def begin(self, noise: Noise) -> State:
        """Draw rows."""
        row = noise.integers(len(self.classes), 1).squeeze(1)
        return {"context": self.features[row], "label": self.classes[row]}

    def means(self, context: Tensor, items: Tensor) -> Tensor:  # noqa: ARG002 - who is present is in the state
        """Return 1 for the right class of the users who are here, 0 for the others."""
        return (items == self.state["label"].unsqueeze(1)).double()

    @property
    def rules(self) -> dict[str, SlateRule]:
        """None: the right class cannot be seen."""
        return {}

    @property
    def references(self) -> References:
        """Random and the optimum, exactly."""
        chance = self.settings.slate_size / self.settings.candidates
        return References({"random": Reference(chance, 0.0)}, Reference(1.0, 0.0, "exact"))
