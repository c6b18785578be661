"""Files of named tensors in the safetensors format, read and written without a second copy of what they hold.

The format: the length of a header as 8 bytes (little endian), the header as JSON (by name `dtype`, `shape` and
`data_offsets`), then the tensors' bytes, one after the other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
#: What is read or written, and hashed, at once.
_CHUNK_BYTES = 1 << 23


@dataclass(frozen=True)
class TensorFile:
    """What is noted of a file when it is written: its size and its SHA-256."""

    bytes: int
    sha256: str


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def write_tensors(url: str, tensors: Mapping[str, Tensor]) -> TensorFile:
    """Writes tensors of any device; of one at a time that is not on the CPU a copy is made there.

    Raises:
        InputError: the file cannot be written.
    """
    digest, size = hashlib.sha256(), 0

    def noted() -> Iterator[bytes | memoryview]:
        nonlocal size
        for chunk in _chunks(tensors):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    storage.write_chunks(url, noted())
    return TensorFile(size, digest.hexdigest())


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    # Wider elements first, so that each tensor begins at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield from _pieces(tensors[name].detach().cpu().contiguous())


def read_tensors(
    url: str,
    noted: TensorFile,
    expected: Mapping[str, Tensor],
    *,
    optional: bool = False,
    fewer_rows: bool = False,
    room: Callable[[str], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Reads tensors on the CPU. Names, shapes and dtypes are checked before memory is taken, the SHA-256 after all.

    Args:
        url: the file.
        noted: what was noted when it was written.
        expected: tensors of the names, shapes and dtypes that are to be there, on any device; their values are not
            read.
        optional: whether some, or all, may be missing.
        fewer_rows: whether they may have fewer rows than is expected.
        room: gives the tensor that a name is read into, its first rows where there are fewer; contiguous, on the CPU,
            and as is expected. It is asked when the header has been checked. A new one where None.

    Raises:
        InputError: the file is missing, truncated or altered, or holds other tensors.
    """
    digest = hashlib.sha256()
    with storage.open_input(url) as stream, storage.reading(url):
        size = stream.read(8)
        length = int.from_bytes(size, "little")
        if len(size) < 8 or 8 + length > noted.bytes:
            raise InputError(f"{url} is damaged: it has no header of tensors")
        text = stream.read(length)
        digest.update(size + text)
        entries = _header(url, text)
        _check(url, entries, expected, optional, fewer_rows)
        if 8 + length + (max((entry["data_offsets"][1] for entry in entries.values()), default=0)) != noted.bytes:
            raise InputError(f"{url} is damaged: its tensors have not the {noted.bytes} bytes that were written")
        tensors = {}
        for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
            entry, dtype = entries[name], expected[name].dtype
            held = torch.empty(entry["shape"], dtype=dtype) if room is None else room(name)
            tensors[name] = held[: entry["shape"][0]] if entry["shape"] else held
            for piece in _pieces(tensors[name]):
                _fill(url, stream, piece)
                digest.update(piece)
        digest.update(stream.read(1))  # what follows was not written by us
    if digest.hexdigest() != noted.sha256:
        raise InputError(f"{url} was altered: its SHA-256 is not the one that was noted when it was written")
    return tensors


def copy_tensors(source: str, target: str, noted: TensorFile) -> None:
    """Copies a file of tensors, a piece at a time.

    Raises:
        InputError: it is missing, or another one than was written; or the copy cannot be written.
    """

    def checked() -> Iterator[bytes]:
        digest = hashlib.sha256()
        with storage.open_input(source) as stream, storage.reading(source):
            while piece := stream.read(_CHUNK_BYTES):
                digest.update(piece)
                yield piece
        if digest.hexdigest() != noted.sha256:
            raise InputError(f"{source} was altered: its SHA-256 is not the one that was noted when it was written")

    storage.write_chunks(target, checked())


def _header(url: str, text: bytes) -> dict[str, _Entry]:
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            value.pop("__metadata__", None)
        return typed(dict[str, _Entry], value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} is damaged: its header: {storage.one_line(error)}") from error


def _check(
    url: str, entries: dict[str, _Entry], expected: Mapping[str, Tensor], optional: bool, fewer_rows: bool
) -> None:
    """Checks names, shapes and dtypes, and that the tensors lie one after the other."""
    unknown, missing = sorted(entries.keys() - expected.keys()), sorted(expected.keys() - entries.keys())
    if unknown or (missing and not optional):
        names = f"lacks {missing[0]}" if missing and not optional else f"holds {unknown[0]}"
        raise InputError(f"{url} is damaged or of another model: it {names}")
    end = 0
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        entry, tensor, shape = entries[name], expected[name], list(expected[name].shape)
        if fewer_rows and len(entry["shape"]) and len(shape) and 0 <= entry["shape"][0] < shape[0]:
            shape[0] = entry["shape"][0]
        if entry["dtype"] != _NAMES[tensor.dtype] or entry["shape"] != shape:
            raise InputError(
                f"{url} is damaged or of another model: {name} is {entry['dtype']} {entry['shape']}, not "
                f"{_NAMES[tensor.dtype]} {shape}"
            )
        if entry["data_offsets"] != (end, end + math.prod(shape) * tensor.element_size()):
            raise InputError(f"{url} is damaged: the bytes of {name} are not where they belong")
        end = entry["data_offsets"][1]


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The memory of a contiguous tensor on the CPU."""
    memory = tensor.view(-1).view(torch.uint8).numpy().data
    for start in range(0, len(memory), _CHUNK_BYTES):
        yield memory[start : start + _CHUNK_BYTES]


def _fill(url: str, stream: Any, memory: memoryview) -> None:
    while memory:
        count = stream.readinto(memory)
        if not count:
            raise InputError(f"{url} is damaged: it ends early")
        memory = memory[count:]
