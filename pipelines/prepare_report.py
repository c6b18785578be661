"""What `prepare` prints of a data set that it has written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsparse_stream.data.local_run import Sizes
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.ratings.input_plan import InputPlan

#: The lines of what went between the steps, and the Beam distribution of each.
STEPS = {"blocks read": "read_block_bytes", "shuffled": "shuffled_block_bytes"}


def report(
    manifest: Manifest,
    url: str,
    plan: InputPlan,
    steps: dict[str, Sizes],
    features: list[tuple[str, str]],
    seconds: float,
) -> None:
    """Prints what was done.

    Args:
        manifest: of the data set.
        url: where it lies.
        plan: how the files were read.
        steps: sizes of what went between the steps, by the names in STEPS.
        features: lines of what else is known of the rows.
        seconds: that it took.
    """
    records, size = manifest.records, sum(shard.bytes for shard in manifest.shards)
    column = "item" if manifest.axis == "user" else "user"
    folds = ", ".join(f"{fold} {count:,}" for fold, count in manifest.fold_entries.items())
    lines = [
        ("data set", url),
        ("records read", f"{records['read']:,} from {_files(len(plan.files))}" + _empty_files(plan)),
        *(("read as", _read_as(way, manifest.feedback)) for way in manifest.input),
        ("bad records", f"{records['bad']:,}" + (f" (see {url.rstrip('/')}/dead_letters)" if records["bad"] else "")),
        *_filtered_line(manifest),
        ("duplicates", f"{records['duplicates']:,} merged (policy: {manifest.duplicates})"),
        ("rows", f"{manifest.num_rows:,} {manifest.axis}s ({manifest.row_id_type} ids)"),
        ("columns", f"{manifest.num_columns:,} {column}s ({manifest.column_id_type} ids)"),
        *features,
        ("entries", f"{manifest.num_entries:,}: {folds}"),
        ("ratings" if manifest.feedback == "explicit" else "interactions", _ratings(manifest)),
        ("shards", f"{len(manifest.shards):,}, {size / 1e6:,.1f} MB"),
        *((label, str(steps[name])) for label, name in STEPS.items() if name in steps),
        ("time", f"{seconds:.1f} s, {records['read'] / max(seconds, 1e-9):,.0f} records/s"),
    ]
    print("\n".join(f"{name:<13} {text}" for name, text in lines))


def _read_as(way: dict[str, Any], feedback: str) -> str:
    """How files were read, in words, and the first record of them."""
    words = [way["format"]]
    if way.get("delimiter"):
        words += [f"delimiter {way['delimiter']!r}", f"quote {way['quote'] or 'none'}"]
        words.append("header" if way["header"] else "no header")
        words += [f"decimal {way['decimal']!r}"] if way["decimal"] != "." else []
    words += [f"encoding {way['encoding']}"] if way.get("encoding", "utf-8") != "utf-8" else []
    if "rating" not in way["columns"]:
        advice = " (where they are interactions, pass --feedback implicit)" if feedback == "explicit" else ""
        words.append(f"no ratings: each record counts as a 1{advice}")
    example = ", ".join(f"{name} {repr(value)[:40]}" for name, value in (way["example"] or {}).items())
    return f"{', '.join(words)}; first record: {example or 'a bad one'}"


def _ratings(manifest: Manifest) -> str:
    low, high, mean = (manifest.ratings[name] for name in ("min", "max", "mean"))
    return f"{low:g} to {high:g}" + ("" if mean is None else f", mean of train {mean:.4g}")


def _files(number: int) -> str:
    return f"{number:,} file{'s' if number > 1 else ''}"


def _empty_files(plan: InputPlan) -> str:
    if not plan.empty:
        return ""
    return f"; {_files(len(plan.empty))} without a record left out, the first is {plan.empty[0]}"


def _filtered_line(manifest: Manifest) -> list[tuple[str, str]]:
    if not manifest.filters:
        return []
    filters = ", ".join(f"{flag} {value}" for flag, value in sorted(manifest.filters.items()))
    return [("filtered", f"{manifest.records['filtered']:,} ({filters})")]
