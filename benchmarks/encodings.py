"""How often the encoding of a short text is found: samples of the tests, cut at several lengths.

python benchmarks/encodings.py: for lucidlm and for charset-normalizer, of how many samples the first answer
gives the text that was written, and the time of one answer.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lucidlm.text.formats.guesses import likely_encodings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from language_samples import SAMPLES

LENGTHS = (15, 30, 60, 500)


def ours(data: bytes) -> str | None:
    return next(iter(likely_encodings(data)), None)


def charset_normalizer(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    return best.encoding if best else None


def right(find: Callable[[bytes], str | None]) -> tuple[int, int, float]:
    """Samples whose text comes out, all samples, and seconds for one."""
    found = count = 0
    started = time.perf_counter()
    for text, encodings in SAMPLES.values():
        for encoding in encodings:
            for length in LENGTHS:
                data = text[:length].encode(encoding)
                if data.isascii() and not encoding.startswith("iso2022"):
                    continue
                count += 1
                answer = find(data)
                found += answer is not None and data.decode(answer, "replace") == text[:length]
    return found, count, (time.perf_counter() - started) / count


if __name__ == "__main__":
    for name, find in (("lucidlm", ours), ("charset-normalizer", charset_normalizer)):
        found, count, seconds = right(find)
        print(f"{name}: {found} of {count}, {seconds * 1000:.1f} ms each")
