"""What preparing a large text costs: memory of each process, and speed beside the tokenizers library's own.

    python benchmarks/preparing.py                          0.5 GB of made-up documents
    python benchmarks/preparing.py --gigabytes 10 --check   `make torture-large`: fails over the limits

Several processes write the documents to .jsonl, .jsonl.gz and .jsonl.zst files. The library encodes some of
them in batches, on as many threads as the preparation has processes. It does nothing else: reading,
hashing, splitting, looking for copies and writing count against the preparation alone.
"""

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tables import machine, revision, table, write

from lucidlm.text.formats.packed import zstd
from lucidlm.text.tokenizer import Tokenizer

MOST_MIB = 300
LEAST_SHARE = 0.8
"""The limits: memory of a process, and speed as a share of the library's."""
FILE_MB = 100
SAMPLE_MB = 16
PREPARE = "import sys; from lucidlm.cli import main; sys.exit(main(sys.argv[1:]))"
LIBRARY = """
import json, sys, time
import tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
size = sum(len(text.encode()) for text in texts)
best = cheapest = 0.0
for _ in range(3):
    began, spent = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), 1000):
        tokenizer.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False)
    best = max(best, size / (time.perf_counter() - began))
    cheapest = max(cheapest, size / (time.process_time() - spent))
print(best / 1e6, cheapest / 1e6)
"""


def vocabulary() -> list[str]:
    """Made-up words, the most frequent first: those are short."""
    draw = random.Random(0)
    syllables = [a + b for a in ("", *"bcdfghklmnprstvw", "th", "sh", "st", "tr") for b in "aeiou"]
    words = {"".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3, 3, 4)))) for _ in range(60_000)}
    return sorted(words, key=lambda word: (len(word) + draw.random() * 4, word))


def documents(seed: int, size: int) -> Iterator[str]:
    """Documents of about 3 KB, together `size` bytes; words by Zipf's law, in sentences and paragraphs."""
    words, draw = vocabulary(), np.random.default_rng(seed)
    weights = 1 / (np.arange(len(words)) + 2.7) ** 1.05
    limits = np.cumsum(weights) / weights.sum()
    ends = np.array([0.01, 0.08, 0.16])
    written = [word + end for end in (".\n\n", ". ", ", ", " ") for word in words]
    while size > 0:
        chosen = np.searchsorted(limits, draw.random(400_000))
        chosen += len(words) * np.searchsorted(ends, draw.random(len(chosen)))
        start = 0
        while start < len(chosen) and size > 0:
            count = int(np.clip(draw.lognormal(5.8, 1.0), 5, 20_000))
            text = "".join([written[number] for number in chosen[start : start + count].tolist()])
            yield text
            size -= len(text)
            start += count


def write_file(folder: Path, number: int, size: int) -> Path:
    """A file of documents: of ten files one is packed by gzip, one by Zstandard."""
    packing = {3: ".gz", 6: ".zst"}.get(number % 10, "")
    path = folder / f"part-{number:04d}.jsonl{packing}"
    lines = (f"{json.dumps({'text': text})}\n" for text in documents(number, size))
    match packing:
        case ".gz":
            with gzip.open(path, "wt", 1, "utf-8") as file:
                file.writelines(lines)
        case ".zst":
            with zstd.open(path, "wt", encoding="utf-8") as file:
                file.writelines(lines)
        case _:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines)
    return path


def write_documents(folder: Path, gigabytes: float, workers: int) -> list[Path]:
    """All files."""
    count = max(1, round(gigabytes * 1e9 / (FILE_MB * 1e6)))
    size = int(gigabytes * 1e9 / count)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(write_file, [folder] * count, range(count), [size] * count))


def processes_of(first: int) -> Iterator[int]:
    """A process and those that it started, on Linux."""
    yield first
    try:
        threads = os.listdir(f"/proc/{first}/task")
        for thread in threads:
            for child in Path(f"/proc/{first}/task/{thread}/children").read_text("ascii").split():
                yield from processes_of(int(child))
    except OSError:  # it has ended
        return


def look(number: int, peaks: dict[int, int]) -> None:
    """Note the peak of a process so far; none of them may have loaded torch."""
    try:
        status = Path(f"/proc/{number}/status").read_text("ascii")
        peak = next((int(line.split()[1]) for line in status.split("\n") if line.startswith("VmHWM")), 0)
        peaks[number] = max(peaks.get(number, 0), 1024 * peak)
        if "libtorch" in Path(f"/proc/{number}/maps").read_text("utf-8"):
            raise SystemExit(f"process {number} has loaded torch")
    except OSError:  # it has ended
        pass


