"""Events from a directory to which files are added, on any fsspec URL: text and Parquet as `prepare` reads them.

A file has to be whole when its name appears: write it elsewhere, or under a name that begins with "." or "_" or ends
with ".tmp", then rename it. (Object stores show a file only when it is whole.) Empty files hold nothing.

Files are read in the order in which they were written: by modification time, then by name. That is what every store
knows, whoever writes and however he names; a file that is written anew is read anew, as a whole. The order by name
(`EventFormat.order`) is for those who copy files with old modification times, under names that ascend.

In both, files that appear behind the one that is read are read all the same, as long as they are not behind the last
`_REMEMBERED` files that were read. What is further behind is not read, for nobody knows any more what was: a dead
letter names it, or, where it appeared while nobody looked, says how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.formats import EmptyFileError, RatingFile, inspect_file
from nnsparse_stream.ratings.reading import BLOCK_BYTES, ReadBlock, Split, read_split, split_file
from nnsparse_stream.ratings.text_records import BlockSchema
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.listing import written_files
from nnsparse_stream.streaming.event_format import ORDERS, EventFormat
from nnsparse_stream.streaming.events import Letter
from nnsparse_stream.streaming.records import joined, latest, to_events, watermark
from nnsparse_stream.streaming.source import EventSource, Reading

_PARTITION = "files"
#: Files behind which others may appear: 256 of them are 5 KB of each position.
_REMEMBERED = 256
_ADVICE = "copy it anew, under another name, to have it read"
#: One reading goes over so many files, and ends after so many letters.
_MOST_FILES = 100
_MOST_LETTERS = 1_000

#: What files are ordered by: (modification time in microseconds, name), or (name,).
_Key = tuple[Any, ...]


class _Place(NamedTuple):
    """A position.

    Attributes:
        floor: files up to this one are done; None where there is none.
        older: how many files up to it there were when the directory was listed.
        done: digests of the files beyond it that are done, ascending.
        file: the one that is being read, or None.
        split, block: how many of its splits are done, and of the next split's blocks.
        lines: lines of text before that split.
        latest: the largest time of an event, microseconds since 1970; None before the first.
    """

    floor: _Key | None = None
    older: int = 0
    done: tuple[str, ...] = ()
    file: _Key | None = None
    split: int = 0
    block: int = 0
    lines: int = 0
    latest: int | None = None

    @classmethod
    def of(cls, position: str) -> _Place:
        found = cls(**json.loads(position))
        floor, file = (None if key is None else tuple(key) for key in (found.floor, found.file))
        return found._replace(floor=floor, file=file, done=tuple(found.done))

    def __str__(self) -> str:
        return json.dumps(self._asdict(), separators=(",", ":"))


class _Piece(NamedTuple):
    """Some records of a file: a block of a split, how many of the split's blocks it ends, lines before the split."""

    block: ReadBlock
    split: Split
    blocks: int
    lines: int


class _Walk:
    """What a process keeps between two readings, so that it neither lists nor opens again what it has at hand.

    Attributes:
        position: where it stands.
        listing: the files that there are, and when each was written, microseconds since 1970.
        below: those of them up to the place's floor; None before the first listing.
        beyond: the others, by their digests.
        waiting: those of these that are not done, the first at the end; None where that is to be found out.
        pieces: what is left of the file that is being read; None where it is not open.
    """

    def __init__(self, position: str) -> None:
        self.position = position
        self.listing: dict[_Key, int] = {}
        self.below: set[_Key] | None = None
        self.beyond: dict[str, _Key] = {}
        self.waiting: list[_Key] | None = None
        self.pieces: Iterator[_Piece] | None = None


