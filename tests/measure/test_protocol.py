"""Other people's numbers, by their own code: lm-eval itself, and the transformers guide's recipe."""

import json
import math
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import judge_little, measure_once

from lucidlm.errors import ConfigError, DataError, LucidError
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import PROTOCOLS, Protocol
from lucidlm.measure.windows import harness_windows
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
    "é of two characters": unicodedata.normalize("NFD", STORY),
    "several windows": STORY * 2,
    "whole windows": (STORY * 2)[: 6 * T],
    "one window": "x" * T,
    "one token more": "x" * (T + 1),
    "less than a window": "Short.",
}


def a_tokenizer_that_changes_texts() -> Tokenizer:
    """One that makes é one character and puts a space in front, as those of Qwen3 and of old GPTs do."""
    document = Tokenizer.train([STORY * 3], 300).document()
    document |= {"normalizer": {"type": "NFC"}}
    document["pre_tokenizer"] = {**document["pre_tokenizer"], "add_prefix_space": True}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return Tokenizer.load(path)


TOKENIZERS = {
    "changing": a_tokenizer_that_changes_texts,
    "bytes": Tokenizer.bytes,
    "bpe": lambda: Tokenizer.train([STORY * 3], 300),
    "gpt2": Tokenizer.gpt2,
}
SHAPES = {
    "gpt2": {"qkv_bias": True, "tied_head": True},
    "modern": {"family": "modern", "n_kv_heads": 1},
}

pytestmark = [
    pytest.mark.slow,
    # What the libraries of others will one day drop is theirs; all other warnings are errors here too.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(
    scope="module",
    params=[("gpt2", "bytes"), ("modern", "bpe"), ("gpt2", "gpt2"), ("modern", "changing")],
    ids=["gpt2", "modern", "gpt2-gpt2", "modern-changing"],
)
def exported(request, tmp_path_factory):
    """Model, tokenizer and the folder in which others find them."""
    family, name = request.param
    tokenizer = TOKENIZERS[name]()
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
    model.config = model.config.changed(document_prefix_id=tokenizer.end_of_text)
    folder = tmp_path_factory.mktemp(family)
    save_model(model, tokenizer, folder)
    return model, tokenizer, folder


@pytest.fixture(scope="module")
def harness(exported):
    """The evaluation harness with our exported model, offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        from lm_eval.models.huggingface import HFLM

        yield HFLM(pretrained=str(exported[2]), device="cpu", dtype="float32", batch_size=3)


METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def in_memory_task(texts: list[str]):
    """A task of the harness that needs no file and no network."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": "texts",
            "custom_dataset": lambda **_: {
                "test": datasets.Dataset.from_list([{"page": text} for text in texts])
            },
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": lambda doc: doc["page"],
            "metric_list": [{"metric": name} for name in METRICS],
        }
    )


def harness_results(harness, texts: list[str]) -> dict[str, float]:
    """word_perplexity, byte_perplexity and bits_per_byte of an in-memory task, by the harness's own code."""
    from lm_eval.evaluator import evaluate as run

    task = in_memory_task(texts)
    results = run(lm=harness, task_dict={"texts": task}, bootstrap_iters=0, log_samples=False)
    return {name: results["results"]["texts"][f"{name},none"] for name in METRICS}


