"""A plan for many GPUs: what is asked for is kept, loss and time are as computed by hand."""

import pytest

from lucidlm.errors import ConfigError
from lucidlm.training.cluster import chinchilla_loss, plan_cluster


def test_the_loss_is_hoffmanns():
    # Chinchilla itself: 70 billion weights, 1.4 trillion tokens; Hoffmann 2022, 3.3 and appendix D.3.
    assert chinchilla_loss(70 * 10**9, 1_400 * 10**9) == pytest.approx(1.69 + 0.083 + 0.163, abs=0.001)
    assert plan_cluster(gpus=1, params="1m").loss_nats is None
    plan = plan_cluster(gpus=8, params="7b", tokens="140b")
    assert plan.loss_nats == pytest.approx(1.69 + 0.182 + 0.307, abs=0.005)
    assert plan.tokens_per_parameter == pytest.approx(20, rel=0.02)


def test_the_default_of_train_is_chosen_where_it_fits():
    small = plan_cluster(gpus=8, preset_name="gpt2-124m").chosen
    assert (small.replicas, small.shards, small.checkpointing) == (8, 1, False)
    large = plan_cluster(gpus=8, params="7b", tokens="140b")
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
    ("asked", "said"),
    [
        ({"gpus": 0, "params": "7b"}, "--gpus 0"),
        ({"gpus": 8}, "--params"),
        ({"gpus": 8, "params": "7b", "preset_name": "lecture"}, "--preset"),
        ({"gpus": 8, "params": "1k"}, "150,000"),
        ({"gpus": 8, "params": "7b", "shards": 3}, "--shards 3"),
        ({"gpus": 8, "params": "7b", "share": 40.0}, "--mfu 40"),
        ({"gpus": 8, "params": "7b", "share": 0.0}, "--mfu 0"),
        ({"gpus": 8, "preset_name": "none"}, "unknown"),
    ],
)
def test_contradictions_are_refused_with_the_flag(asked, said):
    with pytest.raises(ConfigError, match=said):
        plan_cluster(**asked)