class DirectorySource(EventSource):
    """The files of one directory, in one partition.

    Args:
        url: the directory.
        form: how files are read.
    """

    def __init__(self, url: str, form: EventFormat) -> None:
        if form.order not in ORDERS:
            raise InputError(f"`order` is {form.order!r}; give {' or '.join(ORDERS)}")
        self._url, self._form = url, form
        self._walk: _Walk | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_walk": None}

    def partitions(self) -> list[str]:
        """The one partition: files have an order."""
        return [_PARTITION]

    def begin(self, partition: str) -> str:
        """Before the first file."""
        return str(_Place())

    def read(self, partition: str, position: str) -> Reading:
        """Reads on, over several files where these are small.

        Raises:
            InputError: the directory cannot be listed; or no file was read yet and the first one cannot be: most likely
                the flags are wrong. Later, such a file becomes a letter.
            StoreError: the store failed.
        """
        place = _Place.of(position)
        walk = self._walk if self._walk is not None and self._walk.position == position else _Walk(position)
        self._walk = None  # what is raised would leave it between two places
        events: list[pa.RecordBatch] = []
        letters: list[Letter] = []
        listed = walk.below is None
        if listed:
            place = self._list(walk, place, letters)
        files = 0
        idle = False
        while sum(block.nbytes for block in events) < BLOCK_BYTES and len(letters) < _MOST_LETTERS:
            if place.file is None:
                if files == _MOST_FILES:
                    break
                file = _next(walk, place)
                if file is None and not listed:
                    listed, place = True, self._list(walk, place, letters)
                    file = _next(walk, place)
                if file is None:
                    idle = True
                    break
                files += 1
                place = place._replace(file=file, split=0, block=0, lines=0)
            place, found, bad = self._read_on(walk, place)
            events += [found] if found is not None else []
            letters += bad
        walk.position = str(place)
        self._walk = walk
        return Reading(joined(events), letters, walk.position, watermark(place.latest, idle, self._form), idle)

    def _list(self, walk: _Walk, place: _Place, letters: list[Letter]) -> _Place:
        """Lists the directory, and tells of what has appeared too far behind."""
        by_time = self._form.order == "time"
        found = written_files(self._url)
        walk.listing = {(written, name) if by_time else (name,): written for name, written in found.items()}
        below = {key for key in walk.listing if place.floor is not None and key <= place.floor}
        reason = f"behind the last {_REMEMBERED} files that were read, and not read; {_ADVICE}"
        if walk.below is not None:
            new = sorted(below - walk.below)
            letters += [Letter(storage.join(self._url, key[-1]), f"it appeared {reason}", "") for key in new]
        elif place.floor is not None and len(below) > place.older:
            count = f"{len(below) - place.older} of the {len(below)} files up to {place.floor[-1]}"
            letters.append(Letter(self._url, f"{count} appeared while nobody looked, {reason}", ""))
        walk.below, walk.waiting = below, None
        walk.beyond = {_digest(key): key for key in walk.listing.keys() - below}
        return place._replace(older=len(below))

    def _read_on(self, walk: _Walk, place: _Place) -> tuple[_Place, pa.RecordBatch | None, list[Letter]]:
        """Reads a piece of the file; behind the last one, the place is behind the file."""
        assert place.file is not None
        url = storage.join(self._url, place.file[-1])
        opened = walk.pieces is not None
        letters: list[Letter] = []
        piece = None
        try:
            if walk.pieces is None:
                if place.file not in walk.listing:
                    raise InputError(f"{url} was removed, or written anew, before it was read to its end; {_ADVICE}")
                walk.pieces = _pieces(*self._inspect(url), place)
            piece = next(walk.pieces, None)
        except EmptyFileError:
            pass
        except InputError as error:
            if not opened and place.latest is None and not place.done and place.file in walk.listing:
                raise
            letters.append(Letter(url, str(error), ""))
        if piece is None:
            walk.pieces = None
            return _finished(walk, place), None, letters
        block, split, blocks, lines = piece
        unit, first, before = ("record", 0, 0) if split.file.format == "parquet" else ("line", split.first, lines)
        letters = [Letter(f"{url}, {unit} {before + bad.position}", bad.reason, bad.text) for bad in block.bad]
        stored = np.array([walk.listing[place.file]])
        events, ahead = to_events(
            block.ratings, stored, lambda position: f"{url}, {unit} {before + position - first}", self._form
        )
        place = place._replace(split=split.number, block=blocks, lines=lines, latest=latest(place.latest, events))
        return place, events, letters + ahead

    def _inspect(self, url: str) -> tuple[RatingFile, BlockSchema]:
        form = self._form
        file, *kinds = inspect_file(url, 0, -1, form.names, form.file_format, form.dialect, form.timestamp_unit)
        timed = form.names.timestamp is not None
        if form.names.by_default and not timed and file.format == "movielens" and file.num_fields > 3:
            timed = True
            file = file._replace(positions=(*file.positions, 3), time_form=form.timestamp_unit)
        schema = form.block_schema(timed)
        for field, wanted, kind in zip(("user", "item"), schema[:2], kinds, strict=True):
            if file.format == "parquet" and wanted == "int64" and kind.type == "string":
                raise InputError(f"{url}: its {field} ids are strings, and the data set's are integers; convert them")
        return form.for_events(file), schema


def _next(walk: _Walk, place: _Place) -> _Key | None:
    """The first file that is not done."""
    if walk.waiting is None:
        walk.waiting = sorted((walk.beyond[digest] for digest in walk.beyond.keys() - {*place.done}), reverse=True)
    return walk.waiting.pop() if walk.waiting else None


def _finished(walk: _Walk, place: _Place) -> _Place:
    """The place behind its file; where too many files are remembered, the floor rises."""
    assert place.file is not None
    assert walk.below is not None
    # One that is no longer there needs no remembering.
    done = [digest for digest in (*place.done, _digest(place.file)) if digest in walk.beyond]
    done.sort(key=walk.beyond.__getitem__)
    floor = place.floor
    for digest in done[:-_REMEMBERED]:
        floor = walk.beyond.pop(digest)
        walk.below.add(floor)
    return place._replace(floor=floor, older=len(walk.below), done=tuple(done[-_REMEMBERED:]), file=None)


def _pieces(file: RatingFile, schema: BlockSchema, place: _Place) -> Iterator[_Piece]:
    """A file from a place on. What was read of its split is read again and passed over: splits are small."""
    lines = place.lines
    for split in split_file(file)[place.split :]:
        inside = 0
        for number, block in enumerate(read_split(split, schema)):
            if split.number > place.split or number >= place.block:
                yield _Piece(block, split, number + 1, lines)
            inside += block.lines
        lines += inside


def _digest(key: _Key) -> str:
    return blake2b(json.dumps(key).encode(), digest_size=8).hexdigest()
