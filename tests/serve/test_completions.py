"""/v1 with OpenAI's own client, and with plain requests where that cannot ask it."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import openai
import pytest
from models import BYTES, END_OF_TEXT, FOREIGN, STORY

from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Protocol
from lucidlm.serve.transcript import spelled

MULTIBYTE = ["Größe und Maß", "猫と犬 — 終", "🙂🙃 ça", "a\u0301 e"]


def slices(choice):
    offsets = [*choice.logprobs.text_offset, len(choice.text)]
    return [choice.text[a:b] for a, b in pairwise(offsets)]


def streamed(client, **fields):
    """The texts of a stream, put together by choice, as the client would."""
    whole: dict[int, dict] = {}
    for part in client.completions.create(stream=True, **fields):
        for choice in part.choices:
            entry = whole.setdefault(choice.index, {"text": "", "finish_reason": None, "logprobs": {}})
            entry["text"] += choice.text
            entry["finish_reason"] = choice.finish_reason
            if choice.logprobs is not None:
                for name, values in choice.logprobs.model_dump().items():
                    entry["logprobs"].setdefault(name, []).extend(values)
    return [whole[index] for index in sorted(whole)]


def plain(answer):
    return [
        {
            "text": choice.text,
            "finish_reason": choice.finish_reason,
            "logprobs": choice.logprobs.model_dump() if choice.logprobs else {},
        }
        for choice in answer.choices
    ]


def test_the_models_are_listed_and_found_by_name(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError, match="there is no model 'third'"):
        client.models.retrieve("third")


def test_a_completion_has_its_usage_and_the_same_text_for_the_same_seed(client):
    answers = [client.completions.create(model="tiny", prompt="The old", seed=3) for _ in range(2)]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    assert answers[0].object == "text_completion"
    assert answers[0].usage.prompt_tokens == 7
    others = {
        client.completions.create(model="tiny", prompt="The old", seed=n).choices[0].text for n in range(5)
    }
    assert len(others) > 1


def test_the_default_is_16_tokens_and_usage_counts_each_prompt_once(client):
    answer = client.completions.create(
        model="tiny", prompt=["ab", "cde"], n=3, seed=1, logit_bias={str(END_OF_TEXT): -100}
    )
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 6 * 16, 5 + 6 * 16)


def test_prompts_may_be_texts_or_ids_one_or_several(client):
    texts = ["Who", "knew"]
    ids = [BYTES.encode(text) for text in texts]
    fields = {"model": "tiny", "seed": 5, "max_tokens": 8}
    found = [
        [choice.text for choice in client.completions.create(prompt=prompt, **fields).choices]
        for prompt in (texts, ids, texts[0], ids[0])
    ]
    assert found[0] == found[1]
    assert found[2] == found[3] == found[0][:1]


def test_temperature_0_takes_the_likeliest_token_and_logit_bias_changes_it(client, tiny):
    fields = {"model": "tiny", "prompt": "The old", "max_tokens": 1, "logprobs": 3, "temperature": 0}
    (choice,) = client.completions.create(**fields).choices
    (token,) = choice.logprobs.tokens
    (top,) = choice.logprobs.top_logprobs
    assert max(top, key=top.__getitem__) == token
    (biased,) = client.completions.create(**fields, logit_bias={"65": 100}).choices
    assert biased.text == "A"
    # The model's own log-probabilities are as before.
    assert {name: value for name, value in biased.logprobs.top_logprobs[0].items() if name != "A"} == top


def test_top_k_and_min_p_are_extensions_that_leave_one_token_here(client):
    fields = {"model": "tiny", "prompt": "The old", "max_tokens": 12}
    greedy = client.completions.create(**fields, temperature=0).choices[0].text
    for extension in ({"top_k": 1}, {"min_p": 1}):
        assert client.completions.create(**fields, extra_body=extension).choices[0].text == greedy
    assert client.completions.create(**fields, top_p=1e-9).choices[0].text == greedy


@pytest.mark.parametrize("text", [STORY[:40], *MULTIBYTE, FOREIGN[:30]])
@pytest.mark.parametrize("new", [0, 5])
def test_echoed_logprobs_are_explains_numbers_to_the_bit(client, tiny, text, new):
    (choice,) = client.completions.create(
        model="tiny", prompt=text, max_tokens=new, echo=True, logprobs=5, seed=1
    ).choices
    (expected,) = explain(tiny.model, BYTES, text, protocol=Protocol(prefix="none")).texts
    size = len(BYTES.encode(text))
    logprobs = choice.logprobs
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    assert logprobs.token_logprobs[1:size] == [token.log_probability for token in expected.tokens]
    for top, token in zip(logprobs.top_logprobs[1:size], expected.tokens, strict=True):
        best = {spelled(BYTES, other.id) for other in token.alternatives}
        assert set(top) == best | {spelled(BYTES, token.id)}
        for other in token.alternatives:
            assert math.exp(top[spelled(BYTES, other.id)]) == pytest.approx(other.probability, rel=1e-6)
    assert "".join(slices(choice)) == choice.text
    assert choice.text.startswith(text)


def test_prompt_logprobs_are_the_same_bits_alone_and_in_a_batch_of_8(client):
    texts = [STORY[place : place + 9 + 3 * place] for place in range(8)]
    fields = {"model": "tiny", "max_tokens": 0, "echo": True, "logprobs": 3}
    together = client.completions.create(prompt=texts, **fields).choices
    with ThreadPoolExecutor(8) as pool:
        each = list(pool.map(lambda text: client.completions.create(prompt=text, **fields).choices[0], texts))
    assert [choice.logprobs for choice in together] == [choice.logprobs for choice in each]
    assert [choice.text for choice in together] == texts


@pytest.mark.parametrize("prompt", ["The old", *MULTIBYTE, list("猫🙂".encode())[:5]])
@pytest.mark.parametrize("options", [{}, {"echo": True}, {"stop": ["e", "Ã", " t"]}, {"n": 3, "echo": True}])
def test_a_stream_has_the_same_text_tokens_and_offsets_as_the_whole(client, prompt, options):
    fields = {"model": "tiny", "prompt": prompt, "seed": 4, "max_tokens": 24, "logprobs": 2, "temperature": 2}
    answer = client.completions.create(**fields, **options)
    assert streamed(client, **fields, **options) == plain(answer)
    for choice in answer.choices:
        assert "".join(slices(choice)) == choice.text
        for token, part in zip(choice.logprobs.tokens, slices(choice), strict=True):
            assert part in (token, "") or token.startswith("bytes:") or "\ufffd" in part
        lists = choice.logprobs.model_dump().values()
        assert len({len(values) for values in lists}) == 1


def test_a_cut_character_is_spelled_in_bytes_and_slices_back(client):
    ids = list("猫".encode())[:2]
    (choice,) = client.completions.create(
        model="tiny", prompt=ids, max_tokens=0, echo=True, logprobs=0
    ).choices
    assert choice.logprobs.tokens == ["bytes:\\xe7", "bytes:\\x8c"]
    assert choice.logprobs.text_offset == [0, 0]
    assert choice.text == "\ufffd"


@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_string_of_several_tokens(client, stream):
    fields = {"model": "tiny", "prompt": "The old", "seed": 9, "max_tokens": 40, "temperature": 1.5}
    whole = client.completions.create(**fields).choices[0].text
    stop = whole[11:14]
    cut = whole[: whole.index(stop)]
    asked = fields | {"stop": [stop, "never"], "logprobs": 0}
    (found,) = streamed(client, **asked) if stream else plain(client.completions.create(**asked))
    assert (found["text"], found["finish_reason"]) == (cut, "stop")
    usage = client.completions.create(**fields, stop=stop).usage
    # The tokens of the stop string were generated, and are counted; none after them.
    assert len(found["logprobs"]["tokens"]) < usage.completion_tokens < 40


def test_end_of_text_ends_a_text_and_is_a_token_of_it(client):
    (choice,) = (
        answer := client.completions.create(
            model="tiny", prompt="ab", logit_bias={str(END_OF_TEXT): 100}, logprobs=1
        )
    ).choices
    assert (choice.text, choice.finish_reason) == ("", "stop")
    assert choice.logprobs.tokens == ["<|endoftext|>"]
    assert answer.usage.completion_tokens == 1


def test_the_usage_of_a_stream_comes_last_if_it_is_asked_for(client):
    *parts, last = client.completions.create(
        model="tiny", prompt="ab", max_tokens=3, stream=True, stream_options={"include_usage": True},
        logit_bias={str(END_OF_TEXT): -100},
    )  # fmt: skip
    assert {part.usage for part in parts} == {None}
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 3)


def test_an_empty_prompt_is_the_beginning_of_a_document(client):
    (choice,) = client.completions.create(
        model="tiny", prompt="", max_tokens=0, echo=True, logprobs=1
    ).choices
    assert (choice.text, choice.logprobs.tokens) == ("", ["<|endoftext|>"])


def test_a_prompt_and_its_new_tokens_may_fill_the_context_and_no_more(client):
    fields = {"model": "tiny", "prompt": "a" * 60, "logit_bias": {str(END_OF_TEXT): -100}}
    assert client.completions.create(**fields, max_tokens=4).usage.total_tokens == 64
    with pytest.raises(openai.BadRequestError, match="the context of tiny is 64 tokens") as refused:
        client.completions.create(**fields, max_tokens=5)
    assert refused.value.param == "max_tokens"


def test_chat_is_refused_with_what_to_use(client):
    with pytest.raises(openai.BadRequestError, match="/v1/completions"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"user": "me"}, "user"),
        ({"tools": []}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"logit_bias": {"257": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"model": 5}, "model"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(server, fields, param):
    reply = server.complete(**({"prompt": "ab"} | fields))
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error")
    assert reply.fault["param"] == param


@pytest.mark.parametrize(
    "fields",
    [{"best_of": 1}, {"suffix": ""}, {"presence_penalty": 0}, {"user": None}, {"n": None}, {"seed": None},
     {"max_tokens": None}, {"stop": None}, {"temperature": None}, {"logprobs": None}, {"stream": None}],
    ids=str,
)  # fmt: skip
def test_a_neutral_value_is_taken(server, fields):
    assert server.complete(**fields).status == 200


@pytest.mark.parametrize(
    "payload",
    [
        "../tiny",
        "/etc/passwd",
        "tiny/../tiny",
        "%2e%2e/tiny",
        "./tiny",
        "tiny\0",
        "~",
        "C:\\x",
        "",
        "TINY",
        "a" * 9999,
    ],
)
def test_a_path_for_a_model_is_an_unknown_name(server, payload):
    reply = server.complete(model=payload)
    assert (reply.status, reply.fault["code"]) == (404, "not_found")
    assert server.ask("POST", "/api/explain", {"model": payload, "texts": ["ab"]}).status == 404
