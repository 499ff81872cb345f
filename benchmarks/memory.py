"""A piece of work comes in; the most memory that it held beyond what was there before goes out: on Linux."""

from collections.abc import Callable


def peak_bytes() -> int:
    """The most bytes that this process has held; resource.getrusage would count its parent's too."""
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def growth_bytes(work: Callable[[], object]) -> int:
    """Bytes by which the peak during the work is above what was held before it."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak begins again
    before = peak_bytes()
    work()
    return peak_bytes() - before
