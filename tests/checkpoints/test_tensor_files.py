"""Files of tensors: the format of safetensors, checked before use, and no second copy in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from peak_memory import memory, needs_new_peak

from nnsparse_stream.checkpoints.tensor_files import TensorFile, read_tensors, write_tensors
from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import files as storage

TENSORS = {
    "matrix": torch.arange(6, dtype=torch.float32).view(3, 2),
    "narrow": torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16),
    "counts": torch.tensor([7, 8]),
    "wide": torch.tensor(0.1, dtype=torch.float64),
    "none": torch.zeros(0, 5),
    "places": torch.tensor([3, -4], dtype=torch.int32),
}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("where", ["file", "memory"])
def test_tensors_come_back_and_are_those_of_safetensors(tmp_path: Path, where: str) -> None:
    url = str(tmp_path / "a") if where == "file" else f"memory://{tmp_path}/a"
    noted = write_tensors(url, TENSORS)
    data = storage.read_file(url)
    assert noted == TensorFile(len(data), storage.sha256(data))
    assert equal(read_tensors(url, noted, TENSORS), TENSORS)
    assert equal(safetensors.torch.load(data), TENSORS)
    theirs = safetensors.torch.save(TENSORS)
    storage.write_file(url, theirs)
    assert equal(read_tensors(url, TensorFile(len(theirs), storage.sha256(theirs)), TENSORS), TENSORS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": torch.zeros(2, 2)}, r"matrix is F32 \[2, 2\], not F32 \[3, 2\]"),
        ({"matrix": torch.zeros(3, 2, dtype=torch.float64)}, r"matrix is F64 \[3, 2\], not F32"),
        ({"more": torch.zeros(1)}, "it holds more"),
        ({"matrix": None}, "it lacks matrix"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    url = str(tmp_path / "a")
    other = {name: tensor for name, tensor in {**TENSORS, **change}.items() if tensor is not None}
    noted = write_tensors(url, other)
    with pytest.raises(InputError, match=message):
        read_tensors(url, noted, TENSORS)
    if change.get("matrix", 1) is None:
        assert equal(read_tensors(url, noted, TENSORS, optional=True), other)


def test_fewer_rows_are_read_where_they_may_be_and_other_shapes_are_not(tmp_path: Path) -> None:
    url, expected = str(tmp_path / "a"), {"matrix": torch.zeros(5, 2)}
    for rows in range(6):
        held = {"matrix": torch.arange(2.0 * rows).view(rows, 2)}
        assert equal(read_tensors(url, write_tensors(url, held), expected, fewer_rows=True), held)
    for held in (torch.zeros(6, 2), torch.zeros(3, 1), torch.zeros(3), torch.zeros(()), torch.zeros(3, 2).double()):
        noted = write_tensors(url, {"matrix": held})
        with pytest.raises(InputError, match=r"matrix is .*, not F32 \[\d, 2\]"):
            read_tensors(url, noted, expected, fewer_rows=True)


def test_tensors_are_read_to_where_they_are_to_be(tmp_path: Path) -> None:
    url, whole = str(tmp_path / "a"), torch.zeros(4, 2)
    noted = write_tensors(url, {"rows": torch.ones(2, 2)})
    read_tensors(url, noted, {"rows": whole[1:3]}, room=lambda name: {"rows": whole[1:3]}[name])
    assert whole[:, 0].tolist() == [0, 1, 1, 0]
    # Nobody is asked for room for what is not there.
    with pytest.raises(InputError, match="of another model"):
        read_tensors(url, noted, {"rows": torch.zeros(9, 2)}, room=lambda name: pytest.fail(name))


def test_each_damaged_byte_and_each_missing_one_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    noted = write_tensors(str(path), TENSORS)
    data = path.read_bytes()
    damaged = [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in range(len(data))]
    for other in (*damaged, *(data[:length] for length in range(len(data))), data + b"\0"):
        path.write_bytes(other)
        with pytest.raises(InputError, match=r"damaged|altered"):
            read_tensors(str(path), noted, TENSORS)


@needs_new_peak
def test_neither_reading_nor_writing_takes_a_second_copy(tmp_path: Path) -> None:
    size = 96 << 20
    tensors = {"a": torch.ones(size // 8), "b": torch.ones(size // 8)}
    before = memory()
    noted = write_tensors(str(tmp_path / "a"), tensors)
    assert memory("VmHWM") - before < 0.3 * size
    before = memory()
    found = read_tensors(str(tmp_path / "a"), noted, tensors)
    assert memory("VmHWM") - before < 1.3 * size
    assert found["b"][-1] == 1
