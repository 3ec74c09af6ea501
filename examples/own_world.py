"""Your own world in 40 lines: news readers who get bored of a topic.

Reading about a topic bores of it, and of all the news as far as the topic is tiring; boredom fades. Three slates
skipped in a row make a reader leave. What attracts most tires most, so what is best now is not what keeps readers.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from slatewise.choice import InnerProduct, Logit, choose
from slatewise.environments.base import Environment, State, WorldSettings, response_of
from slatewise.interactions import Catalogue, Observation, Response, Spec
from slatewise.noise import Noise
from slatewise.slates import top_k

TOPICS = ("outrage", "celebrities", "sport", "culture", "science")
TASTE, TIRING = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.5]), torch.tensor([1.0, 0.7, 0.4, 0.1, 0.1])


class MyWorld(Environment):
    """Readers whose appetite for a topic is their taste minus their boredom."""

    name, version, summary_text = "bored-readers", 1, "news readers who get bored of a topic"
    Settings, horizon = WorldSettings, 30

    def build(self, settings: WorldSettings) -> None:
        """Say what is shown (spec) and how users choose (choice); sessions are cut after `horizon` steps."""
        self._settings, self.choice = settings, Logit(InnerProduct(len(TOPICS)), no_click=1.0)
        self.catalogue = Catalogue.of(torch.eye(len(TOPICS)), TOPICS).to(self.device)
        sizes = settings.candidates, settings.slate_size, settings.history
        self.spec = Spec(tuple(f"appetite_{topic}" for topic in TOPICS), TOPICS, (), ("read",), *sizes)

    settings = property(lambda self: self._settings)
    rules = property(lambda self: {"favourite": lambda o, k: top_k(self.choice.scores(o), o.mask, k)})

    def begin(self, noise: Noise) -> State:
        """New readers: a taste of their own, not bored, nothing skipped."""
        taste = TASTE.to(self.device) + noise.normal(len(TOPICS))
        return {"taste": taste, "boredom": torch.zeros_like(taste), "skips": torch.zeros_like(taste[:, 0])}

    def sample_candidates(self, noise: Noise) -> State:
        """The topics of the articles on offer."""
        return {"topic": noise.integers(len(TOPICS), self.settings.candidates)}

    def observe(self) -> Observation:
        """Show the appetite for every topic; articles have no features of their own besides the topic."""
        topic = self.candidates["topic"]
        appetite = self.state["taste"] - self.state["boredom"]
        return Observation(appetite, topic, appetite.new_zeros(*topic.shape, 0), self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        """Read one article or none. Boredom fades, and grows with what is read; three skips in a row are enough."""
        topic = self.candidates["topic"].gather(1, slate)
        appetite = (self.state["taste"] - self.state["boredom"]).gather(1, topic)
        slot = choose(self.choice.probabilities(appetite, slate >= 0), noise.uniform(1).squeeze(1))
        clicked = one_hot(slot, slate.shape[1] + 1)[:, :-1].bool()
        tired = (TIRING.to(self.device)[topic] * clicked).sum(1, keepdim=True)
        self.state["boredom"] = (0.9 * self.state["boredom"] + tired).scatter_add(1, topic, 0.2 * clicked)
        self.state["skips"] = torch.where(clicked.any(1), 0, self.state["skips"] + 1)
        return response_of(clicked, clicked.float().unsqueeze(2), clicked.double()), self.state["skips"] >= 3


if __name__ == "__main__":
    from slatewise.testing import check_environment

    for promise, answer in check_environment(MyWorld).items():
        print(f"{answer}: {promise}")
