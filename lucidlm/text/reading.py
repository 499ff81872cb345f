"""The options of reading come in, one value that every reader takes goes out."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: the same for every verb, so that a text always has the same loss."""

    encoding: str = "utf-8"
    """Encoding of the texts."""
    field: str = "text"
    """Field with the text in .jsonl and .json files; column in .csv, .tsv and .parquet files."""
    raw: bool = False
    """Keep Project Gutenberg's header and footer."""

    def to_dict(self) -> dict[str, str | bool]:
        """The keys in manifests."""
        return asdict(self)


READING = Reading()
"""The defaults."""
