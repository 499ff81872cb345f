"""Layouts over GPUs: their memory is that of a training, and the largest micro-batch is the largest."""

import pytest

from lucidlm.errors import ConfigError
from lucidlm.model.presets import preset
from lucidlm.training.footprint import memory_on_a_gpu, training_bytes
from lucidlm.training.gpus import gpu_named
from lucidlm.training.layouts import LayoutFlags, default_layout, layouts_for
from lucidlm.training.sizes import shape_of

H100, GPT2, SEVEN_B = gpu_named("h100"), preset("gpt2-124m").shape, shape_of(7_000_000_000)


def test_the_memory_of_one_gpu_is_what_training_checks_against():
    for layout in layouts_for(GPT2, H100, 1, LayoutFlags()):
        expected = training_bytes(
            GPT2, "adamw", micro_batch=1, batch_size=2, device="cuda", dtype="bfloat16",
            checkpointing=layout.checkpointing,
        )  # fmt: skip
        assert layout.memory.bytes == expected
        assert layout.memory.weights + layout.memory.gradients + layout.memory.moments == (
            16 * GPT2.n_parameters
        )


def test_the_most_windows_fit_and_one_more_does_not():
    model, gpu = shape_of(1_500_000_000), gpu_named("a100-40g")
    for layout in layouts_for(model, gpu, 8, LayoutFlags()):
        for windows, fits in ((layout.windows, True), (layout.windows + 1, False)):
            memory = memory_on_a_gpu(
                model, "adamw", tokens=windows * model.context_length,
                checkpointing=layout.checkpointing, shards=layout.shards,
            )  # fmt: skip
            assert (memory.bytes <= gpu.usable_bytes) is fits


def test_without_flags_there_are_ddp_the_choice_of_train_and_fsdp2():
    layouts = layouts_for(SEVEN_B, H100, 8, LayoutFlags())
    divisions = [(layout.replicas, layout.shards, layout.checkpointing) for layout in layouts]
    assert divisions == [(r, s, again) for again in (False, True) for r, s in ((8, 1), (2, 4), (1, 8))]
    assert [bool(layout.windows) for layout in layouts] == [False, True, True] * 2
    assert layouts[1].flags == "--replicas 2 --shards 4"
    assert layouts[5].flags == "--replicas 1 --shards 8 --checkpointing"
    assert [layout.name for layout in layouts[::3]] == ["DDP", "DDP, checkpointing"]


def test_train_divides_a_model_only_where_a_gpu_has_no_room_for_it():
    assert default_layout(GPT2, H100, 8, LayoutFlags()) == (8, 1)
    assert default_layout(SEVEN_B, H100, 8, LayoutFlags()) == (2, 4)
    assert default_layout(SEVEN_B, H100, 8, LayoutFlags(shards=8)) == (1, 8)


@pytest.mark.parametrize(
    ("gpus", "flags", "said"),
    [
        (8, LayoutFlags(shards=3), "give 2 or 4$"),
        (8, LayoutFlags(shards=16), "give 8$"),
        (4096, LayoutFlags(replicas=0), "give 1$"),
        (4096, LayoutFlags(replicas=100), "give 64 or 128$"),
        (8, LayoutFlags(replicas=2, shards=2), "leave one"),
    ],
)
def test_flags_that_do_not_divide_the_gpus_are_refused_with_what_does(gpus, flags, said):
    with pytest.raises(ConfigError, match=said):
        layouts_for(SEVEN_B, H100, gpus, flags)
