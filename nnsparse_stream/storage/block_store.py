"""Blocks that wait between the steps of a run in one process: in memory up to a bound, beyond it in a file."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import IO

import pyarrow as pa

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage.files import one_line

#: Bytes of blocks that stay in memory: what waits of some 10 million ratings.
MEMORY_BYTES = 208 << 20

#: What ends an IPC stream: a continuation mark, and a message of no length.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def to_ipc(block: pa.RecordBatch) -> bytes:
    """A block as an Arrow IPC stream; a slice costs its own size."""
    # Serialised to buffers of the right size: a stream that grows would copy the data as often as it doubles.
    return b"".join([block.schema.serialize(), block.serialize(), _END_OF_STREAM])


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The block of `to_ipc`; its buffers lie in `data`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


class BlockStore:
    """Blocks by ticket. A block that is kept in memory is never copied; the others are read anew at each `get`.

    Threads may share it.

    Args:
        memory_bytes: bound of the blocks in memory; what comes beyond it goes to a temporary file, which has no name
            and goes with the process.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._free = memory_bytes
        self._lock = threading.Lock()
        self._places: list[pa.RecordBatch | tuple[int, int] | None] = []
        self._file: IO[bytes] | None = None
        self._end = 0

    @property
    def spilled_bytes(self) -> int:
        """Bytes in the temporary file."""
        return self._end

    def put(self, block: pa.RecordBatch) -> int:
        """Keeps a block and returns its ticket.

        Raises:
            InputError: the temporary file cannot be written.
        """
        size = block.nbytes
        with self._lock:
            if size <= self._free:
                self._free -= size
                self._places.append(block)
                return len(self._places) - 1
        data = to_ipc(block)
        with self._lock:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by `close`)
                start, self._end = self._end, self._end + len(data)
                self._places.append((start, len(data)))
                ticket = len(self._places) - 1
                self._write(data, start)
            except OSError as error:
                raise InputError(
                    f"{tempfile.gettempdir()}: what waits to be sorted cannot be written there ({one_line(error)}); "
                    "make room, or set TMPDIR to a directory with more"
                ) from error
        return ticket

    def get(self, ticket: int) -> pa.RecordBatch:
        """The block of a ticket."""
        place = self._places[ticket]
        assert place is not None, "the block was taken"
        return self._read(*place) if isinstance(place, tuple) else place

    def take(self, ticket: int) -> pa.RecordBatch:
        """The block of a ticket, which the store then forgets: to give up the memory is the caller's."""
        block, in_file = self.get(ticket), isinstance(self._places[ticket], tuple)
        with self._lock:
            self._places[ticket] = None
            self._free += 0 if in_file else block.nbytes
        return block

    def _read(self, start: int, length: int) -> pa.RecordBatch:
        assert self._file is not None
        parts = []
        while length:
            part = os.pread(self._file.fileno(), length, start)
            if not part:
                raise OSError(f"the temporary file in {tempfile.gettempdir()} was cut")
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return from_ipc(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Gives up all blocks."""
        self._places = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes, start: int) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, start)
            view, start = view[written:], start + written
