"""Published weights by name: gpt2 or owner/name in, a folder on this machine out, fetched once.

OpenAI's four releases come from OpenAI's server; a broken transfer is resumed and each file is checked. If
that server cannot be reached, and for owner/name, huggingface_hub fetches the copy on the Hugging Face hub.
"""

import os
import re
from pathlib import Path

from lucidlm.errors import DataError, FetchError, WeightsError
from lucidlm.runtime.fetch import NO_HOME, cache_folder, fetch
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.part_file import one_reason
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.tokenizer_files import TOKENIZER_FILES

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
PUBLISHED = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
"""Our names, and OpenAI's for the same models."""
FILES = {
    "hparams.json": (None, None),
    "encoder.json": (1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "checkpoint": (None, None),
    "model.ckpt.index": (None, None),
    # The index has the checksums of its tensors.
    "model.ckpt.data-00000-of-00001": (None, None),
}
"""Files of a release, with size and SHA-256 if all four releases have the same file."""
LARGEST = 8 << 30
"""Maximum size of a file in bytes: the weights of gpt2-xl have 6.2 GB."""
WHOLE = "complete"
"""A file in folders that are complete: they open without a network."""


def is_hub_name(name: str) -> bool:
    """Whether this is a name on the Hugging Face hub: owner/name, perhaps with @revision, and not a path."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name)) and not Path(name).exists()


def published_folder(name: str, *, progress: Progress = SILENT) -> Path:
    """The folder of one of OpenAI's releases, fetched on first use; WeightsError if that is impossible."""
    try:
        folder = cache_folder() / "openai" / PUBLISHED[name]
    except DataError as problem:
        raise WeightsError(f"{name}: {problem}") from None
    if (folder / WHOLE).exists():
        return folder
    try:
        for file, (size, sha256) in FILES.items():
            address = f"{OPENAI}/{PUBLISHED[name]}/{file}"
            fetch(address, folder, name=file, size=size, sha256=sha256, max_bytes=LARGEST, progress=progress)
        write_atomically(folder / WHOLE, "")
        return folder
    except FetchError as first:
        progress.note(f"{name}: OpenAI's release cannot be fetched ({first.problem}); trying the hub's copy")
        try:
            return _snapshot(f"openai-community/{name}", progress)
        except FetchError as second:
            raise WeightsError(
                f"{name}: neither OpenAI's release ({first.problem}) nor the hub's copy ({second.problem}) "
                f"can be fetched; connect to the network, or put the release's files into {folder}: "
                f"{', '.join(FILES)}"
            ) from None


def hub_folder(name: str, *, progress: Progress = SILENT) -> Path:
    """The folder of a model on the Hugging Face hub, safetensors and configs only, or a WeightsError."""
    try:
        return _snapshot(name, progress)
    except FetchError as problem:
        raise WeightsError(str(problem)) from None


def _snapshot(name: str, progress: Progress) -> Path:
    """What huggingface_hub has of a model, fetched on first use; FetchError if that is impossible."""
    _check_hub_cache(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
    try:
        found = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        problem = f"not in the cache, and the hub cannot be reached{offline}"
        raise FetchError(name, "offline", problem, "connect to the network, or give a folder") from None
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        problem = f"cannot be kept in {error.filename} ({error.strerror})"
        raise FetchError(name, "cache", problem, "set HF_HOME to a folder that can be written") from None
    except (HfHubHTTPError, ValueError, OSError) as error:
        advice = "check the name, and your access if the model is private"
        raise FetchError(name, "answer", f"the hub refuses it ({one_reason(error)[:200]})", advice) from None
    if not any(found.glob("*.safetensors")):
        advice = (
            f"name a revision that has them ({repository}@REVISION), or download the whole model into a "
            "folder: `lucidlm info FOLDER` says how to convert it"
        )
        problem = "the hub has no safetensors for it, and pickled weights are never read"
        raise FetchError(name, "pickle", problem, advice)
    # The folder's name is the commit, so that a later run can ask for the same one.
    progress.note(f"{name}: commit {found.name} of the hub's copy; {repository}@{found.name} pins it")
    return found


def _check_hub_cache(name: str) -> None:
    """WeightsError without a place for the hub's cache: its library would make a folder called ~."""
    chosen = any(os.environ.get(variable) for variable in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"))
    if not chosen and not os.path.isabs(os.path.expanduser("~")):
        raise WeightsError(f"{name}: {NO_HOME}")
