"""Keeps from standard error what Beam's worker processes say of their own start, whatever the log level."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator

# The processes log these before they hear of a level, and the second reaches the driver's log, too.
_NOISE = re.compile(rb"apitools not found|^INFO:__main__:|No semi_persistent_directory found")


@contextlib.contextmanager
def without_worker_noise() -> Iterator[None]:
    """Takes these lines out of what this process, and those that it starts meanwhile, write to standard error."""
    reading, writing = os.pipe()
    errors = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with open(reading, "rb") as lines, open(errors, "wb", buffering=0) as out:
            for line in lines:
                if not _NOISE.search(line):
                    out.write(line)

    passing = threading.Thread(target=pass_on, daemon=True)
    passing.start()
    kept = os.dup(errors)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        passing.join(timeout=5)  # until the last process that writes there has ended
