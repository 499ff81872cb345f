import json
import subprocess
import sys

import torch

from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import log_softmax
from lucidlm.runtime.device import settle_vector_math

CALLS = """
import json, torch
calls = []
for name in ("exp", "log", "sqrt"):
    def watched(x, *, name=name, original=getattr(torch, name), **rest):
        calls.append([name, str(x.dtype), x.numel(), str(x.device)])
        return original(x, **rest)
    setattr(torch, name, watched)
{work}
print(json.dumps(calls))
"""


def first_calls(work: str) -> list:
    done = subprocess.run(
        [sys.executable, "-c", CALLS.format(work=work)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_loss_and_a_model_call_each_function_on_few_numbers_first():
    # The race itself shows in about one process of ten, on a loaded machine with two threads: what is tested
    # here is that the remedy comes before any large tensor could.
    for work in (
        "from lucidlm.model.loss import softmax; softmax(torch.zeros(2, 3))",
        "from lucidlm.model.gpt import GPT; from lucidlm.model.config import GPTConfig; "
        "GPT(GPTConfig(vocab_size=9, context_length=4, emb_dim=4, n_layers=1, n_heads=1))",
        "from lucidlm.model.gpt import GPT; from lucidlm.model.config import GPTConfig; "
        "GPT.empty(GPTConfig(vocab_size=9, context_length=4, emb_dim=4, n_layers=1, n_heads=1))",
    ):
        calls = first_calls(work)
        assert {(name, kind) for name, kind, _, device in calls if device == "cpu"} >= {
            (name, kind) for name in ("exp", "log", "sqrt") for kind in ("torch.float32", "torch.float64")
        }
        assert max(size for _, _, size, _ in calls) <= 64


def test_it_is_done_once_and_changes_no_number():
    settle_vector_math()
    before = torch.random.get_rng_state()
    settle_vector_math()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert settle_vector_math.cache_info().misses == 1
    logits = torch.linspace(-6, 6, 99)
    assert torch.equal(log_softmax(logits), log_softmax(logits))
    GPT(GPTConfig(vocab_size=9, context_length=4, emb_dim=4, n_layers=1, n_heads=1))
    assert settle_vector_math.cache_info().misses == 1
