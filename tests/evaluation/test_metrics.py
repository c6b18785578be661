"""The metrics: against pytrec_eval (trec_eval's own code) where definitions coincide, by hand elsewhere."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.metric_sums import BUCKETS, MetricSums
from nnsparse_stream.evaluation.metrics import JudgedLists, known_names, metrics_of_model, parse_metric, parse_metrics
from nnsparse_stream.sparse.rows import SparseRows

COLUMNS = 9


def lists_of(listed: list[list[int]], judged: list[dict[int, float]], counts: list[int] | None = None) -> JudgedLists:
    """Lists, padded by -1 to the longest, and what they are judged by: {column: rating}."""
    width = max(map(len, listed))
    columns = np.array([[*row, *[-1] * (width - len(row))] for row in listed], dtype=np.int64)
    rows = [(sorted(row), [row[column] for column in sorted(row)]) for row in judged]
    column_counts = np.array(counts or [1] * COLUMNS)
    return JudgedLists(columns, SparseRows.from_rows(rows, COLUMNS, torch.float32), column_counts)


def of_rows(name: str, lists: JudgedLists) -> list[float]:
    return parse_metric(name).of_rows(lists).tolist()


@st.composite
def listed_and_judged(draw: st.DrawFn) -> tuple[list[list[int]], list[dict[int, float]]]:
    """Rows with lists of up to all columns, also empty ones, and one or more judged entries."""
    columns = st.permutations(range(COLUMNS))
    lengths = st.integers(0, COLUMNS)
    listed = draw(st.lists(st.tuples(columns, lengths).map(lambda drawn: drawn[0][: drawn[1]]), min_size=1, max_size=6))
    grades = st.dictionaries(st.integers(0, COLUMNS - 1), st.integers(0, 5).map(float), min_size=1)
    return listed, [draw(grades) for _ in listed]


@given(rows=listed_and_judged(), k=st.integers(1, COLUMNS + 2))
def test_metrics_of_lists_are_those_of_trec_eval(rows: tuple[list[list[int]], list[dict[int, float]]], k: int) -> None:
    listed, judged = rows
    lists = lists_of(listed, judged)
    run = {str(q): {f"c{column}": float(-rank) for rank, column in enumerate(row[:k])} for q, row in enumerate(listed)}

    def trec(measure: str, gain: object, row: int) -> float:
        if not run[str(row)]:
            return 0.0  # a query without an answer is no query of a run
        judgements = {str(row): {f"c{column}": int(gain(rating)) for column, rating in judged[row].items()}}
        evaluator = pytrec_eval.RelevanceEvaluator(judgements, {measure})
        return evaluator.evaluate({str(row): run[str(row)]})[str(row)][measure.replace(".", "_")]

    def binary(rating: float) -> int:
        return 1

    for name, measure, gain in (
        ("ndcg", f"ndcg_cut.{k}", binary),
        ("ndcg_graded", f"ndcg_cut.{k}", lambda rating: 2**rating - 1),
        ("recall_all", f"recall.{k}", binary),
        ("precision", f"P.{k}", binary),
        ("hit", f"success.{k}", binary),
        ("mrr", "recip_rank", binary),
    ):
        expected = [trec(measure, gain, row) for row in range(len(listed))]
        assert of_rows(f"{name}@{k}", lists) == pytest.approx(expected, abs=1e-12), name
    # trec_eval divides by n where we divide by min(K, n).
    share = np.array([len(row) / min(k, len(row)) for row in judged])
    for name, measure in (("map", f"map_cut.{k}"), ("recall", f"recall.{k}")):
        expected = share * [trec(measure, binary, row) for row in range(len(listed))]
        assert of_rows(f"{name}@{k}", lists) == pytest.approx(expected.tolist(), abs=1e-12), name


def test_metrics_of_lists_by_hand() -> None:
    """Two rows: hits at ranks 2 and 3 of three judged entries; a list of one column, which hits one of one."""
    lists = lists_of([[7, 2, 4, 0], [5]], [{2: 1.0, 4: 3.0, 8: 2.0}, {5: -1.0}], counts=[10, 0, 2, 0, 4, 5, 0, 3, 0])
    gain = {rank: 1 / np.log2(rank + 1) for rank in (1, 2, 3)}
    assert of_rows("ndcg@2", lists) == pytest.approx([gain[2] / (gain[1] + gain[2]), 1])
    assert of_rows("ndcg@100", lists) == pytest.approx([(gain[2] + gain[3]) / sum(gain.values()), 1])
    # 2^r - 1 of the ratings 1, 3, 2 is 1, 7, 3; a negative rating has no gain, and then there is nothing to be had.
    assert of_rows("ndcg_graded@3", lists) == pytest.approx(
        [(gain[2] + 7 * gain[3]) / (7 * gain[1] + 3 * gain[2] + gain[3]), 0]
    )
    assert of_rows("recall@2", lists) == [1 / 2, 1]
    assert of_rows("recall_all@2", lists) == [1 / 3, 1]
    assert of_rows("precision@4", lists) == [2 / 4, 1 / 4]
    assert of_rows("hit@1", lists) == [0, 1]
    assert of_rows("mrr@4", lists) == [1 / 2, 1]
    assert of_rows("map@2", lists) == [(1 / 2) / 2, 1]
    assert of_rows("map@4", lists) == pytest.approx([(1 / 2 + 2 / 3) / 3, 1])
    assert of_rows("popularity@2", lists) == [(3 + 2) / 2, 5]


def test_a_column_that_ends_a_list_is_no_hit_of_the_row_before() -> None:
    """-1 stands for no column; as a place in a matrix it would be the last column of the row before."""
    lists = lists_of([[], [0]], [{8: 1.0}, {8: 1.0}])
    lists = JudgedLists(np.array([[3], [-1]]), lists.judged, lists.column_counts)
    assert of_rows("hit@1", lists) == [0, 0]
    assert of_rows("popularity@1", lists) == [1, 0]


@pytest.mark.parametrize("rating", [1e3, 1e6, 3e38])
def test_gains_of_large_counts_do_not_overflow(rating: float) -> None:
    lists = lists_of([[0, 1], [1, 0]], [{0: rating, 1: 1.0}, {0: rating, 1: 1.0}])
    assert of_rows("ndcg_graded@2", lists) == pytest.approx([1, 1 / np.log2(3)])


def sums_of(lists: JudgedLists, *names: str, known: list[int]) -> MetricSums:
    sums = MetricSums.of(parse_metrics(names), COLUMNS)
    sums.add_rows(np.array(known), lists.lengths)
    sums.add_lists(np.array(known), lists)
    return sums


def test_metrics_of_columns_by_hand() -> None:
    lists = lists_of([[0, 1, 2], [0, 1], [0]], [{8: 1.0}] * 3)
    sums = sums_of(lists, "coverage@2", "gini@2", "coverage@1", "gini@1", known=[0, 0, 0])
    # Three lists have column 0, two have column 1: over nine columns the mean difference over twice the mean.
    x = np.array([3, 2, 0, 0, 0, 0, 0, 0, 0])
    gini = np.abs(x[:, None] - x).sum() / (2 * len(x) ** 2 * x.mean())
    values = {"coverage@2": 2 / 9, "gini@2": gini, "coverage@1": 1 / 9, "gini@1": 8 / 9}
    assert sums.values() == pytest.approx(values)
    even = lists_of([list(range(COLUMNS))], [{8: 1.0}])
    assert sums_of(even, "gini@9", "coverage@100", known=[0]).values() == {"gini@9": 0.0, "coverage@100": 1.0}
    empty = lists_of([[]], [{8: 1.0}])
    assert sums_of(empty, "gini@9", "coverage@9", known=[0]).values() == {"gini@9": 0.0, "coverage@9": 0.0}


def test_sums_add_up_and_bound_the_buckets() -> None:
    metrics = parse_metrics(["rmse", "hit@1", "mae", "coverage@1"])
    one, two = MetricSums.of(metrics, COLUMNS), MetricSums.of(metrics, COLUMNS)
    one.add_rows(np.array([0, 7, 2000, 5]), np.array([1, 2, 1, 0]))
    one.add_errors(np.array([0, 7, 2000]), np.array([0, 1, 1, 2]), np.array([1.0, -2.0, 2.0, 0.5], dtype=np.float32))
    one.add_lists(np.array([0, 7, 2000]), lists_of([[0], [1], [2]], [{0: 1.0}, {1: 1.0, 2: 1.0}, {3: 1.0}]))
    two.add_rows(np.array([9]), np.array([1]))
    two.add_errors(np.array([9]), np.array([0]), np.array([4.0]))
    two.add_lists(np.array([9]), lists_of([[0]], [{1: 1.0}]))
    report = (one + two).report()
    assert report["count"] == 5
    rmse, mae = np.sqrt((1 + 4 + 4 + 0.25 + 16) / 5), 9.5 / 5
    assert report["metrics"] == {
        "rmse": pytest.approx(rmse),
        "hit@1": 2 / 4,
        "mae": pytest.approx(mae),
        "coverage@1": 3 / 9,
    }
    assert (report["rmse"], report["mae"]) == (report["metrics"]["rmse"], report["metrics"]["mae"])
    assert [(b["min_ratings"], b["max_ratings"], b["rows"], b["count"]) for b in report["buckets"]] == [
        (0, 0, 1, 1),
        (5, 9, 2, 3),
        (BUCKETS[-1], None, 1, 1),
    ]
    assert report["buckets"][1]["metrics"] == {"rmse": pytest.approx(np.sqrt(8)), "hit@1": 0.5, "mae": 8 / 3}
    nothing = {"rmse": None, "hit@1": None, "mae": None, "coverage@1": None}
    empty = MetricSums.of(metrics, COLUMNS).report()
    assert empty == {"count": 0, "rmse": None, "mae": None, "metrics": nothing, "buckets": []}


@pytest.mark.parametrize("name", known_names())
@given(rows=listed_and_judged(), cut=st.integers(0, 6))
def test_every_metric_adds_up_over_parts_that_travel(
    name: str, rows: tuple[list[list[int]], list[dict[int, float]]], cut: int
) -> None:
    metrics = parse_metrics([name.replace("K", "4")])

    def of(part: slice) -> MetricSums:
        listed, judged = rows[0][part], rows[1][part]
        sums = MetricSums.of(metrics, COLUMNS)
        if listed:
            lists, known = lists_of(listed, judged), np.arange(len(listed))
            sums.add_rows(known, lists.lengths)
            sums.add_lists(known, lists)
            of_entries = np.repeat(known, lists.lengths)
            sums.add_errors(known, of_entries, lists.judged.values.numpy() - 3)
        return pickle.loads(pickle.dumps(sums))

    parts = (of(slice(0, cut)) + of(slice(cut, None))).values()
    assert parts == pytest.approx(of(slice(None)).values())
    assert all(map(np.isfinite, parts.values()))


def test_names() -> None:
    parsed = parse_metrics(["ndcg@100", "rmse", "recall_all@020", "rmse"])
    assert [(metric.name, metric.k) for metric in parsed] == [("ndcg@100", 100), ("rmse", None), ("recall_all@20", 20)]
    for name, wrong in (
        ("ndgc@10", "no metric 'ndgc@10'; there are rmse, mae, ndcg@K, ndcg_graded@K"),
        ("", "no metric ''"),
        ("ndcg", "lacks the length of the lists; name it as ndcg@100"),
        ("ndcg@0", "lacks the length"),
        ("rmse@5", "rmse is no metric of lists"),
        ("ndcg@-1", "no metric"),
        ("ndcg@1e3", "no metric"),
    ):
        with pytest.raises(InputError, match=wrong):
            parse_metric(name)
    with pytest.raises(InputError, match="no metric is named"):
        parse_metrics([])


def test_scores_that_are_no_ratings_have_no_errors() -> None:
    assert [metric.name for metric in metrics_of_model([], ["ndcg@100", "recall@20"])] == ["ndcg@100", "recall@20"]
    assert [metric.name for metric in metrics_of_model(["hit@1", "rmse"], ["mae"])] == ["hit@1", "rmse"]
    with pytest.raises(InputError, match=r"rmse: the model's scores order lists and are no ratings; .* by ndcg@100"):
        metrics_of_model(["hit@1", "rmse"], ["ndcg@100"])


def test_directions() -> None:
    lower = {"rmse", "mae", "popularity@K", "gini@K"}
    for name in known_names():
        metric = parse_metric(name.replace("K", "7"))
        assert metric.is_better(1.0, 2.0) is (name in lower), name
        assert metric.is_better(2.0, 1.0) is (name not in lower), name
        assert not any(metric.is_better(*values) for values in ((1.0, 1.0), (float("nan"), 1.0), (1.0, float("nan"))))
