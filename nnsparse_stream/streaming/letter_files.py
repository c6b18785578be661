"""Dead letters of a source: records that are no events, in files that a reader can mend them from."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming.events import Letter

#: The directory of the dead letters in the output.
DEAD_LETTERS = "_dead_letters"


def letters_path(partition: str, position: str) -> str:
    """Where the letters of what was read from a position on lie, relative to the output."""
    name = storage.sha256(json.dumps([partition, position]).encode())[:32]
    return storage.join(DEAD_LETTERS, f"{name}.jsonl")


def write_letters(output: str, partition: str, position: str, letters: Sequence[Letter]) -> str:
    """Writes the letters of one reading, a JSON object a line, under a name that comes of where it began.

    Who reads from the same position again writes the same file again: letters are neither lost nor twice there.

    Args:
        output: URL of the stream's output.
        partition, position: what was read, and from where on.
        letters: at least one.

    Returns:
        The file's URL.

    Raises:
        StoreError: it cannot be written.
    """
    url = storage.join(output, letters_path(partition, position))
    lines = [json.dumps(letter._asdict(), ensure_ascii=False) + "\n" for letter in letters]
    storage.write_file(url, "".join(lines).encode(errors="backslashreplace"))
    return url
