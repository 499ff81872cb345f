"""Names of devices and dtypes give these or are refused, and a seed is the same everywhere."""

import pytest
import torch

from lucidlm.errors import ConfigError
from lucidlm.runtime.device import choose_device, dtype_name, dtype_of, seed_from


def test_names_of_devices_are_checked():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda")
    for name in ("gpu", "CPU", ""):
        with pytest.raises(ConfigError, match=f"--device {name}:"):
            choose_device(name)


@pytest.mark.parametrize(("kind", "available"), [("cuda", "torch.cuda"), ("mps", "torch.backends.mps")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, kind, available):
    monkeypatch.setattr(f"{available}.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"--device {kind}:"):
        choose_device(kind)


def test_dtypes_go_by_their_names():
    assert dtype_name(dtype_of("bfloat16")) == "bfloat16"
    with pytest.raises(ConfigError, match=r"--dtype float16:.* float32 or bfloat16"):
        dtype_of("float16")


def test_a_seed_depends_on_each_part_and_on_nothing_else():
    seeds = [seed_from(1, "dropout", step) for step in range(50)] + [seed_from(2, "dropout", 0)]
    assert len(set(seeds)) == 51
    assert all(0 <= seed < 2**63 for seed in seeds)
