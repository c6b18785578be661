"""What `score` prints of scores that it has written."""

from __future__ import annotations

from typing import Any


def report(manifest: dict[str, Any], url: str, seconds: float) -> None:
    """Prints what was done.

    Args:
        manifest: of the scores.
        url: where they lie.
        seconds: that it took.
    """
    wanted = "predicted pairs" if manifest["top_k"] is None else f"top {manifest['top_k']} of each {manifest['axis']}"
    lines = [
        ("scores", url),
        ("rows written", f"{manifest['rows']:,} ({wanted}) in {len(manifest['files']):,} files"),
        ("time", f"{seconds:.1f} s"),
    ]
    if manifest["bad_records"]:
        lines.append(("bad records", f"{manifest['bad_records']:,} (see {url.rstrip('/')}/_dead_letters)"))
    if manifest["ratings_of_unknown_columns"]:
        count = manifest["ratings_of_unknown_columns"]
        lines.append(("left out", f"{count:,} ratings of columns that the model's vocabulary does not hold"))
    lists, pairs = manifest["lists"], manifest["pairs"]
    if lists and lists["candidates"] and lists["candidates"]["unknown"]:
        ids, unknown = lists["candidates"]["ids"], lists["candidates"]["unknown"]
        lines.append(("candidates", f"{unknown:,} of {ids:,} ids are not in the model's vocabulary, and not listed"))
    if lists and lists["rows_without_ratings"]:
        count = lists["rows_without_ratings"]
        lines.append(("cold rows", f"{count:,} of {lists['rows']:,} rows have no rating that the model sees"))
    for what, of in (
        ("rows", "whose row has no rating that the model sees"),
        ("columns", "of a column that its vocabulary lacks"),
    ):
        counts = pairs[f"unknown_{what}"] if pairs else []
        if any(counts):
            number = ", ".join(f"{count:,}" for count in counts) + " (to each model)" * (len(counts) > 1)
            lines.append((f"new {what}", f"{number} pairs {of}, scored by the fallback"))
    print("\n".join(f"{name:<13} {text}" for name, text in lines))
