"""What several rooms' tests share: the Tiny model of each family, random ids, one thread."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import TINY
from torch import Tensor

from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT

pytest_plugins = ["trainings"]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, each worker gets a stretch of the files and helps another at the end.

    By default the tests of a module go to all workers, and each of them makes what the module shares.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums of one thread have one order, and the tests leave the other cores alone."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def hears_hangups() -> None:
    """SIGHUP ends a process as it does from a terminal, also where the tests run under nohup."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(params=TINY)
def tiny_config(request: pytest.FixtureRequest) -> GPTConfig:
    """Tiny of each family: GPT-2 with biases and a tied head, modern with grouped heads and an untied one."""
    return TINY[request.param]


@pytest.fixture
def tiny_gpt(tiny_config: GPTConfig) -> GPT:
    """The Tiny model of each family, as initialised from seed 0, in eval mode."""
    torch.manual_seed(0)
    return GPT(tiny_config).eval()


@pytest.fixture
def lively_gpt(tiny_gpt: GPT) -> GPT:
    """The Tiny model with weights so large that each one shows in the logits, gains and biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tiny_gpt.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if gain else 0.2 * noise)
    return tiny_gpt


@pytest.fixture
def random_ids() -> Callable[..., Tensor]:
    """random_ids(model, length=16, batch_size=1, seed=0): ids (B, T) of the model's vocabulary."""

    def draw(model: GPT, *, length: int = 16, batch_size: int = 1, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(model.config.vocab_size, (batch_size, length), generator=generator)

    return draw
