"""A vocabulary in a file: the answers of one in memory, in bounded private memory, shared by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids import id_index
from nnsparse_stream.ids import mapped_lookup as lookup
from nnsparse_stream.ids.mapped_lookup import open_vocabulary, read_lookup, write_lookup
from nnsparse_stream.ids.vocabulary import Vocabulary, columns_table, to_parquet
from nnsparse_stream.storage.files import sha256

INTEGERS = st.one_of(st.integers(-5, 40), st.integers(-(2**63), 2**63 - 1))
IDS = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(INTEGERS, unique=True), st.lists(INTEGERS)),
    st.tuples(st.just(pa.string()), st.lists(st.text(max_size=5), unique=True), st.lists(st.text(max_size=5))),
)


def cut(ids: pa.Array, size: int) -> Iterator[pa.Table]:
    """Parts of a vocabulary; one at least."""
    for first in range(0, max(len(ids), 1), size):
        part = ids.slice(first, size)
        yield columns_table(part, pa.array(np.arange(first, first + len(part)) * 3), first)


def write_parts(where: Path, ids: pa.Array, size: int) -> tuple[list[str], list[str]]:
    """URLs and checksums."""
    urls, checksums = [], []
    for part, table in enumerate(cut(ids, size)):
        data = to_parquet(table)
        (where / str(part)).write_bytes(data)
        urls.append(str(where / str(part)))
        checksums.append(sha256(data))
    return urls, checksums


@given(IDS, st.integers(1, 7), st.sampled_from([1, 1 << 10]))
@settings(deadline=None)  # it writes files
def test_it_answers_as_a_vocabulary_in_memory(case: tuple, size: int, small: int) -> None:
    kind, ids, others = case
    held = pa.array(ids, type=kind)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as where:
        patch.setattr(lookup, "_BITS", 2)
        patch.setattr(id_index, "_SMALL_RANGE", small)
        memory = Vocabulary.from_table(pa.concat_tables(cut(held, size)))
        write_lookup(f"{where}/file", cut(held, size))
        mapped = read_lookup(f"{where}/file")
        assert os.listdir(where) == ["file"]
    assert (len(mapped), mapped.id_type) == (len(memory), memory.id_type)
    assert mapped.hashes.tolist() == memory.hashes.tolist()
    assert mapped.to_table().equals(memory.to_table())
    wanted = pa.array(ids + others, type=kind)
    assert mapped.encode(wanted).tolist() == memory.encode(wanted).tolist()
    indices = np.arange(len(ids))[::-1]
    assert mapped.decode(indices).equals(memory.decode(indices))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([([1, 2], 0), ([3], 3)], "indices are not 0, 1, 2"),
        ([([1, 2], 0), (["3"], 2)], "integers and strings"),
        ([([1, 2], 0), ([1], 2)], "an id twice"),
        ([([1, 2], 0), ([2**60, 1], 2)], "an id twice"),
        ([(["a", "b"], 0), (["a"], 2)], "an id twice"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, parts: list, message: str) -> None:
    tables = [columns_table(pa.array(ids), pa.array([1] * len(ids)), first) for ids, first in parts]
    with pytest.raises(InputError, match=message):
        write_lookup(str(tmp_path / "file"), tables)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_not_whole_is_not_read(tmp_path: Path) -> None:
    write_lookup(str(tmp_path / "file"), cut(pa.array(range(1000)), 1000))
    whole = (tmp_path / "file").read_bytes()
    for end in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "file").write_bytes(whole[:end])
        with pytest.raises((pa.ArrowException, OSError)):
            read_lookup(str(tmp_path / "file"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, for this test and the processes that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_few_ids_are_read_into_memory_and_many_mapped_while_they_are_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pa.array([f"i{number}" for number in range(100)])
    urls, checksums = write_parts(temporary, ids, 30)
    directory = temporary / f"nnsparse-stream-{os.getuid()}"
    assert open_vocabulary(urls, checksums, 100).ids.equals(ids)
    assert not directory.exists()
    monkeypatch.setattr(lookup, "PART_IDS", 99)
    vocabulary = open_vocabulary(urls, checksums, 100)
    assert len(list(directory.glob("vocabulary-*.arrow"))) == 1
    again = open_vocabulary(urls, checksums, 100)
    del vocabulary
    assert len(list(directory.glob("vocabulary-*.arrow"))) == 1
    assert again.decode(again.encode(ids)).equals(ids)
    del again
    assert os.listdir(directory) == ["lock"]


def test_an_altered_part_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PART_IDS", 0)
    urls, checksums = write_parts(temporary, pa.array(range(10)), 5)
    with pytest.raises(InputError, match=f"^{urls[1]} was altered"):
        open_vocabulary(urls, [checksums[0], "0" * 64], 10)
    assert os.listdir(temporary / f"nnsparse-stream-{os.getuid()}") == ["lock"]


@pytest.mark.parametrize("size", [10_000, 300_000])
def test_a_disk_without_room_is_named(temporary: Path, size: int) -> None:
    """Full in the midst of building, and at the end: a limit on a file's size stands for the disk."""
    urls, checksums = write_parts(temporary, pa.array(range(0, 10_000_000, 1000)), 5000)
    code = (
        "import resource; from nnsparse_stream.ids import mapped_lookup as lookup; lookup.PART_IDS = 0; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
        f"lookup.open_vocabulary({urls}, {checksums}, 10000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    directory = temporary / f"nnsparse-stream-{os.getuid()}"
    assert f"InputError: {directory} cannot hold the lookup of 10000 column ids: " in done.stderr
    assert "make room there, or set TMPDIR to a directory with more" in done.stderr
    assert os.listdir(directory) == ["lock"]


#: Opens a vocabulary when told to, encodes ids, and says what it found, what private memory it took at the peak, and
#: which files of vocabularies it has mapped.
PROCESS = """
import json, re, sys, threading, time
from pathlib import Path
import numpy as np, pyarrow as pa
from nnsparse_stream.ids import mapped_lookup as lookup

lookup._BITS = 16
urls, checksums, ids = json.loads(sys.argv[1])
wanted = pa.array(ids)
pa.array(wanted).dictionary_encode(), np.argsort(np.arange(9)), lookup.Vocabulary.read(urls[:1])

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    while True:
        peaks.append(private())
        time.sleep(0.002)

sys.stdin.readline()
before, peaks = private(), []
threading.Thread(target=watch, daemon=True).start()
vocabulary = lookup.open_vocabulary(urls, checksums, len(urls) << 16)
found = vocabulary.encode(wanted).tolist()
mapped = [line.split()[4:6] for line in Path("/proc/self/maps").read_text().splitlines() if "vocabulary-" in line]
print(json.dumps([found, max([*peaks, private()]) - before, mapped]), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is Linux's to tell")
@pytest.mark.parametrize("kind", ["int64", "string"])
def test_processes_share_the_file_and_their_private_memory_is_bounded(temporary: Path, kind: str) -> None:
    number = np.arange(3 << 20)
    # An odd multiplier is a bijection: integers far apart.
    ids = pa.array((number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64))
    if kind == "string":
        ids = pc.binary_join_element_wise("item", pa.array(number).cast(pa.string()), "-")
    wanted = [0, 5, len(ids) - 1, 1 << 20]
    case = [
        *write_parts(temporary, ids, 1 << 16),
        [*ids.take(pa.array(wanted)).to_pylist(), 1 if kind == "int64" else ""],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps(case)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [json.loads(process.stdout.readline()) for process in processes if process.stdout]
    (file,) = (temporary / f"nnsparse-stream-{os.getuid()}").glob("vocabulary-*.arrow")
    size = file.stat().st_size
    assert size > 100e6
    for found, private, mapped in said:
        assert found == [*wanted, -1]
        assert private < size / 4
        assert mapped == [[str(file.stat().st_ino), str(file)]]
    for process in processes:
        process.communicate("\n")
        assert process.returncode == 0
    assert os.listdir(file.parent) == ["lock"]
