"""lm-eval's own local-completions asks the server: its loss is that of `evaluate --protocol lm-eval`."""

import math

import pytest
from models import BYTES, FOREIGN, STORY
from serving import running, served

from lucidlm.measure.evaluation import evaluate
from lucidlm.measure.protocol import Protocol
from lucidlm.weights.huggingface import save_model

T = 64


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_local_completions_gives_the_loss_of_evaluate(family, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    each = served("folder", family)
    save_model(each.model, BYTES, tmp_path / "folder")
    texts = [STORY, STORY * 3 + FOREIGN, "a"]
    with running(each) as server:
        backend = LocalCompletionsAPI(
            model="folder",
            base_url=f"{server.address}/v1/completions",
            tokenizer=str(tmp_path / "folder"),
            tokenizer_backend="huggingface",
            max_length=T,
            batch_size=4,
            max_retries=1,
        )
        asked = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
        found = backend.loglikelihood_rolling(asked, disable_tqdm=True)
    protocol = Protocol("lm-eval", context_length=T - 2)
    for text, log_likelihood in zip(texts, found, strict=True):
        expected = evaluate(each.model, BYTES, text, protocol=protocol)
        assert -log_likelihood / expected.tokens_scored == pytest.approx(expected.loss_nats, abs=1e-4)
        assert math.isfinite(log_likelihood)
