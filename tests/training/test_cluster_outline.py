"""The lines of a plan for many GPUs, and its record for JSON: the numbers of the plan, and no others."""

from lucidlm.training.cluster import plan_cluster
from lucidlm.training.cluster_outline import outline, to_dict


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
    assert "as this trainer was measured on one GPU)" in said["h100"]
    assert "constants of H100, not checked" in said["b200"]
    assert "constants of A100, not checked" in said["l40s"]
    assert not any("as this trainer was measured" in said[gpu] for gpu in ("b200", "l40s"))
