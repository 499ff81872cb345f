"""A plan for many GPUs: shapes by size, memory that fits or a way out that does, time and loss by hand."""

import re

import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import PRESETS
from lucidlm.training import cluster
from lucidlm.training.cluster import amount, chinchilla_loss, outline, plan_cluster, shape_of, to_dict
from lucidlm.training.footprint import training_bytes


@pytest.mark.parametrize("params", ["150k", "1m", "4m", "30m", "350m", "1b", "7b", "13b", "70b", "400b"])
def test_a_shape_has_about_the_weights_that_were_asked_for(params):
    count = amount("--params", params)
    shape = shape_of(count)
    assert shape.n_parameters == pytest.approx(count, rel=0.1)
    assert shape.family == "modern"
    assert shape.head_dim == 64  # vLLM and llama.cpp take it
    assert 16 < shape.emb_dim / shape.n_layers < 190


def test_the_presets_are_on_the_ladder_and_large_models_have_a_layer_for_128_channels():
    for name, preset in PRESETS.items():
        if name.startswith("modern"):
            assert shape_of(preset.shape.n_parameters) == preset.shape
    for params in (7e9, 13e9, 70e9):
        shape = shape_of(int(params))
        assert shape.emb_dim / shape.n_layers == pytest.approx(128, rel=0.2)


@pytest.mark.parametrize(("text", "value"), [("124m", 124e6), ("1.5B", 1.5e9), ("2t", 2e12), ("1_000", 1000)])
def test_amounts_are_read_as_people_write_them(text, value):
    assert amount("--tokens", text) == value


@pytest.mark.parametrize("text", ["", "x", "7 bn", "-1", "0", "0.0001", "1e9", "inf", "9" * 30, "7b7"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError, match="as in 124m"):
        amount("--params", text)


def test_the_loss_is_hoffmanns():
    # Chinchilla itself: 70 billion weights, 1.4 trillion tokens; Hoffmann 2022, 3.3 and appendix D.3.
    assert chinchilla_loss(70 * 10**9, 1_400 * 10**9) == pytest.approx(1.69 + 0.083 + 0.163, abs=0.001)
    assert plan_cluster(gpus=1, params="1m").loss_nats is None
    plan = plan_cluster(gpus=8, params="7b", tokens="140b")
    assert plan.loss_nats == pytest.approx(1.69 + 0.182 + 0.307, abs=0.005)
    assert plan.tokens_per_parameter == pytest.approx(20, rel=0.02)


def test_the_memory_of_one_gpu_is_what_training_checks_against():
    plan = plan_cluster(gpus=1, preset_name="gpt2-124m")
    for layout in plan.layouts:
        expected = training_bytes(
            plan.model, "adamw", micro_batch=1, batch_size=2, device="cuda", dtype="bfloat16",
            checkpointing=layout.checkpointing,
        )  # fmt: skip
        assert layout.memory.bytes == expected
        assert layout.memory.weights + layout.memory.gradients + layout.memory.moments == (
            16 * plan.model.n_parameters
        )


def test_the_most_windows_fit_and_one_more_does_not():
    plan = plan_cluster(gpus=8, params="1.5b", gpu="a100-40g")
    for layout in plan.layouts:
        for windows, fits in ((layout.windows, True), (layout.windows + 1, False)):
            memory = cluster.memory_on_a_gpu(
                plan.model, "adamw", tokens=windows * plan.model.context_length,
                checkpointing=layout.checkpointing, shards=layout.shards,
            )  # fmt: skip
            assert (memory.bytes <= plan.gpu.usable_bytes) is fits


def test_a_copy_on_each_gpu_is_taken_where_it_fits_else_the_fewest_shards_that_do():
    small = plan_cluster(gpus=8, preset_name="gpt2-124m").chosen
    assert (small.replicas, small.shards, small.checkpointing) == (8, 1, False)
    large = plan_cluster(gpus=8, params="7b", tokens="140b")
    names = [(layout.replicas, layout.shards, layout.checkpointing) for layout in large.layouts]
    assert names == [(r, s, again) for again in (False, True) for r, s in ((8, 1), (2, 4), (1, 8))]
    assert [bool(layout.windows) for layout in large.layouts] == [False, True, True] * 2
    assert (large.chosen.replicas, large.chosen.shards) == (2, 4)
    assert large.chosen.flags == "--replicas 2 --shards 4"


def test_what_is_asked_for_is_kept_to():
    plan = plan_cluster(
        gpus=4, params="7b", gpu="h200", shards=2, checkpointing=True, share=0.4, context_length=4096
    )
    (layout,) = plan.layouts
    assert (layout.replicas, layout.shards, layout.checkpointing) == (2, 2, True)
    assert (plan.mfu, plan.fused_mfu, plan.model.context_length) == (0.4, None, 4096)
    flops = plan.model.flops_per_token() * plan.tokens
    assert plan.seconds == pytest.approx(flops / (0.4 * 4 * 989.4e12))


@pytest.mark.parametrize(
    "asked",
    [
        {"gpus": 1, "params": "7b"},
        {"gpus": 8, "params": "7b", "gpu": "rtx4090"},
        {"gpus": 8, "params": "7b", "replicas": 8},
        {"gpus": 8, "params": "7b", "context_length": 2**18},
        {"gpus": 8, "params": "7b", "gpu": "a100-40g", "checkpointing": False, "context_length": 4096},
        {"gpus": 2, "params": "7b", "gpu": "rtx3090", "shards": 1},
        {"gpus": 4, "params": "7b", "gpu": "l40s", "replicas": 4},
        {"gpus": 8, "params": "7b", "gpu": "rtx3090", "checkpointing": False},
        {"gpus": 4, "params": "7b", "gpu": "rtx3090", "shards": 2, "replicas": 2, "checkpointing": False},
        {
            "gpus": 8,
            "params": "7b",
            "gpu": "a100-40g",
            "shards": 8,
            "checkpointing": False,
            "context_length": 8192,
        },
        {"gpus": 8, "params": "7b", "gpu": "rtx4090", "checkpointing": True},
    ],
)
def test_where_nothing_fits_each_way_out_that_is_named_fits_when_it_is_followed(asked):
    plan = plan_cluster(**asked)
    assert plan.chosen is None
    assert plan.way_out in outline(plan)
    left, others = re.fullmatch(r"(?:leave (.+) out)?(?:, and )?(?:(.+) fits)?", plan.way_out).groups()
    assert left or others
    kept = dict(asked)
    for flag in re.split(", | and ", left) if left else ():
        name, value = flag.removeprefix("--").replace("-", "_"), None
        if name.startswith("no_"):
            name, value = name.removeprefix("no_"), False
        assert (asked[name] == value) if value is False else (name in asked), f"{flag} was not given"
        del kept[name]
    if others is None:
        assert plan_cluster(**kept).chosen is not None
        return
    if left:
        assert plan_cluster(**kept).chosen is None, "the rest is not needed"
    for way in others.split(" or "):
        flag, value = way.split()
        name = flag.removeprefix("--").replace("-", "_")
        changed = kept | {name: value if name == "gpu" else int(value)}
        assert plan_cluster(**changed).chosen is not None, way


def test_only_flags_that_were_given_are_to_be_left_out_and_a_plan_that_fits_has_no_way_out():
    asked = {"gpus": 2, "params": "7b", "gpu": "rtx3090", "shards": 1}
    assert plan_cluster(**asked).way_out == "leave --shards out, and --gpus 32 or --gpu a100-80g fits"
    asked = {"gpus": 8, "params": "7b", "replicas": 8}
    assert plan_cluster(**asked).way_out == "leave --replicas out"
    assert plan_cluster(gpus=8, params="7b").way_out is None


def test_where_no_number_of_gpus_is_enough_the_documents_name_a_program():
    assert "docs/scale.md" in plan_cluster(gpus=8, params="100t").way_out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus": 0, "params": "7b"}, "--gpus 0"),
        ({"gpus": 8}, "--params"),
        ({"gpus": 8, "params": "7b", "preset_name": "lecture"}, "--preset"),
        ({"gpus": 8, "params": "1k"}, "150,000"),
        ({"gpus": 8, "params": "7b", "shards": 3}, "give 2 or 4$"),
        ({"gpus": 8, "params": "7b", "shards": 16}, "give 8$"),
        ({"gpus": 4096, "params": "7b", "replicas": 0}, "give 1$"),
        ({"gpus": 4096, "params": "7b", "replicas": 100}, "give 64 or 128$"),
        ({"gpus": 8, "params": "7b", "shards": 2, "replicas": 2}, "leave one"),
        ({"gpus": 8, "params": "7b", "share": 40.0}, "--mfu 40"),
        ({"gpus": 8, "params": "7b", "share": 0.0}, "--mfu 0"),
        ({"gpus": 8, "preset_name": "none"}, "unknown"),
    ],
)
def test_contradictions_are_refused_with_the_flag(asked, said):
    with pytest.raises(ConfigError, match=said):
        plan_cluster(**asked)


