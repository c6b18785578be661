"""The state of a stream in files: blocks of events that are written once, and a commit that names those that count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.streaming.shard_state import ShardState
from nnsparse_stream.streaming.stream_output import STATE
from nnsparse_stream.streaming.windows import Windows

_KIND = "nnsparse-stream state"
_COMMIT, _WRITING = "commit.json", "writing.json"
_BLOCKS = re.compile(r"blocks-([0-9]+)\.arrow")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")
#: Files of blocks that a commit may name, before the smaller ones are written anew as one.
_MOST_FILES = 64


class _File(NamedTuple):
    bytes: int
    sha256: str
    rows: int


class _Place(NamedTuple):
    """Of a block: the number of its file, which is that of the commit that wrote it, and its own in that."""

    file: int
    number: int


def _name(file: int) -> str:
    return f"blocks-{file:09d}.arrow"


def _files_of(url: str) -> list[str]:
    """The files of a directory, which may not be there."""
    return list(storage.list_files(url)) if storage.is_directory(url) else []


class StateFiles:
    """The states of a stream's shards, in files below `OUTPUT/_state/`.

    A commit is one file, written whole and last: with the position in the source, it names the blocks of each shard.
    Blocks never change, and are written once, all new ones of a commit in one file; a file of which less than half is
    still in use is written anew, and so are the smaller ones where there are many. What is written beside the state,
    as lists, is named before (`announce`): after a kill what the last commit has not seen of it is removed.

    Args:
        output: URL of the stream's output.
        schema: of the blocks, `events.event_schema`.
    """

    def __init__(self, output: str, schema: pa.Schema) -> None:
        self._output, self._schema = output, schema
        self._url = storage.join(output, STATE)
        self._files: dict[int, _File] = {}
        # The block itself is kept beside its place, so that its id stays its own.
        self._places: dict[int, tuple[pa.RecordBatch, _Place]] = {}
        self._announced: list[str] = []
        #: How many commits there have been.
        self.number = 0

    def load(self, windows: Windows) -> tuple[dict[int, ShardState], dict[str, Any]]:
        """What the last commit holds: the shards' states, and what was given beside them; both empty before the first.

        Removes what a killed process has written after it; `finish` is to follow.

        Raises:
            InputError: a file is damaged, or missing.
        """
        place = storage.join(self._url, _COMMIT)
        commit: dict[str, Any] = {}
        if storage.exists(place):
            commit = storage.read_json(place, "a stream's state")
            if commit.get("kind") != _KIND:
                raise InputError(f"{place} is not a stream's state; pass `overwrite` to begin anew")
            self.number = commit["commit"]
            self._files = {int(number): _File(*file) for number, file in commit["files"].items()}
        self._undo()
        states = self._states(commit.get("shards", {}), windows)
        return states, commit.get("rest", {})

    def _states(self, shards: Mapping[str, Any], windows: Windows) -> dict[int, ShardState]:
        blocks = {}
        for number, file in self._files.items():
            data = storage.read_checked(storage.join(self._url, _name(number)), file.bytes, file.sha256)
            with pa.ipc.open_stream(data) as reader:
                blocks[number] = list(reader)

        def held(places: list[list[int]]) -> list[pa.RecordBatch]:
            found = [(blocks[file][number], _Place(file, number)) for file, number in places]
            self._places.update({id(block): (block, place) for block, place in found})
            return [block for block, _ in found]

        return {
            int(shard): ShardState(
                int(shard),
                windows,
                self._schema,
                pending=held(kept["pending"]),
                settled=held(kept["settled"]),
                meta=kept["meta"].encode(),
            )
            for shard, kept in shards.items()
        }

    def _undo(self) -> None:
        """Removes what was written after the last commit, and what a kill has left of files on their way."""
        place = storage.join(self._url, _WRITING)
        if storage.exists(place):
            writing = storage.read_json(place, "what a stream was about to write")
            self._announced = writing["names"]
            names = set(self._announced) if writing["commit"] > self.number else set()
            for folder in sorted({name.rpartition("/")[0] for name in self._announced}):
                url = storage.join(self._output, folder)
                for file in _files_of(url):
                    final = _TEMPORARY.sub("", file)
                    if final != file or f"{folder}/{final}" in names:
                        storage.remove_file(storage.join(url, file))
                storage.remove_empty_directory(url)
        for file in _files_of(self._url):
            blocks = _BLOCKS.fullmatch(file)
            if _TEMPORARY.search(file) or (blocks and int(blocks[1]) not in self._files):
                storage.remove_file(storage.join(self._url, file))

    def announce(self, names: Iterable[str]) -> None:
        """Says that files are about to be written that belong to the next commit; `finish` follows that.

        Args:
            names: relative to the output.
        """
        self._announced += names
        writing = {"commit": self.number + 1, "names": self._announced}
        storage.write_file(storage.join(self._url, _WRITING), storage.to_json(writing))

    def commit(self, states: Mapping[int, ShardState], rest: Mapping[str, Any]) -> None:
        """Makes these states, and what was announced and written, what there is.

        Args:
            states: by shard.
            rest: what is to be kept with them, JSON values.
        """
        number = self.number + 1
        again = self._to_rewrite(states)
        new: list[pa.RecordBatch] = []
        places: dict[int, tuple[pa.RecordBatch, _Place]] = {}

        def kept(blocks: Sequence[pa.RecordBatch]) -> list[_Place]:
            for block in blocks:
                found = self._places.get(id(block))
                if found is None or found[1].file in again:
                    found = block, _Place(number, len(new))
                    new.append(block)
                places[id(block)] = found
            return [places[id(block)][1] for block in blocks]

        shards = {
            str(shard): {
                "pending": kept(state.pending),
                "settled": kept(state.settled),
                "meta": state.meta.decode(),
            }
            for shard, state in states.items()
        }
        used = {place.file for _, place in places.values()}
        files = {file: told for file, told in self._files.items() if file in used}
        if new:
            files[number] = self._write(_name(number), new)
        commit = {"kind": _KIND, "commit": number, "files": files, "shards": shards, "rest": dict(rest)}
        storage.write_file(storage.join(self._url, _COMMIT), json.dumps(commit).encode())
        gone = self._files.keys() - files.keys()
        self._files, self._places, self.number = files, places, number
        for file in gone:
            storage.remove_file(storage.join(self._url, _name(file)))

    def finish(self) -> None:
        """Says that what was announced is written, or removed, and that nothing more will be beside it."""
        if self._announced:
            storage.remove_file(storage.join(self._url, _WRITING))
            self._announced = []

    def _to_rewrite(self, states: Mapping[int, ShardState]) -> set[int]:
        """The files whose blocks are better written anew."""
        live = dict.fromkeys(self._files, 0)
        for state in states.values():
            for block in (*state.pending, *state.settled):
                if id(block) in self._places:
                    live[self._places[id(block)][1].file] += len(block)
        again = {file for file, rows in live.items() if 2 * rows < self._files[file].rows}
        if len(live) - len(again) >= _MOST_FILES:
            again.update(sorted(live, key=lambda file: live[file])[: len(live) // 2])
        return again

    def _write(self, name: str, blocks: Sequence[pa.RecordBatch]) -> _File:
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, self._schema) as writer:
            for block in blocks:
                writer.write_batch(block)
        data = stream.getvalue().to_pybytes()
        storage.write_file(storage.join(self._url, name), data)
        return _File(len(data), storage.sha256(data), sum(len(block) for block in blocks))