def test_a_run_opens_by_its_folder_in_the_harness_and_gives_its_numbers(tmp_path, monkeypatch, capsys):
    """The two commands of docs/weights.md, with the task that stands there."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from lucidlm.cli import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    judge_little(monkeypatch)
    measure_once(monkeypatch)
    Path("book.txt").write_text(STORY * 40, encoding="utf-8")
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    (task,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    Path("book.yaml").write_text(task, encoding="utf-8")
    command = (
        f"train book.txt --out run --preset modern-1m --tokenizer bpe:300 --steps 2 --context-length {T}"
    )
    assert main([*command.split(), "--batch-tokens", "64", "--threads", "1"]) == 0
    theirs = simple_evaluate(
        model="hf",
        model_args="pretrained=run,dtype=float32",
        tasks=["book"],
        task_manager=TaskManager(include_path=".", include_defaults=False),
        device="cpu",
        batch_size=2,
        bootstrap_iters=0,
        log_samples=False,
    )["results"]["book"]
    capsys.readouterr()
    assert main(["evaluate", "run", "book.txt", "--protocol", "lm-eval", "--json", "--threads", "1"]) == 0
    ours = json.loads(capsys.readouterr().out)
    for name in METRICS:
        assert ours[name] == pytest.approx(theirs[f"{name},none"], rel=1e-4)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_lm_evals_log_likelihood_is_ours(exported, harness, text):
    from lm_eval.api.instance import Instance

    model, tokenizer, _ = exported
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    (theirs,) = harness.loglikelihood_rolling([request], disable_tqdm=True)
    ours = evaluate(model, tokenizer, text, protocol=Protocol("lm-eval"))
    assert ours.nats == pytest.approx(-theirs, rel=1e-5)
    assert ours.tokens_scored == ours.tokens_total == len(tokenizer.encode(text))
    assert ours.protocol.stride == ours.protocol.context_length == harness.max_length == T


def text_of(tokenizer: Tokenizer, count: int) -> str:
    """The shortest beginning of the story that is so many tokens."""
    story = STORY * 8
    return next(story[:end] for end in range(len(story)) if len(tokenizer.encode(story[:end])) == count)


@pytest.mark.parametrize("count", [1, T - 1, T, T + 1, 2 * T, 3 * T - 1, 3 * T, 3 * T + 1])
def test_lm_evals_log_likelihood_is_ours_for_every_fill_of_the_last_window(exported, harness, count):
    from lm_eval.api.instance import Instance

    model, tokenizer, _ = exported
    text = text_of(tokenizer, count)
    (theirs,) = harness.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True
    )
    ours = evaluate(model, tokenizer, text, protocol=Protocol("lm-eval"))
    assert ours.nats == pytest.approx(-theirs, rel=1e-5)
    assert ours.tokens_scored == count


@pytest.mark.parametrize("context_length", [1, 2, 5, T])
def test_the_windows_are_those_of_lm_evals_own_function(context_length):
    from lm_eval.utils import get_rolling_token_windows

    for count in range(3 * context_length + 4):
        ids = list(range(count))
        theirs = [
            (inputs, targets)
            for inputs, targets in get_rolling_token_windows(
                token_list=ids, prefix_token=99, max_seq_len=context_length, context_len=1
            )
        ]
        ours = [
            (window.ids[:-1].tolist(), window.ids[1:][window.first :].tolist())
            for window in harness_windows([np.array(ids)], context_length=context_length, prefix_id=99)
        ]
        assert ours == theirs


def test_the_harnesss_local_completions_scores_two_tokens_less_a_window(exported, monkeypatch):
    from lm_eval.api.instance import Instance
    from lm_eval.models import api_models
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    _, tokenizer, folder = exported
    # It asks for packages to reach a server with, and imports its bar of progress with them; none is reached.
    monkeypatch.setattr(api_models, "find_spec", lambda package: package)
    monkeypatch.setattr(api_models, "tqdm", lambda requests, disable: requests, raising=False)
    backend = LocalCompletionsAPI(
        model="ours",
        base_url="http://127.0.0.1:9",
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        max_length=T,
    )
    asked = []
    # What would go over the network is taken here.
    backend._loglikelihood_tokens = lambda windows, **_: asked.extend(windows) or [(0.0, True)] * len(windows)
    text = text_of(tokenizer, 3 * T)
    backend.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    ids = np.array(tokenizer.encode(text))
    ours = harness_windows([ids], context_length=T - 2, prefix_id=tokenizer.end_of_text)
    # Theirs are (None, context, targets): the context ends where the first target begins.
    assert [[*context, *targets] for _, context, targets in asked] == [window.ids.tolist() for window in ours]
    assert len(asked[0][2]) == T - 2


@pytest.mark.parametrize(
    "text",
    ["one", "  one two ", "\n\na\tb\u00a0c\u2003d \n", "Größe 猫と犬 «naïve»\u3000🙂", "a\x1cb\x85c"],
    ids=["one", "spaces around", "kinds of space", "non-ASCII", "separators"],
)
def test_words_are_lm_evals(exported, harness, text):
    model, tokenizer, _ = exported
    found = harness_results(harness, [text])
    # Both perplexities come from one log-likelihood, so that their logarithms give its count of words away.
    theirs = len(text.encode()) * math.log(found["byte_perplexity"]) / math.log(found["word_perplexity"])
    assert evaluate(model, tokenizer, text, protocol=Protocol("lm-eval")).words == pytest.approx(
        theirs, rel=1e-9
    )


def test_lm_evals_aggregate_over_documents_is_ours(exported, harness):
    model, tokenizer, _ = exported
    texts = [text for text in TEXTS.values() if text.strip()]
    theirs = harness_results(harness, texts)
    ours = evaluate_documents(model, tokenizer, texts, protocol=Protocol("lm-eval"))
    assert ours.words == sum(len(re.split(r"\s+", text)) for text in texts)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        # The exponent of a word's perplexity is large: float32's last digits show in it.
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-3), name
    assert ours.bits_per_byte == pytest.approx(theirs["bits_per_byte"], rel=1e-5)


def guides_perplexity(model, ids: list[int], *, stride: int, context_length: int = T) -> tuple[float, int]:
    """The guide's loop, from its description: each window's mean loss, weighted by its count less 1."""
    whole = torch.tensor([ids])
    total, counted, before, begin = 0.0, 0, 0, 0
    while True:
        end = min(begin + context_length, whole.size(1))
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
    ours = evaluate_documents(model, tokenizer, [np.array(ids)], protocol=Protocol("hf-guide", stride=stride))
    assert ours.loss_nats == pytest.approx(loss, rel=1e-5)
    assert ours.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert ours.tokens_scored == counted


@pytest.mark.parametrize(("context_length", "stride"), [(2, 1), (2, 2), (5, 2), (5, 4), (T - 1, 7)])
def test_the_guides_number_is_ours_for_a_shorter_context(exported, context_length, stride):
    from transformers import AutoModelForCausalLM

    model, tokenizer, folder = exported
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    settings = {"stride": stride, "context_length": context_length}
    ids = tokenizer.encode(STORY * 3)[: 3 * T + 2]
    loss, counted = guides_perplexity(theirs, ids, **settings)
    ours = evaluate_documents(model, tokenizer, [np.array(ids)], protocol=Protocol("hf-guide", **settings))
    assert ours.loss_nats == pytest.approx(loss, rel=1e-5)
    assert (ours.tokens_scored, ours.tokens_total) == (counted, len(ids))


def test_where_the_guides_last_window_is_one_token_we_leave_it_out_and_the_guide_has_no_number(exported):
    # Its shifted labels are all masked: the mean of no loss is NaN, and 0 times NaN is NaN.
    from transformers import AutoModelForCausalLM

    model, tokenizer, folder = exported
    ids = tokenizer.encode(STORY * 3)[: 2 * T + 1]
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert theirs(torch.tensor([ids[-1:]]), labels=torch.tensor([ids[-1:]])).loss.isnan()
    guide = Protocol("hf-guide", stride=T)
    with_it = evaluate_documents(model, tokenizer, [np.array(ids)], protocol=guide)
    without = evaluate_documents(model, tokenizer, [np.array(ids[:-1])], protocol=guide)
    assert with_it.nats == pytest.approx(without.nats, rel=1e-12)
    assert with_it.tokens_scored == without.tokens_scored == 2 * (T - 1)


def test_at_stride_1_the_guide_reports_the_first_window_alone(exported):
    model, tokenizer, _ = exported
    ids = np.array(tokenizer.encode(STORY * 3)[: 4 * T])
    guide = evaluate_documents(model, tokenizer, [ids], protocol=Protocol("hf-guide", stride=1))
    first = evaluate_documents(model, tokenizer, [ids[:T]], protocol=Protocol(prefix="none", stride=T))
    assert guide.nats == pytest.approx(first.nats, rel=1e-6)
    assert guide.tokens_scored == T - 1
    assert math.isnan(guide.bits_per_byte) or guide.bytes_scored > 0


def test_where_they_differ_the_result_says_how(exported):
    model, tokenizer, _ = exported
    results = {name: evaluate(model, tokenizer, STORY * 3, protocol=Protocol(name)) for name in PROTOCOLS}
    assert len({round(result.loss_nats, 6) for result in results.values()}) == 4
    assert results["lucid"].protocol.difference == ""
    for name in ("lm-eval", "hf-guide", "batch-mean"):
        assert results[name].protocol.difference
        assert results[name].protocol.difference in str(results[name])


def test_the_harness_always_puts_a_token_first(exported, monkeypatch):
    model, tokenizer, _ = exported
    given = evaluate(model, tokenizer, STORY, protocol=Protocol("lm-eval"))
    monkeypatch.setattr(model, "config", model.config.changed(document_prefix_id=None))
    assert evaluate(model, tokenizer, STORY, protocol=Protocol("lm-eval")) == given
    assert evaluate(model, tokenizer, STORY).protocol.prefix == "none"


def test_lm_eval_is_our_stride_of_a_whole_window_but_for_a_last_window_that_is_slid_back(exported):
    model, tokenizer, _ = exported
    ids = np.array(tokenizer.encode(STORY * 6)[: 4 * T])
    for count, same in ((T - 3, True), (4 * T, True), (3 * T + 5, False)):
        theirs = evaluate_documents(model, tokenizer, [ids[:count]], protocol=Protocol("lm-eval"))
        ours = evaluate_documents(model, tokenizer, [ids[:count]], protocol=Protocol(stride=T))
        assert (theirs.nats == pytest.approx(ours.nats, rel=1e-6)) == same
        assert theirs.tokens_scored == ours.tokens_scored == count


@pytest.mark.parametrize("protocol", ["lm-eval", "hf-guide"])
def test_the_batch_size_changes_no_protocol_and_documents_are_counted_each_alone(exported, protocol):
    model, tokenizer, _ = exported
    documents = [np.array(tokenizer.encode(text)) for text in (STORY * 3, "Short.", STORY[5:60])]
    alone = [evaluate_documents(model, tokenizer, [each], protocol=Protocol(protocol)) for each in documents]
    for batch_size in (1, 3, 64):
        together = evaluate_documents(
            model, tokenizer, documents, protocol=Protocol(protocol, batch_size=batch_size)
        )
        assert together.nats == pytest.approx(math.fsum(each.nats for each in alone), rel=1e-6)
        assert together.tokens_scored == sum(each.tokens_scored for each in alone)
        assert together.words == sum(each.words for each in alone)


@pytest.mark.parametrize("stride", [1, T // 2, T])
def test_a_stride_with_lm_eval_is_refused_even_where_it_is_the_harnesss_own(exported, stride):
    with pytest.raises(ConfigError, match=f"--stride {stride}: lm-eval .*leave --stride out"):
        evaluate(*exported[:2], STORY, protocol=Protocol("lm-eval", stride=stride))


def test_no_prefix_with_lm_eval_is_refused_and_so_is_a_tokenizer_without_end_of_text(exported, monkeypatch):
    model, tokenizer, _ = exported
    with pytest.raises(ConfigError, match="leave --prefix none out"):
        evaluate(model, tokenizer, STORY, protocol=Protocol("lm-eval", prefix="none"))
    monkeypatch.setattr(tokenizer, "end_of_text", None)
    with pytest.raises(ConfigError, match=r"has none; use lucid"):
        evaluate(model, tokenizer, STORY, protocol=Protocol("lm-eval"))


@pytest.mark.parametrize("protocol", ["hf-guide", "batch-mean"])
def test_one_token_is_too_little_where_no_prefix_stands_before_it(exported, protocol):
    model, tokenizer, _ = exported
    with pytest.raises(DataError, match="no token can be scored: 1 token "):
        evaluate(model, tokenizer, text_of(tokenizer, 1), protocol=Protocol(protocol))


def test_lm_eval_with_a_model_that_has_no_end_of_text_is_an_error_of_ours():
    shape = {"vocab_size": 256, "context_length": T, "emb_dim": 8, "n_layers": 1, "n_heads": 1}
    with pytest.raises(LucidError):
        evaluate(GPT(GPTConfig(**shape)), Tokenizer.bytes(), STORY, protocol=Protocol("lm-eval"))


def test_what_batch_mean_drops_does_not_change_the_word_perplexity(exported):
    model, tokenizer, _ = exported
    ids = np.array(tokenizer.encode(STORY * 6)[: 4 * T])  # 2 windows of T + 1 are scored of 3 T - 1 tokens
    one, other = (
        evaluate_documents(model, tokenizer, [ids[:count]], protocol=Protocol("batch-mean"))
        for count in (2 * T + 1, 3 * T)
    )
    assert other.nats == pytest.approx(one.nats, rel=1e-12)
    assert other.byte_perplexity == pytest.approx(one.byte_perplexity, rel=1e-12)
    # The few words before the cut may be counted, or the number withheld; those behind it must not count.
    assert other.word_perplexity == pytest.approx(one.word_perplexity, rel=1e-12, nan_ok=True)