def test_the_outline_and_the_json_have_the_numbers():
    plan = plan_cluster(gpus=8, params="7b", tokens="140b")
    text = outline(plan)
    for number in (f"{plan.model.n_parameters:,}", "140,000,000,000", f"{plan.loss_nats:.2f}"):
        assert number in text
    assert text.count("does not fit") == 2
    values = to_dict(plan)
    assert values["time_s"] == plan.seconds
    assert [each["bytes"] for each in values["layouts"]] == [each.memory.bytes for each in plan.layouts]
    for each in values["layouts"]:
        parts = sum(value for name, value in each.items() if name.endswith("_bytes"))
        assert parts == each["bytes"]


def test_where_nothing_fits_there_is_no_time_and_no_share_of_the_peak():
    plan = plan_cluster(gpus=8, params="100t")
    assert plan.chosen is None
    assert "time:" not in outline(plan)
    assert "MFU" not in outline(plan)
    values = to_dict(plan)
    assert [values[name] for name in ("mfu", "fused_mfu", "tokens_per_s", "time_s")] == [None] * 4


def test_constants_that_no_published_run_checks_are_named_with_the_gpu_that_they_are_of():
    said = {
        gpu: outline(plan_cluster(gpus=8, gpu=gpu, preset_name="gpt2-124m"))
        for gpu in ("h100", "b200", "l40s")
    }
    assert "as this trainer was measured on one H100)" in said["h100"]
    assert "constants of H100, not checked" in said["b200"]
    assert "constants of A100, not checked" in said["l40s"]
    assert not any("as this trainer was measured" in said[gpu] for gpu in ("b200", "l40s"))
