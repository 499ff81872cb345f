"""What bringing a model in costs: time, and peak memory against the size of its weights.

python benchmarks/importing.py [FOLDER ...]: these; none: random checkpoints of 1.5B parameters, made first
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lucidlm.model.gpt import GPT
from lucidlm.model.presets import preset
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.names import to_huggingface
from lucidlm.weights.tensor_files import INDEX, write_tensors

IMPORT = "import sys; from lucidlm.cli import main; sys.exit(main(sys.argv[1:]))"


def one_file(folder: Path) -> None:
    """gpt2-1558m in float32."""
    save_model(GPT(preset("gpt2-1558m").shape), Tokenizer.gpt2(), folder)


def several_files(folder: Path) -> None:
    """The modern ladder's 1.5B as a Llama in bfloat16, 24 tensors a file."""
    model = GPT(preset("modern-1.5b").shape.changed(qk_norm=False)).bfloat16()
    save_model(model, Tokenizer.gpt2(), folder)
    tensors = list(to_huggingface(model.state_dict(), model.config).items())
    places = {}
    for number, start in enumerate(range(0, len(tensors), 24)):
        shard = f"model-{number:05d}.safetensors"
        write_tensors(folder / shard, dict(tensors[start : start + 24]))
        places |= {name: shard for name, _ in tensors[start : start + 24]}
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def measure(folder: Path) -> None:
    files = (*folder.glob("*.safetensors"), *folder.glob("*.data-*"))
    size = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        began = time.perf_counter()
        command = [sys.executable, "-c", IMPORT, "import", str(folder), "--out", f"{out}/model"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        assert status == 0, f"{folder} could not be imported"
    peak = used.ru_maxrss * 1024
    print(
        f"{folder.name:<14} {len(files):>2} file(s), {size / 1e9:.2f} GB: {seconds:.0f} s, "
        f"peak {peak / 1e9:.2f} GB, {peak / size:.2f} times the weights",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) > 1:
        for folder in sys.argv[1:]:
            measure(Path(folder))
        return
    for make in (one_file, several_files):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / make.__name__
            torch.manual_seed(1)
            # In a process of its own: a child starts with the peak of the process that it was forked from.
            child = os.fork()
            if child == 0:
                make(folder)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, f"{make.__name__} could not be made"
            measure(folder)


if __name__ == "__main__":
    main()
