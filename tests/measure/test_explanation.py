import math
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from models import BYTES, END_OF_TEXT, FOREIGN, STORY, TWO_LAYERS, sharp
from oracles import log_sum_exp
from selectolax.lexbor import LexborHTMLParser

import lucidlm
from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Protocol
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

T = 16


def logits_of_each_token(model, ids, *, prefix_id=END_OF_TEXT, stride=T // 2):
    """The logits (N, V) that each scored token was drawn from, float64, one forward pass a token."""
    sequence = [*([] if prefix_id is None else [prefix_id]), *ids]
    rows = []
    for place in range(len(sequence) - 1):
        start = 0
        while place >= start + T:
            start += stride
        with torch.no_grad():
            rows.append(model(torch.tensor([sequence[start : place + 1]]))[0, -1].double().numpy())
    return np.array(rows)


def probabilities_of(logits):
    return np.array([np.exp(row - log_sum_exp(row)) for row in logits])


# The rows are evaluate's loss, taken apart.


@pytest.mark.parametrize("length", [1, 2, 3, T - 1, T, T + 1, 2 * T, 3 * T + 7, len(STORY)])
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_the_rows_average_to_evaluates_loss_for_short_and_long_texts(model, length, prefix):
    text = STORY[:length]
    if length == 1 and prefix == "none":
        text = "ab"
    explained = explain(model, BYTES, text, protocol=Protocol(prefix=prefix))
    evaluated = evaluate(model, BYTES, text, protocol=Protocol(prefix=prefix))
    mean = math.fsum(token.nats for token in explained.tokens) / len(explained.tokens)
    assert mean == pytest.approx(evaluated.loss_nats, abs=1e-6)
    assert explained.loss_nats == pytest.approx(mean, abs=1e-12)
    assert explained.perplexity == pytest.approx(math.exp(mean), rel=1e-12)
    assert len(explained.tokens) == evaluated.tokens_scored
    assert explained.protocol == evaluated.protocol


@pytest.mark.parametrize("stride", [1, 7, T])
@pytest.mark.parametrize("context_length", [T, 9])
def test_they_do_so_for_any_stride_and_context(gpt, stride, context_length):
    protocol = Protocol(stride=min(stride, context_length), context_length=context_length)
    explained, evaluated = (way(gpt, BYTES, STORY, protocol=protocol) for way in (explain, evaluate))
    assert explained.loss_nats == pytest.approx(evaluated.loss_nats, abs=1e-6)
    assert explained.protocol == evaluated.protocol


@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_several_texts_average_to_the_loss_of_all_their_tokens(model, prefix):
    texts = [STORY, FOREIGN, "ab", STORY[:T]]
    explained = explain(model, BYTES, texts, protocol=Protocol(prefix=prefix))
    documents = [np.asarray(BYTES.encode(text)) for text in texts]
    evaluated = evaluate_documents(model, BYTES, documents, protocol=Protocol(prefix=prefix))
    assert explained.loss_nats == pytest.approx(evaluated.loss_nats, abs=1e-6)
    assert [text.text for text in explained.texts] == texts
    for text in explained.texts:
        alone = evaluate(model, BYTES, text.text, protocol=Protocol(prefix=prefix))
        assert text.loss_nats == pytest.approx(alone.loss_nats, abs=1e-6)
        assert len(text.tokens) == alone.tokens_scored


@pytest.mark.parametrize("text", ["ab", STORY, FOREIGN])
def test_torchs_own_number_agrees(model, text):
    explained = explain(model, BYTES, text)
    assert explained.torch_loss_nats == pytest.approx(explained.loss_nats, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_the_batch_size_does_not_change_the_rows(gpt, batch_size):
    texts = [STORY, "ab", FOREIGN]
    one, other = (
        explain(gpt, BYTES, texts),
        explain(gpt, BYTES, texts, protocol=Protocol(batch_size=batch_size)),
    )
    for mine, yours in zip(one.tokens, other.tokens, strict=True):
        assert (mine.id, mine.text) == (yours.id, yours.text)
        assert mine.nats == pytest.approx(yours.nats, abs=1e-5)


# Every column, against NumPy on logits made one token at a time.


@pytest.mark.parametrize("text", [STORY, FOREIGN])
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_probability_rank_entropy_and_alternatives_are_numpys(model, text, prefix):
    ids = BYTES.encode(text)
    prefix_id = END_OF_TEXT if prefix == "auto" else None
    logits = logits_of_each_token(model, ids, prefix_id=prefix_id)
    tokens = explain(model, BYTES, text, protocol=Protocol(prefix=prefix), top_k=4).tokens
    targets = ids if prefix == "auto" else ids[1:]
    assert [token.id for token in tokens] == targets
    for token, p, target in zip(tokens, probabilities_of(logits), targets, strict=True):
        # Float32 logits of size 10 carry an error of about 1e-6, and so does the logarithm of a probability.
        assert token.probability == pytest.approx(p[target], rel=1e-4)
        assert token.log_probability == pytest.approx(math.log(p[target]), abs=1e-4)
        assert token.nats == -token.log_probability
        assert token.bits == pytest.approx(-math.log2(p[target]), abs=1e-4)
        assert token.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
        surely, perhaps = (p > p[target] * (1 + 1e-4)).sum() + 1, (p > p[target] * (1 - 1e-4)).sum() + 1
        assert surely <= token.rank <= perhaps
        best = np.sort(p)[::-1][:4]
        assert [other.probability for other in token.alternatives] == pytest.approx(best.tolist(), rel=1e-4)
        assert [p[other.id] for other in token.alternatives] == pytest.approx(best.tolist(), rel=1e-4)


def test_a_token_of_rank_k_is_its_own_kth_alternative(gpt):
    tokens = explain(gpt, BYTES, STORY * 3, top_k=60).tokens
    for token in tokens:
        likeliest = [other.id for other in token.alternatives]
        assert (token.id in likeliest) == (token.rank <= 60)
        if token.id in likeliest:
            assert likeliest.index(token.id) == token.rank - 1
            alternative = token.alternatives[token.rank - 1]
            assert alternative.text == token.text
            assert alternative.probability == pytest.approx(token.probability, rel=1e-5)
    assert {token.rank <= 60 for token in tokens} == {True, False}


def test_equal_logits_stand_in_the_order_of_their_ids_and_have_the_whole_entropy():
    model = GPT(GPTConfig(vocab_size=256, context_length=T, emb_dim=8, n_layers=1, n_heads=1))
    torch.nn.init.zeros_(model.head.weight)
    for token in explain(model, BYTES, "any text").tokens:
        assert token.rank == token.id + 1
        assert [other.id for other in token.alternatives] == [0, 1, 2, 3, 4]
        assert token.probability == pytest.approx(1 / 256, rel=1e-6)
        assert token.bits == pytest.approx(8, abs=1e-6)
        assert token.entropy == pytest.approx(math.log(256), abs=1e-5)


def test_a_sure_model_has_no_entropy_and_no_nan(gpt):
    with torch.no_grad():
        gpt.final_norm.weight.mul_(1e4)
    explained = explain(gpt, BYTES, STORY)
    for token in explained.tokens:
        assert 0 <= token.entropy < 6
        assert 0 <= token.probability <= 1
        assert math.isfinite(token.nats)
    assert min(token.entropy for token in explained.tokens) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("top_k", "shown"), [(0, 0), (1, 1), (5, 5), (257, 257), (1000, 257)])
def test_there_are_top_k_alternatives_and_never_more_than_the_vocabulary(gpt, top_k, shown):
    for token in explain(gpt, BYTES, "abc", top_k=top_k).tokens:
        assert len(token.alternatives) == shown
        probabilities = [other.probability for other in token.alternatives]
        assert probabilities == sorted(probabilities, reverse=True)
        if shown == 257:
            assert math.fsum(probabilities) == pytest.approx(1, abs=1e-5)


# What a token is called.


def test_the_tokens_spell_the_text(gpt):
    assert "".join(token.text for token in explain(gpt, BYTES, STORY).tokens) == STORY


def test_a_token_of_part_of_a_character_is_shown_by_its_byte(gpt):
    assert [token.text for token in explain(gpt, BYTES, "aé").tokens] == ["a", r"\xc3", r"\xa9"]


def test_tokens_of_several_bytes_are_shown_whole():
    tokenizer = Tokenizer.train([STORY * 3], 300)
    model = sharp(
        TWO_LAYERS["gpt2"].changed(vocab_size=tokenizer.vocab_size), prefix_id=tokenizer.end_of_text
    )
    shown = [token.text for token in explain(model, tokenizer, STORY).tokens]
    assert "".join(shown) == STORY
    assert max(map(len, shown)) > 1


def test_end_of_text_and_ids_without_a_token_are_called_by_name():
    model = sharp(TWO_LAYERS["gpt2"].changed(vocab_size=320))
    names = {other.id: other.text for other in explain(model, BYTES, "a", top_k=320).tokens[0].alternatives}
    assert names[END_OF_TEXT] == "<|endoftext|>"
    assert names[257] == "<id 257>"
    assert names[319] == "<id 319>"


def test_what_is_not_scored_is_said(gpt):
    assert explain(gpt, BYTES, "abc").texts[0].left_out == ""
    without = explain(gpt, BYTES, "abc", protocol=Protocol(prefix="none")).texts[0]
    assert without.left_out == "a"
    assert [token.text for token in without.tokens] == ["b", "c"]


def test_left_out_and_tokens_spell_the_text_where_the_first_byte_is_half_a_character(gpt):
    without = explain(gpt, BYTES, "éa", protocol=Protocol(prefix="none")).texts[0]
    assert (without.left_out, [token.text for token in without.tokens]) == (r"\xc3", [r"\xa9", "a"])


def test_line_ends_are_those_that_evaluate_scores(gpt):
    text = "\ufeffone\r\ntwo\rthree\r\n"
    explained, evaluated = explain(gpt, BYTES, text), evaluate(gpt, BYTES, text)
    assert explained.loss_nats == pytest.approx(evaluated.loss_nats, abs=1e-6)
    assert explained.tokens_scored == evaluated.tokens_scored == len("one\ntwo\nthree\n")
    values = explained.to_dict()
    assert values["bytes_left_out"] == {"byte_order_marks": 3, "carriage_returns": 2}
    assert "left out 5 of the text's 19 bytes" in str(explained)


# Errors, and what is left as it was.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": T + 1}, r"--stride 17: .*16"),
        ({"context_length": T + 1}, r"--context-length 17: .*1 to 16"),
        ({"prefix": "always"}, r"--prefix always: .*auto and none"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_value_and_limit(gpt, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        explain(gpt, BYTES, STORY, protocol=Protocol(**settings))
    assert "\n" not in str(caught.value)


def test_fewer_than_no_alternatives_are_refused_and_so_are_protocols_of_others(gpt):
    with pytest.raises(ConfigError, match="--top-k -1"):
        explain(gpt, BYTES, STORY, top_k=-1)
    with pytest.raises(ConfigError, match="--protocol hf-guide"):
        explain(gpt, BYTES, STORY, protocol=Protocol("hf-guide"))


@pytest.mark.parametrize(
    ("texts", "prefix", "message"),
    [
        ("", "auto", "'' is 0 tokens"),
        ("", "none", "'' is 0 tokens"),
        ("a", "none", "'a' is 1 token:"),
        (["fine", ""], "auto", "'' is 0 tokens"),
        (["fine", "b"], "none", "'b' is 1 token:"),
    ],
)
def test_a_text_without_a_token_to_score_is_an_error_that_shows_it(gpt, texts, prefix, message):
    with pytest.raises(DataError, match=message) as caught:
        explain(gpt, BYTES, texts, protocol=Protocol(prefix=prefix))
    assert "\n" not in str(caught.value)


def test_no_text_at_all_is_an_error(gpt):
    with pytest.raises(DataError):
        explain(gpt, BYTES, [])


def test_weights_that_hold_nan_are_an_error_as_in_evaluate(gpt):
    with torch.no_grad():
        gpt.final_norm.weight[3] = math.nan
    with pytest.raises(WeightsError, match="NaN"):
        explain(gpt, BYTES, STORY)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_numbers_are_left_as_they_were_and_dropout_is_off(model, training):
    dropping = sharp(model.config.changed(drop_rate=0.5)).train(training)
    state = torch.get_rng_state()
    explained = explain(dropping, BYTES, STORY)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in dropping.modules())
    assert all(parameter.grad is None for parameter in dropping.parameters())
    assert explained == explain(model, BYTES, STORY)


# The lecture's worked example, through explain.

LECTURE = ["every effort moves you", "I really like chocolate"]
TARGETS = [[3626, 6100, 345], [1107, 588, 11311]]
LIKELIEST = [[16657, 339, 42826], [49906, 29669, 41751]]
PROBABILITIES = [[7.4540e-05, 3.1061e-05, 1.1563e-05], [1.0337e-05, 5.6776e-05, 4.7559e-06]]
LOGARITHMS = [[-9.5042, -10.3796, -11.3677], [-11.4798, -9.7764, -12.2561]]


@pytest.fixture(scope="module")
def lecture():
    model, tokenizer = lucidlm.load("lecture")
    return model, tokenizer, explain(model, tokenizer, LECTURE)


@pytest.mark.slow
def test_the_lectures_example_is_explained_to_the_printed_digit(lecture):
    _, _, explained = lecture
    for text, targets, likeliest, probabilities, logarithms in zip(
        explained.texts, TARGETS, LIKELIEST, PROBABILITIES, LOGARITHMS, strict=True
    ):
        assert [token.id for token in text.tokens] == targets
        assert [token.alternatives[0].id for token in text.tokens] == likeliest
        assert [token.probability for token in text.tokens] == pytest.approx(probabilities, rel=5e-5)
        assert [token.log_probability for token in text.tokens] == pytest.approx(logarithms, abs=6e-5)
    assert [text.left_out for text in explained.texts] == ["every", "I"]
    decoded = ["".join(token.alternatives[0].text for token in text.tokens) for text in explained.texts]
    assert decoded == [" Armed heNetflix", " pressuring empoweredfaith"]
    # One float32 step of the loss is 1e-6, and 0.046 of the perplexity.
    assert explained.loss_nats == pytest.approx(10.79396444, abs=3e-6)
    assert explained.torch_loss_nats == pytest.approx(10.79396444, abs=3e-6)
    assert explained.perplexity == pytest.approx(48725.8, abs=0.1)
    shown = str(explained)
    for part in (
        "-10.7940",
        "10.7940 nats per token",
        "-9.5042  -10.3796  -11.3677  -11.4798  -9.7764  -12.2561",
    ):
        assert part in shown
    assert "of a vocabulary of 50,257" in shown
    assert "the first token of a document is not scored, float32 on cpu" in shown


@pytest.mark.slow
def test_evaluate_gives_the_lectures_loss_for_the_same_texts(lecture):
    model, tokenizer, explained = lecture
    documents = [np.asarray(tokenizer.encode(text)) for text in LECTURE]
    evaluated = evaluate_documents(model, tokenizer, documents)
    assert evaluated.loss_nats == pytest.approx(explained.loss_nats, abs=1e-6)
    assert (evaluated.tokens_scored, evaluated.tokens_total) == (6, 8)


# As a page.


@pytest.mark.slow
def test_the_lectures_example_is_on_its_page_to_the_printed_digit(lecture, tmp_path):
    _, _, explained = lecture
    explained.write_html(tmp_path / "page.html", model="lecture")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    rows = {
        row.css_first("th").text(): [cell.text() for cell in row.css("td")]
        for row in LexborHTMLParser(page).css("table.steps tr, table.answers tr")
    }
    flat = [format(Decimal(f"{p:.4e}"), "f") for row in PROBABILITIES for p in row]
    assert rows["its id"] == [str(id) for row in TARGETS for id in row]
    assert rows["its probability p, by softmax"] == flat
    assert rows["ln p"] == [f"{x:.4f}" for row in LOGARITHMS for x in row]
    assert rows["mean"] == ["-10.7940"]
    assert rows["negative mean = cross entropy"] == ["10.7940 nats per token"]
    assert re.fullmatch(r"48,725\.[789] of a vocabulary of 50,257", rows["exp = perplexity"][0])
    assert list(rows)[-1] == "torch's cross_entropy"
    assert rows["torch's cross_entropy"][0].startswith("10.7940 (difference ")
    assert "<h1>Why the loss is 10.7940</h1>" in page
