"""The table of steps of `gpu.py`, and what each figure is to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_Key = tuple[int, int, str, str, str]


def _by_key(found: list[dict[str, Any]]) -> dict[_Key, dict[str, Any]]:
    return {(one["rows"], one["columns"], one["columns of"], one["optimiser"], one["what"]): one for one in found}


def show(found: list[dict[str, Any]]) -> None:
    """Prints a line for each size, law of the columns and optimiser.

    Args:
        found: what `gpu_steps.times_of` and `dense_times_of` gave.
    """
    held = _by_key(found)
    names = ("step", "kernels", "floor", "torch", "dense", "step/floor", "kernels/floor")
    print(f"{'rows':>5} {'columns':>9} {'drawn':>8} {'by':>9}", *(f"{name:>{max(len(name), 9)}}" for name in names))
    for key, step in sorted(held.items()):
        if key[-1] != "step":
            continue
        kernels, by_torch, dense = (held.get((*key[:-1], other), {}).get("ms") for other in names[1:2] + names[3:5])
        floor = step.get("floor, ms")
        figures = [step["ms"], kernels, floor, by_torch, dense]
        figures += [value / floor if floor and value else None for value in (step["ms"], kernels)]
        shown = (
            f"{'-' if figure is None else f'{figure:.3f}':>{max(len(name), 9)}}"
            for name, figure in zip(names, figures, strict=True)
        )
        print(f"{key[0]:>5} {key[1]:>9} {key[2]:>8} {key[3]:>9}", *shown)
    print()


def bars(found: list[dict[str, Any]]) -> Iterator[tuple[str, float, float, bool]]:
    """Name, figure, bar, and whether the figure is to be at most that, or at least.

    Args:
        found: as for `show`, with the floors.
    """
    held = _by_key(found)
    for (rows, columns, kind, by, what), one in sorted(held.items()):
        told = f"{what}, {rows} rows, {columns} columns, {kind}, {by}"
        ours, uniform = (held.get((rows, columns, law, by, "step")) for law in (kind, "uniform"))
        if what == "dense" and ours and (rows, columns) == (4096, 100_000):
            yield f"{told} / ours", one["ms"] / ours["ms"], 20.0, False
        elif what == "step" and kind == "zipf" and uniform:
            yield f"{told} / uniform", one["ms"] / uniform["ms"], 1.25, True
        elif what == "step" and kind == "uniform":
            floor = one.get("floor, ms")
            if rows == 128:
                yield f"{told}, ms", one["ms"], 0.45, True
            if floor and rows == 1024 and columns >= 27_000:
                yield f"{told} / floor", one["ms"] / floor, 1.8, True
            if floor and rows == 4096 and columns >= 100_000 and by == "row_adam":
                yield f"{told} / floor", one["ms"] / floor, 1.5, True
