"""docs/scale.md and its files: their syntax is right, and the parser takes each lucidlm line in them."""

import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lucidlm.cli import app
from lucidlm.runs.settings import TrainConfig
from lucidlm.training.cluster import plan_cluster
from lucidlm.training.cluster_outline import outline
from lucidlm.training.gpus import ATTENTION, GPUS, MATMUL, TRAFFIC

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")
SCRIPTS = sorted([*(DOCS / "scale").glob("*.sh"), *(DOCS / "scale").glob("*.sbatch")])
TASKS = sorted((DOCS / "scale").glob("*.yaml"))
# SkyPilot's YAML reference, docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK_KEYS = {
    "name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts", "setup", "run",
    "config", "service",
}  # fmt: skip
RESOURCE_KEYS = {
    "infra", "cloud", "region", "zone", "accelerators", "accelerator_args", "cpus", "memory", "instance_type",
    "use_spot", "disk_size", "disk_tier", "network_tier", "max_hourly_cost", "image_id", "ports", "labels",
    "autostop", "any_of", "ordered", "job_recovery",
}  # fmt: skip
SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue",
    "open-mode",
}  # fmt: skip


def shell_of(path: Path) -> str:
    """The commands of a file."""
    if path.suffix != ".yaml":
        return path.read_text(encoding="utf-8")
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    return f"{task['setup']}\n{task['run']}"


def commands_in(text: str) -> list[list[str]]:
    """The arguments of each `lucidlm VERB ...` and `torchrun ... -m lucidlm VERB ...` in a text."""
    found = []
    if layout := re.search(r"^ *LAYOUT=\((.*?)\)", text, re.MULTILINE):
        text = text.replace('"${LAYOUT[@]}"', layout[1])
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" #")[0])
        starts = [n for n, word in enumerate(words) if word == "lucidlm" and (n == 0 or words[n - 1] == "-m")]
        found += [words[start + 1 :] for start in starts]
    return found


def examples() -> str:
    """The lines of the page's blocks of code that are commands."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return "\n".join(line for line in lines if line.startswith(("lucidlm", "torchrun")))


SOURCES = {path.name: shell_of(path) for path in (*SCRIPTS, *TASKS)} | {"scale.md": examples()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_bash_reads_each_file(name):
    done = subprocess.run(
        ["bash", "-n"], input=SOURCES[name], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_each_lucidlm_line_is_taken_by_the_parser(name, monkeypatch):
    monkeypatch.setattr(app, "config", ())
    commands = commands_in(SOURCES[name])
    assert {words[0] for words in commands} >= {"train"}
    for words in commands:
        verb, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert verb.__name__ == words[0]
        settings = bound.arguments.get("settings", TrainConfig())
        if words[0] == "train":
            assert settings.out is not None  # under torchrun a run must be found again
            assert bound.arguments.get("resume", False) is not bool(bound.arguments.get("texts"))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_a_task_has_only_keys_that_skypilot_knows(path):
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert task.keys() <= TASK_KEYS
    assert task["resources"].keys() <= RESOURCE_KEYS
    assert task["resources"]["use_spot"] is True
    assert "--max-restarts" in task["run"]
    assert "--resume" in task["run"]
    mounted = (*task.get("volumes", {}), *task.get("file_mounts", {}))
    assert all(task["envs"][name].startswith(mounted) for name in ("TEXT", "RUN"))
    used = set(re.findall(r"\$\{?([A-Z_]+)", task["run"]))
    assert {name for name in used if not name.startswith("SKYPILOT_")} <= task["envs"].keys() | {
        "HEAD",
        "LAUNCH",
        "LAYOUT",
    }
    assert task["workdir"] == "."  # of which setup installs the program
    assert task["setup"].strip() == "pip install ."


def test_slurm_gets_options_that_it_has():
    for path in SCRIPTS:
        options = re.findall(r"^#SBATCH --([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(options) <= SBATCH
        assert bool(options) is (path.suffix == ".sbatch")


def test_a_step_of_each_file_has_a_window_for_each_gpu():
    gpus = {"one_gpu.sh": 1, "eight_gpus.sh": 8, "nodes.sbatch": 32, "preemptible.yaml": 16}
    for path in (*SCRIPTS, *TASKS):
        (words,) = [each for each in commands_in(shell_of(path)) if "--batch-tokens" in each]
        asked = {flag: value for flag, value in itertools.pairwise(words) if flag.startswith("--")}
        windows = int(asked["--batch-tokens"]) / 1024
        assert windows % gpus[path.name] == 0
        shards = int(asked.get("--shards", 1))
        # Without --replicas there are as many as the GPUs have room for.
        replicas = int(asked.get("--replicas", gpus[path.name] // shards))
        assert replicas * shards == gpus[path.name]


@pytest.mark.parametrize("path", [*SCRIPTS, *TASKS], ids=lambda path: path.name)
def test_a_run_is_resumed_with_the_layout_that_it_was_started_with(path):
    """run.toml does not have it: without the flags, a resumed run would take another one."""
    first, second = (words for words in commands_in(shell_of(path)) if words[0] == "train")
    layouts = [
        {
            flag: value
            for flag, value in itertools.pairwise([*words, ""])
            if flag in ("--replicas", "--shards")
        }
        for words in (first, second)
    ]
    assert layouts[0] == layouts[1]
    assert bool(layouts[0]) is (path.name != "one_gpu.sh")
    assert ("--resume" in first) is not ("--resume" in second)


def test_the_page_shows_what_the_command_says():
    said = outline(plan_cluster(gpus=8, gpu="h100", params="7b", tokens="140b")).splitlines()
    shown = PAGE.partition("$ lucidlm plan --gpus 8")[2].partition("\n```")[0].splitlines()[1:-1]
    assert len(shown) > 5
    assert shown == said[: len(shown)]


def test_the_page_has_the_table_of_gpus_and_the_constants():
    for gpu in GPUS.values():
        row = f"| {gpu.name} | {gpu.tflops:,g} | {gpu.gigabytes:g} | {gpu.gb_per_s:,g} | {gpu.source} |"
        assert row in PAGE
    for value in (*MATMUL.values(), *ATTENTION.values(), *TRAFFIC.values()):
        assert re.search(rf"(?<![\d.]){re.escape(f'{value:g}')}0?(?![\d])", PAGE), value
