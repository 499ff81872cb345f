"""Published weights by their names: gpt2 or owner/name in, a folder on this machine out, fetched once.

OpenAI's four releases come from OpenAI, each file resumed where it broke off and checked; where that host
cannot be reached, and for owner/name, the copy on the Hugging Face hub is taken. Nothing is fetched unasked.
"""

import os
import re
from pathlib import Path

from lucidlm.errors import DataError, WeightsError
from lucidlm.runtime.download import cache_folder, download, home_folder
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import Progress
from lucidlm.text.tokenizer_files import TOKENIZER_FILES

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/models"
PUBLISHED = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
"""Names and OpenAI's own for them."""
FILES = {
    "hparams.json": (None, None),
    "encoder.json": (1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": (456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "checkpoint": (None, None),
    "model.ckpt.index": (None, None),
    # Its tensors' checksums stand in the index.
    "model.ckpt.data-00000-of-00001": (None, None),
}
"""Files of a release, with size and SHA-256 where they are the same in all four."""
LARGEST = 8 << 30
WHOLE = "complete"
"""Stands in a folder whose files are all there: it opens without a network."""


def is_hub_name(name: str) -> bool:
    """Whether a name is one of the hub's: owner/name, with @revision or without."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name)) and not Path(name).exists()


def published_folder(name: str, *, progress: Progress) -> Path:
    """The folder of one of OpenAI's releases, fetched if it is not here yet, or a WeightsError."""
    try:
        folder = cache_folder() / "openai" / PUBLISHED[name]
    except DataError as problem:
        raise WeightsError(f"{name}: {problem}") from None
    if (folder / WHOLE).exists():
        return folder
    try:
        for file, (size, sha256) in FILES.items():
            download(
                f"{OPENAI}/{PUBLISHED[name]}/{file}",
                folder,
                name=file,
                size=size,
                sha256=sha256,
                max_bytes=LARGEST,
                progress=progress,
            )
        write_atomically(folder / WHOLE, "")
        return folder
    except DataError as error:
        problem = str(error).partition("; ")[0]  # what comes behind it is advice for one file alone
        progress.note(f"{name}: OpenAI's release cannot be fetched ({problem}); trying the hub's copy")
        try:
            return hub_folder(f"openai-community/{name}", progress=progress)
        except WeightsError as second:
            raise WeightsError(
                f"{name}: neither OpenAI's release ({problem}) nor the hub's copy "
                f"({str(second).partition('; ')[0]}) can be fetched; connect to the network, or put the "
                f"release's files into {folder}: {', '.join(FILES)}"
            ) from None


def hub_folder(name: str, *, progress: Progress) -> Path:
    """The folder of a model on the Hugging Face hub, safetensors and configs alone, or a WeightsError."""
    _check_hub_cache(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    wanted = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
    try:
        found = Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except LocalEntryNotFoundError:
        offline = ", as HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise WeightsError(
            f"{name}: not in the cache, and the hub cannot be reached{offline}; connect to the network, or "
            "give a folder"
        ) from None
    except (PermissionError, NotADirectoryError, FileExistsError) as problem:
        raise WeightsError(
            f"{name}: cannot be kept in {problem.filename} ({problem.strerror}); set HF_HOME to a "
            "folder that can be written"
        ) from None
    except (HfHubHTTPError, ValueError, OSError) as problem:
        raise WeightsError(f"{name}: the hub does not give it ({_first_line(problem)})") from None
    if not any(found.glob("*.safetensors")):
        raise WeightsError(
            f"{name}: the hub has no safetensors of it, and pickled weights are never read; name a revision "
            f"that has some ({repository}@REVISION), or download all of it into a folder: `lucidlm info "
            "FOLDER` says how to convert it"
        )
    # The folder's name is the commit: the next run can ask for this very one.
    progress.note(f"{name}: commit {found.name} of the hub's copy; {repository}@{found.name} pins it")
    return found


def _check_hub_cache(name: str) -> None:
    """WeightsError where the hub's library has no place: it would make a folder that is called ~."""
    if not any(os.environ.get(variable) for variable in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")):
        try:
            home_folder()
        except DataError as problem:
            raise WeightsError(f"{name}: {problem}") from None


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
