"""Other people's numbers, by their own code: lm-eval itself, and the transformers guide's recipe."""

import math
import re

import numpy as np
import pytest
import torch

from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import save_model

T = 16
STORY = (
    "  The old clock-maker wound each of his clocks at dusk; one night none would stop.\n\nWho knew why?\t"
    "Größe, 猫と犬, «naïve» 🙂: the clocks went on, and on, until the morning came and went.  "
)
TEXTS = {
    "several windows": STORY * 2,
    "whole windows": (STORY * 2)[: 6 * T],
    "one window": "x" * T,
    "one token more": "x" * (T + 1),
    "less than a window": "Short.",
}
TOKENIZERS = {"bytes": Tokenizer.bytes(), "bpe": Tokenizer.train([STORY * 3], 300)}
SHAPES = {
    "gpt2": {"qkv_bias": True, "tied_head": True},
    "modern": {"family": "modern", "n_kv_heads": 1},
}

pytestmark = [
    pytest.mark.slow,
    # What the libraries of others warn of is theirs.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", params=[("gpt2", "bytes"), ("modern", "bpe")], ids=["gpt2", "modern"])
def exported(request, tmp_path_factory):
    """Model, tokenizer and the folder in which others find them."""
    family, name = request.param
    tokenizer = TOKENIZERS[name]
    torch.manual_seed(0)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "context_length": T,
        "emb_dim": 32,
        "n_layers": 2,
        "n_heads": 2,
    }
    model = GPT(GPTConfig(**shape, **SHAPES[family])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.document_prefix_id = tokenizer.end_of_text
    folder = tmp_path_factory.mktemp(family)
    save_model(model, tokenizer, folder, document_prefix_id=tokenizer.end_of_text)
    return model, tokenizer, folder


@pytest.fixture(scope="module")
def harness(exported):
    """The evaluation harness with our exported model, offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        from lm_eval.models.huggingface import HFLM

        yield HFLM(pretrained=str(exported[2]), device="cpu", dtype="float32", batch_size=3)


def harness_results(harness, texts: list[str]) -> dict[str, float]:
    """word_perplexity, byte_perplexity and bits_per_byte of an in-memory task, by the harness's own code."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate as run

    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    task = ConfigurableTask(
        config={
            "task": "texts",
            "custom_dataset": lambda **_: {
                "test": datasets.Dataset.from_list([{"page": text} for text in texts])
            },
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": lambda doc: doc["page"],
            "metric_list": [{"metric": name} for name in names],
        }
    )
    results = run(lm=harness, task_dict={"texts": task}, bootstrap_iters=0, log_samples=False)
    found = results["results"]["texts"]
    return {name: found[f"{name},none"] for name in names}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_lm_evals_log_likelihood_is_ours(exported, harness, text):
    from lm_eval.api.instance import Instance

    model, tokenizer, _ = exported
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    (theirs,) = harness.loglikelihood_rolling([request], disable_tqdm=True)
    ours = evaluate(model, tokenizer, text, protocol="lm-eval")
    assert ours.nats == pytest.approx(-theirs, rel=1e-5)
    assert ours.tokens_scored == ours.tokens_total == len(tokenizer.encode(text))
    assert ours.protocol.stride == ours.protocol.context_length == harness.max_length == T


def test_lm_evals_aggregate_over_documents_is_ours(exported, harness):
    model, tokenizer, _ = exported
    texts = [text for text in TEXTS.values() if text.strip()]
    theirs = harness_results(harness, texts)
    documents = [np.array(tokenizer.encode(text)) for text in texts]
    ours = evaluate_documents(model, tokenizer, documents, protocol="lm-eval")
    assert ours.words == sum(len(re.split(r"\s+", text)) for text in texts)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        # The exponent of a word's perplexity is large: float32's last digits show in it.
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-3), name
    assert ours.bits_per_byte == pytest.approx(theirs["bits_per_byte"], rel=1e-5)


def guides_perplexity(model, ids: list[int], *, stride: int) -> tuple[float, int]:
    """The guide's loop, from its description: each window's mean loss, weighted by its count less 1."""
    whole = torch.tensor([ids])
    total, counted, before, begin = 0.0, 0, 0, 0
    while True:
        end = min(begin + T, whole.size(1))
        labels = whole[:, begin:end].clone()
        new = end - before
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = model(whole[:, begin:end], labels=labels).loss.item()
        weight = int((labels != -100).sum()) - 1
        if weight:
            total, counted = total + loss * weight, counted + weight
        before = end
        if end == whole.size(1):
            return total / counted, counted
        begin += stride


@pytest.mark.parametrize("stride", [1, 3, T // 2, T - 1, T])
@pytest.mark.parametrize("length", [2, T - 1, T, T + 1, 3 * T, 5 * T + 3])
def test_the_guides_number_is_ours(exported, stride, length):
    from transformers import AutoModelForCausalLM

    model, tokenizer, folder = exported
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer.encode(STORY * 3)[:length]
    loss, counted = guides_perplexity(theirs, ids, stride=stride)
    ours = evaluate_documents(model, tokenizer, [np.array(ids)], protocol="hf-guide", stride=stride)
    assert ours.loss_nats == pytest.approx(loss, rel=1e-5)
    assert ours.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert ours.tokens_scored == counted


def test_at_stride_1_the_guide_reports_the_first_window_alone(exported):
    model, tokenizer, _ = exported
    ids = np.array(tokenizer.encode(STORY * 3)[: 4 * T])
    guide = evaluate_documents(model, tokenizer, [ids], protocol="hf-guide", stride=1)
    first = evaluate_documents(model, tokenizer, [ids[:T]], prefix="none", stride=T)
    assert guide.nats == pytest.approx(first.nats, rel=1e-6)
    assert guide.tokens_scored == T - 1
    assert math.isnan(guide.bits_per_byte) or guide.bytes_scored > 0


def test_where_they_differ_the_result_says_how(exported):
    model, tokenizer, _ = exported
    results = {
        name: evaluate(model, tokenizer, STORY * 3, protocol=name)
        for name in ("lucid", "lm-eval", "hf-guide", "batch-mean")
    }
    assert len({round(result.loss_nats, 6) for result in results.values()}) == 4
    assert results["lucid"].protocol.difference == ""
    for name in ("lm-eval", "hf-guide", "batch-mean"):
        assert results[name].protocol.difference
        assert results[name].protocol.difference in str(results[name])


def test_the_harness_always_puts_a_token_first(exported, monkeypatch):
    model, tokenizer, _ = exported
    given = evaluate(model, tokenizer, STORY, protocol="lm-eval")
    monkeypatch.setattr(model, "document_prefix_id", None)
    assert evaluate(model, tokenizer, STORY, protocol="lm-eval") == given
    assert evaluate(model, tokenizer, STORY).protocol.prefix == "none"
