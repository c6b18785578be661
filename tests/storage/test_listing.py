"""Listings with times: local, in memory and on S3."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import listing
from nnsparse_stream.storage.listing import written_files


def test_a_local_directory(tmp_path: Path) -> None:
    for name in ("a", "below/b", ".hidden", "_below/c", "d.tmp"):
        storage.write_file(str(tmp_path / name), b"x")
        os.utime(tmp_path / name, (1_700_000_000, 1_700_000_000.25))
    assert written_files(str(tmp_path)) == {"a": 1_700_000_000_250_000, "below/b": 1_700_000_000_250_000}
    with pytest.raises(InputError, match="is a file where a directory is meant"):
        written_files(str(tmp_path / "a"))
    with pytest.raises(InputError, match="no such file"):
        written_files(str(tmp_path / "nowhere"))


def test_memory_and_s3(s3: str) -> None:
    for url in ("memory://listed/files", f"{s3}/files"):
        assert written_files(url) == {} or url.startswith("memory")
        before = time.time()
        storage.write_file(f"{url}/a", b"x")
        (written,) = written_files(url).items()
        assert written[0] == "a"
        assert before - 2 <= written[1] / 1e6 <= time.time() + 2


@pytest.mark.parametrize(
    "entry",
    [{"updated": "2023-11-14T22:13:20.5Z"}, {"modificationTime": 1_700_000_000_500}, {"mtime": 1_700_000_000.5}],
)
def test_what_stores_call_it(entry: dict[str, object]) -> None:
    assert listing._time("url", entry) == 1_700_000_000_500_000


def test_a_store_that_does_not_tell() -> None:
    with pytest.raises(InputError, match="its store does not tell when files were written"):
        listing._time("url", {"size": 3, "mtime": None})
