"""Forms of trainings: each setting is a flag, and none names a file."""

import pytest

from lucidlm.serve.run_forms import PlanForm, TrainForm, config_of, flags_of

REFUSED = [
    *({"name": name} for name in ("../x", "a/b", "", "-x", "x" * 61, "a.b", "x\n", "/tmp/x", "..", "é", 1)),
    *(
        {"text": text}
        for text in ("/etc/passwd", "../book.txt", "http://example.org", "story ", "", ["story"])
    ),
    *({name: "x"} for name in ("out", "from_", "from", "val", "config", "track", "tensorboard", "resume")),
    *({"tokenizer": value} for value in ("/etc/passwd", "bpe:", "bpe:9999999", "auto;")),
    *({"encoding": value} for value in ("../utf8", "", "--out")),
    *(
        {"device": "cuda:9"},
        {"dtype": "int8"},
        {"split": "none"},
        {"raw": "yes"},
        {"seed": -1},
        {"seed": 1.5},
    ),
    *({"minutes": value} for value in (0, -1, 1e9, "3", True)),
    *({"steps": value} for value in (0, 10**6 + 1, 2.5)),
    *({"minutes": 1, "steps": 1}, {"steps": 1, "epochs": 1}, {"context_length": 0}, {"drop_rate": 1.0}),
    *({"preset": "/etc"}, {"preset": "gpt2"}, {"sample_prompt": "a\0b"}, {"sample_prompt": "\ud800"}),
    *({"optim": {"lr": -1}}, {"optim": {"file": "x"}}, {"optim": "muon"}, {"optim": {"name": "sgd"}}),
]


@pytest.mark.parametrize("fields", REFUSED, ids=lambda fields: str(fields)[:50])
def test_a_form_that_names_a_file_or_is_out_of_range_is_refused(live, fields):
    before = live.ask("GET", "/api/runs").json
    reply = live.ask("POST", "/api/runs", fields)
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error"), reply.body
    assert live.ask("GET", "/api/runs").json == before


def test_a_number_that_is_infinite_and_an_unknown_document_are_refused(live):
    for number in ("NaN", "Infinity", "1e999"):
        assert live.ask("POST", "/api/runs", b'{"minutes": %s}' % number.encode()).status == 400
    assert live.ask("POST", "/api/runs", {"text": "0" * 12}).status == 404
    assert live.ask("POST", "/api/runs", b"{}", content_type="text/plain").status == 415
    assert live.ask("POST", "/api/runs", {}, origin="https://example.org").status == 403


def test_each_setting_of_a_form_becomes_one_flag_that_lucidlm_takes():
    everything = {
        "minutes": 2.5, "preset": "modern-1m", "tokenizer": "bpe:300", "context_length": 32, "drop_rate": 0.1,
        "batch_tokens": 64, "micro_batch": 2, "validate_every": 5, "val_fraction": 0.2, "split": "end",
        "encoding": "latin-1", "field": "--out", "raw": True, "seed": 3, "early_stop": False,
        "dtype": "float32", "device": "cpu", "threads": 1, "sample_prompt": '--out=/tmp "quoted" -x',
        "optim": {"name": "adamw", "lr": 0.1, "matrix_lr": 0.2, "weight_decay": 0.3, "beta1": 0.4,
                  "beta2": 0.5, "momentum": 0.6, "row_beta": 0.7, "warmup_steps": 8, "decay_fraction": 0.9,
                  "clip": 1.5},
    }  # fmt: skip
    form = TrainForm.model_validate(everything)
    assert set(everything) | {"text", "name", "steps", "epochs"} == set(TrainForm.model_fields)
    from lucidlm.cli import app

    flags = flags_of(form)
    assert len(flags) == len(everything) - 1 + len(everything["optim"])
    _, bound, _ = app.parse_args(["train", *flags], exit_on_error=False, print_error=False)
    assert bound.arguments["settings"] == config_of(form)
    assert config_of(form).sample_prompt == everything["sample_prompt"]
    assert flags_of(PlanForm()) == []
