import json
import math

import pytest
from models import BYTES, FOREIGN, STORY

from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Protocol


def test_its_dictionary_is_json_with_stable_keys(gpt):
    explained = explain(gpt, BYTES, [FOREIGN, STORY])
    values = json.loads(json.dumps(explained.to_dict(), allow_nan=False))
    assert {"loss_nats", "perplexity", "texts"} <= values.keys()
    assert values["loss_nats"] == explained.loss_nats
    assert [text["text"] for text in values["texts"]] == [FOREIGN, STORY]
    for text, tokens in zip(values["texts"], explained.texts, strict=True):
        assert {"text", "loss_nats", "tokens"} <= text.keys()
        assert text["loss_nats"] == tokens.loss_nats
        for row, token in zip(text["tokens"], tokens.tokens, strict=True):
            promised = {"id", "text", "probability", "log_probability", "nats", "bits", "rank", "entropy"}
            assert promised | {"alternatives"} <= row.keys()
            assert (row["nats"], row["bits"], row["rank"]) == (token.nats, token.bits, token.rank)
            assert [set(other) for other in row["alternatives"]] == [{"id", "text", "probability"}] * 5


def test_as_a_string_it_shows_each_token_and_the_steps_to_the_perplexity(gpt):
    explained = explain(gpt, BYTES, "lamp")
    shown = str(explained)
    lines = shown.splitlines()
    for token in explained.tokens:
        row = next(line for line in lines if line.startswith(repr(token.text)))
        for part in (f"{token.probability:.4e}", f"{token.log_probability:.4f}", f"{token.bits:.3f}"):
            assert part in row
    loss = explained.loss_nats
    steps = [
        ("probabilities of the targets", "  ".join(f"{token.probability:.4e}" for token in explained.tokens)),
        ("their logarithms", "  ".join(f"{token.log_probability:.4f}" for token in explained.tokens)),
        ("mean", f"-{loss:.4f}"),
        ("negative mean = cross entropy", f"{loss:.4f} nats per token"),
        ("exp = perplexity", f"{math.exp(loss):,.1f} of a vocabulary of 257"),
        ("torch's cross_entropy", f"{explained.torch_loss_nats:.4f} (difference "),
    ]
    places = []
    for name, value in steps:
        place = next(number for number, line in enumerate(lines) if line.startswith(name + " "))
        assert value in lines[place]
        places.append(place)
    assert places == sorted(places)
    assert lines[-1] == str(explained.protocol)


def test_a_control_character_in_a_text_cannot_break_a_row(gpt):
    text = "a\nb\x1b[31m\x0b\tc"
    shown = str(explain(gpt, BYTES, text))
    assert "\x1b" not in shown
    assert "\x0b" not in shown
    assert len(shown.splitlines()) == len(str(explain(gpt, BYTES, "x" * len(text))).splitlines())


def test_many_tokens_are_counted_rather_than_all_repeated_in_the_steps(gpt):
    shown = str(explain(gpt, BYTES, STORY))
    assert f"... {len(STORY)} in all" in shown
    assert "in all" not in str(explain(gpt, BYTES, "every"))


def test_json_comes_line_by_line_and_is_the_dictionary(gpt):
    explained = explain(gpt, BYTES, [STORY, FOREIGN])
    lines = list(explained.json_lines())
    assert json.loads("\n".join(lines)) == json.loads(json.dumps(explained.to_dict()))
    assert len(lines) > len(explained.tokens)


def test_running_loss_and_perplexity_are_those_of_the_text_so_far(gpt):
    (text,) = explain(gpt, BYTES, STORY).texts
    nats = [token.nats for token in text.tokens]
    for place, token in enumerate(text.tokens, start=1):
        assert token.running_loss_nats == pytest.approx(math.fsum(nats[:place]) / place, rel=1e-12)
        assert token.running_perplexity == pytest.approx(math.exp(token.running_loss_nats), rel=1e-12)
    assert text.tokens[-1].running_loss_nats == pytest.approx(text.loss_nats, rel=1e-12)


def test_each_row_names_the_token_that_stood_before(gpt):
    (text,) = explain(gpt, BYTES, "abc").texts
    assert [token.given for token in text.tokens] == ["<|endoftext|>", "a", "b"]
    (without,) = explain(gpt, BYTES, "abc", protocol=Protocol(prefix="none")).texts
    assert [token.given for token in without.tokens] == ["a", "b"]


def test_a_long_text_takes_some_tens_of_bytes_a_token(gpt):
    tokens = explain(gpt, BYTES, STORY * 20).texts[0].tokens
    held = sum(column.nbytes for column in tokens.columns.values())
    assert held / len(tokens) <= 80


def test_both_ways_of_beginning_a_text_say_what_stood_first(gpt):
    with_prefix, without = (
        str(explain(gpt, BYTES, "ab c", protocol=Protocol(prefix=prefix))) for prefix in ("auto", "none")
    )
    assert "text 'ab c' (first token scored after <|endoftext|>)" in with_prefix
    assert "text 'ab c' (first token 'a' not scored: nothing is before it)" in without
