"""What fits where no layout does: each advice fits when it is followed, and leaves out only given flags."""

import re

import pytest

from lucidlm.training.cluster import plan_cluster
from lucidlm.training.cluster_outline import outline


@pytest.mark.parametrize(
    "asked",
    [
        {"gpus": 1, "params": "7b"},
        {"gpus": 4, "params": "7b", "gpu": "rtx4090"},
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
        {"gpus": 4, "params": "7b", "gpu": "rtx4090", "checkpointing": True},
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
    assert plan_cluster(**asked).way_out == "leave --shards out, and --gpus 8 or --gpu a100-80g fits"
    asked = {"gpus": 8, "params": "7b", "replicas": 8}
    assert plan_cluster(**asked).way_out == "leave --replicas out"
    assert plan_cluster(gpus=8, params="7b").way_out is None


def test_where_no_number_of_gpus_is_enough_the_documents_name_a_program():
    assert "docs/scale.md" in plan_cluster(gpus=8, params="100t").way_out
