"""What is free is the least of what machine and limits leave; an allocation that fails is one line."""

import errno
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.runtime import memory
from lucidlm.runtime.memory import check_weights, free_memory, is_out_of_memory, size

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is free")
GIB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """system(path=text): a /proc and a /sys/fs/cgroup of one's own, of a process without limits."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(
        resource, "getrlimit", lambda number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    write(
        {
            "proc/meminfo": f"MemAvailable: {8 * 2**20} kB\nSwapFree: {2**20} kB\n",
            "proc/self/status": f"Name:\tpython\nVmSize:\t{3 * 2**20} kB\nVmData:\t{2**20} kB\n",
            "proc/self/cgroup": "0::/service/job\n",
        }
    )
    return write


@LINUX
def test_without_limits_it_is_what_the_machine_has_with_its_swap(system):
    assert free_memory() == memory.Free(9 * GIB, "this machine")


@LINUX
@pytest.mark.parametrize(("number", "left"), [(resource.RLIMIT_AS, 2), (resource.RLIMIT_DATA, 4)])
def test_limits_of_the_process_leave_what_it_does_not_hold_yet(system, monkeypatch, number, left):
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (5 * GIB if asked == number else -1, -1))
    assert free_memory().bytes == left * GIB


@LINUX
def test_the_narrowest_group_of_version_2_counts_and_its_idle_file_pages_do_not(system):
    group = {"memory.max": "max", "memory.current": str(9 * GIB), "memory.stat": f"inactive_file {GIB}\n"}
    above = {
        "memory.max": str(4 * GIB),
        "memory.current": str(3 * GIB),
        "memory.stat": f"inactive_file {GIB}\n",
    }
    system({f"cgroup/service/job/{name}": text for name, text in group.items()})
    system({f"cgroup/service/{name}": text for name, text in above.items()})
    assert free_memory().bytes == 2 * GIB
    system({"cgroup/service/memory.swap.max": str(GIB), "cgroup/service/memory.swap.current": str(GIB // 2)})
    assert free_memory().bytes == 2 * GIB + GIB // 2


@LINUX
@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_a_group_of_version_1_counts_also_where_only_the_root_is_seen(system, path):
    system({"proc/self/cgroup": f"11:cpuset:/\n4:memory:{path}\n"})
    group = {"limit_in_bytes": str(3 * GIB), "usage_in_bytes": str(GIB), "stat": "total_inactive_file 0\n"}
    system({f"cgroup/memory/memory.{name}": text for name, text in group.items()})
    assert free_memory().bytes == 2 * GIB
    system({"cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert free_memory().bytes == 9 * GIB


@LINUX
def test_files_that_are_missing_or_odd_are_no_limit(system, tmp_path):
    system({"cgroup/service/memory.max": "much", "proc/self/cgroup": "nonsense", "proc/self/status": ""})
    assert free_memory().bytes == 9 * GIB
    (tmp_path / "proc" / "meminfo").unlink()
    assert free_memory() is None


def _of(work):
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def test_failed_allocations_of_each_library_are_known_and_other_errors_are_not():
    failed = [_of(lambda: torch.empty(1 << 60, dtype=torch.uint8)), _of(lambda: np.empty(1 << 60, np.uint8))]
    failed += [
        _of(lambda: bytearray(1 << 60)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    ]
    failed += [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't start new thread")]
    failed += [ImportError("libtorch.so: failed to map segment from shared object")]
    wrapped = WeightsError("cannot be read")
    wrapped.__cause__ = MemoryError()
    assert all(map(is_out_of_memory, [*failed, wrapped]))
    others = [_of(lambda: torch.ones(2) @ torch.ones(3)), OSError(errno.ENOSPC, "No space left on device")]
    assert not any(map(is_out_of_memory, [*others, ValueError("out of memory"), WeightsError("no"), None]))


def test_weights_that_cannot_fit_are_refused_before_one_is_read(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: memory.Free(GIB, "this machine"))
    check_weights("small", GIB // 4, torch.float32, "cpu")
    check_weights("huge", 1 << 60, torch.float32, "meta")
    with pytest.raises(ConfigError, match=r"huge: 1,073,741,824 .*bfloat16 .*2\.1 GB .*1\.1 GB"):
        check_weights("huge", GIB, torch.bfloat16, "cpu")
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    check_weights("huge", 1 << 60, torch.float32, "cpu")


@pytest.mark.parametrize(("count", "text"), [(0, "0 MB"), (98_000_000, "98 MB"), (15_480_000_000, "15.5 GB")])
def test_sizes_are_in_gigabytes_or_megabytes(count, text):
    assert size(count) == text


@LINUX
@pytest.mark.torture
def test_a_preset_beyond_the_limit_is_one_line_and_what_it_advises_fits(tmp_path):
    (tmp_path / "x.txt").write_text("the river ran past the house and nobody knew why\n" * 400)

    def train(*flags):
        limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9,) * 2); "
        program = limit + "import sys; from lucidlm.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "train", "x.txt", "--steps", "1", "--device", "cpu"]
        return subprocess.run(
            [*command, "--threads", "1", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    refused = train("--preset", "gpt2-774m", "--out", "large")
    assert refused.returncode == 2, refused.stderr
    line = refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "large").exists()
    advice = line.rpartition("; ")[2].removesuffix(" fits").split()
    assert advice[0] == "--preset"
    followed = train(*advice, "--out", "small", "--context-length", "64", "--batch-tokens", "64")
    assert followed.returncode == 0, followed.stderr