def prepare(files: list[Path], out: Path, workers: int, tokenizer: str) -> tuple[float, float, list[int]]:
    """Seconds, seconds of CPU, and the peak bytes of each process, that of the command first."""
    command = [sys.executable, "-c", PREPARE, "prepare", *map(str, files), "--out", str(out)]
    command += ["--workers", str(workers), "--tokenizer", tokenizer]
    began, spent, peaks = time.perf_counter(), cpu_seconds(), dict[int, int]()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            for number in processes_of(running.pid):
                look(number, peaks)
            time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"preparing ended with code {running.returncode}")
    seconds = time.perf_counter() - began
    return seconds, cpu_seconds() - spent, [peaks.pop(running.pid), *peaks.values()]


def cpu_seconds() -> float:
    """Seconds of CPU of the processes that were started here and have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def library_speed(tokenizer: Path, sample: Path, threads: int) -> tuple[float, float]:
    """MB/s of the tokenizers library on some documents, the best of three; and MB for a second of CPU."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", LIBRARY, str(tokenizer), str(sample)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    best, cheapest = map(float, done.stdout.split())
    return best, cheapest


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--folder", type=Path, help="where the documents and the tokens go; it is deleted")
    parser.add_argument("--check", action="store_true", help="fail where a limit is not kept")
    parser.add_argument("--results", type=Path, help="write docs/numbers.md, and the results in this folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="preparing-", dir=arguments.folder))
    try:
        files = write_documents(folder, arguments.gigabytes, arguments.workers)
        sample = folder / "sample"
        sample.write_text(
            "".join(json.dumps({"text": each}) + "\n" for each in documents(0, SAMPLE_MB * 10**6))
        )
        (folder / "tokenizer").mkdir()
        speeds = []
        if arguments.tokenizer == "gpt2":
            Tokenizer.gpt2().save(folder / "tokenizer")
            speeds.append(library_speed(folder / "tokenizer" / "tokenizer.json", sample, arguments.workers))
        seconds, spent, peaks = prepare(files, folder / "out", arguments.workers, arguments.tokenizer)
        speeds.append(library_speed(folder / "out" / "tokenizer.json", sample, arguments.workers))
        described = json.loads((folder / "out" / "manifest.json").read_text("utf-8"))
        size = described["train"]["bytes"] + described["validation"]["bytes"]
    finally:
        shutil.rmtree(folder)
    speed, (library, library_cpu) = size / seconds / 1e6, map(max, zip(*speeds))
    results = {
        "bytes": size,
        "documents": described["train"]["documents"] + described["validation"]["documents"],
        "tokens": described["train"]["tokens"] + described["validation"]["tokens"],
        "files": len(files),
        "workers": arguments.workers,
        "tokenizer": arguments.tokenizer,
        "seconds": seconds,
        "peaks": peaks,
        "speed": speed,
        "library": library,
        "cpu_speed": size / spent / 1e6,
        "library_cpu_speed": library_cpu,
        "shards": len(described["train"].get("shards", [0])),
    }
    text = told(results)
    print(text)
    if arguments.results:
        write(
            "preparing", results, f"{machine()}. Revision {revision()}.\n\n{text}", folder=arguments.results
        )
    if arguments.check:
        assert max(peaks) < MOST_MIB << 20, f"a process held {max(peaks) >> 20} MiB, the limit is {MOST_MIB}"
        assert speed >= LEAST_SHARE * library, f"{speed:.1f} MB/s, the library alone {library:.1f}"


def told(results: dict) -> str:
    """The results as a table."""
    command, *others = (f"{peak >> 20} MiB" for peak in results["peaks"])
    rows = [
        ["text, as UTF-8", f"{results['bytes'] / 1e9:.2f} GB in {results['files']} files"],
        [
            "documents; tokens",
            f"{results['documents']:,}; {results['tokens']:,} in {results['shards']} file(s)",
        ],
        ["time", f"{results['seconds']:.0f} s"],
        ["peak memory: the command; each process that it started", f"{command}; {', '.join(others)}"],
        ["speed of all of it", f"{results['speed']:.1f} MB/s"],
        ["speed of the tokenizers library, encoding alone", f"{results['library']:.1f} MB/s"],
        ["share", f"{results['speed'] / results['library']:.0%}"],
        [
            "for a second of CPU: all of it; the library",
            f"{results['cpu_speed']:.1f} MB; {results['library_cpu_speed']:.1f} MB",
        ],
    ]
    return table([f"`prepare --workers {results['workers']} --tokenizer {results['tokenizer']}`", ""], rows)


if __name__ == "__main__":
    main()
