"""What the demo shows: a few lines in the terminal, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnsparse_stream.ratings.synthetic import GENRES
from nnsparse_stream.training import report
from nnsparse_stream.training.reasons_chart import Listed, reasons_chart


@dataclass(frozen=True)
class Example:
    """A user of whom the list is shown.

    Attributes:
        user: the id.
        liked: stars of what the user liked, by the items' ids.
        listed: the list.
    """

    user: str
    liked: Mapping[str, float]
    listed: Sequence[Listed]


def summary(
    errors: Sequence[tuple[str, float]], metrics: Mapping[str, Mapping[str, float]], examples: Sequence[Example]
) -> str:
    """The figures, and the examples' lists.

    Args:
        errors: the RMSE of each predictor, by its name.
        metrics: the metrics of each kind of lists, by its name.
        examples: users with their lists.
    """
    lines = ["\nRMSE of predictions on the test fold", *(f"  {name:<28} {rmse:.4f}" for name, rmse in errors)]
    lines.append("\nlists on the test fold")
    for name, figures in metrics.items():
        lines.append(f"  {name:<28} " + "   ".join(f"{_metric(key)} {value:.4f}" for key, value in figures.items()))
    for example in examples:
        lines.append(f"\n{example.user}, who liked {len(example.liked)} items")
        for place, item in enumerate(example.listed, start=1):
            why = ", ".join(item.reasons)
            lines.append(f"  {place:>2}  {item.name:<14} {item.score:.2f}   because of {why}")
    return "\n".join(lines)


def page(
    lead: str,
    errors: Sequence[tuple[str, float]],
    predicted: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, float]],
    listed: Mapping[str, Any],
    examples: Sequence[Example],
) -> str:
    """The report.

    Args:
        lead: what was done, in a sentence.
        errors: the RMSE of each predictor, by its name: baselines, the model, and the best reachable one.
        predicted: the evaluation of the predictions.
        history: the epochs of the model that predicts.
        metrics: the metrics of each kind of lists, by its name; the model's last.
        listed: the evaluation of the lists.
        examples: users with their lists.
    """
    pictures = report.section(
        "Lists, and why",
        "At the left what a user liked, at the right what is listed. A band is as thick as what a liked item adds to a "
        "score. An item's name starts with its genre, which has a colour of its own. The model never sees the genres: "
        "it finds them in what people like.",
    )
    lists = _lists(metrics, listed["buckets"])
    predictions = _predictions(errors, predicted["buckets"], history)
    return report.page("nnsparse-stream: demo", lead, [pictures, *map(_picture, examples), *lists, *predictions])


def _predictions(
    errors: Sequence[tuple[str, float]], buckets: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]
) -> list[str]:
    epochs = [line["epoch"] for line in history]
    curve = report.line_chart(
        [
            report.Series("training, corrupted input", epochs, [line["train"]["rmse"] for line in history]),
            report.Series("validation", epochs, [line["validation"]["rmse"] for line in history]),
        ],
        "epoch",
        "RMSE (stars)",
        "RMSE by epoch, and the RMSE of a predictor that knows the truth.",
        levels=[("best reachable", errors[-1][1])],
    )
    return [
        report.section("Predictions: error on the test fold"),
        report.table(("predictor", "RMSE"), errors, strong=len(errors) - 2),
        report.section("Learning curve"),
        curve,
        report.section("Error by number of ratings"),
        _bars(
            buckets,
            "rmse",
            "training ratings of the user",
            "RMSE (stars)",
            "Error on the test fold, by how many training ratings a user has.",
        ),
        report.table(
            ("training ratings", "users", "ratings", "RMSE", "MAE"),
            [(_bucket_label(b), b["rows"], b["count"], b["rmse"], b["mae"]) for b in buckets],
        ),
    ]


def _lists(metrics: Mapping[str, Mapping[str, float]], buckets: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(next(iter(metrics.values())))
    return [
        report.section(
            "Lists: what is found again",
            "What users liked in the test fold should be high in lists that were made without it. Popularity lists for "
            "everybody what most have liked.",
        ),
        report.table(
            ("lists", *map(_metric, names)),
            [(label, *figures.values()) for label, figures in metrics.items()],
            strong=len(metrics) - 1,
        ),
        _bars(
            buckets,
            names[0],
            "known liked items of the user",
            _metric(names[0]),
            "The model's lists on the test fold, by how many liked items it knows of a user.",
        ),
    ]


def _picture(example: Example) -> str:
    names = {name for item in example.listed for name in (item.name, *item.reasons)}
    return reasons_chart(
        example.listed,
        {name: f"{stars:g} ★" for name, stars in example.liked.items()},
        {name: GENRES.index(name.partition("-")[0]) for name in names},
        ("liked", "listed"),
        f"{example.user} liked {len(example.liked)} items; those at the left say most about what is listed.",
    )


def _bars(buckets: Sequence[Mapping[str, Any]], metric: str, x_label: str, y_label: str, caption: str) -> str:
    values = [bucket["metrics"][metric] for bucket in buckets]
    return report.bar_chart(list(map(_bucket_label, buckets)), [(y_label, values)], x_label, y_label, caption)


def _metric(name: str) -> str:
    return name.upper() if name.startswith("ndcg") else name


def _bucket_label(bucket: Mapping[str, Any]) -> str:
    low, high = bucket["min_ratings"], bucket["max_ratings"]
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
