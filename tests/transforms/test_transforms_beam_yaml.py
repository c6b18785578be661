"""The transforms in Beam YAML: pipelines that `apache_beam.yaml` itself runs, against what `prepare` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.yaml import main
from preparing import files_of, prepare

from nnsparse_stream.errors import InputError
from nnsparse_stream.transforms import beam_yaml, rating_rows

ROOT = Path(__file__).parents[2]
PROVIDERS = ROOT / "transforms" / "beam_providers.yaml"
RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def run(pipeline: str) -> None:
    """Runs what is written under `pipeline: transforms:`, or a whole file with its providers."""
    if not pipeline.startswith("pipeline:"):
        pipeline = f"pipeline:\n  transforms:{pipeline}\nproviders:\n  - include: {{{{ providers }}}}\n"
    main.run([f"--yaml_pipeline={pipeline}", RUNNER, f"--jinja_variables={json.dumps({'providers': str(PROVIDERS)})}"])


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 ratings with times, a pair that is rated twice, a rare item, and a bad record."""
    monkeypatch.chdir(tmp_path)
    lines = [
        f"u{user},{item},{(user * item) % 5 + 1.5},{user * 7 % 11 + item}" for user in range(30) for item in range(10)
    ]
    path = tmp_path / "log.csv"
    path.write_text(
        "\n".join(["user,item,rating,time", *lines[:100], "u1,2,nan,3", *lines[100:], "u1,2,5,99", "u1,77,1,5"])
    )
    return path


def test_the_pipeline_of_the_documentation_writes_what_prepare_writes(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_apart(self: Any, pending: list[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
        raise AssertionError(f"the tables that were read were taken apart: {pending[0]}")

    monkeypatch.setattr(rating_rows._RowsToBlocks, "_blocks", taken_apart)
    text = (ROOT / "docs" / "prepare.md").read_text()
    (pipeline,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"`nnsparse-stream prepare (--input log\.csv [^`]*)`", text)
    run(pipeline)
    flags = command.split()
    place = flags.index("data/yaml")
    assert prepare(*flags[:place], "expected", *flags[place + 1 :]) == 0
    expected = files_of("expected")
    assert "dead_letters/00000-00000-00000.jsonl" in expected
    assert json.loads(expected["manifest.json"])["records"] == {"read": 303, "bad": 1, "filtered": 1, "duplicates": 1}
    assert files_of("data/yaml") == expected
    (written,) = log.parent.glob("shards.json-*")
    (shard,) = json.loads(expected["manifest.json"])["shards"]
    del shard["row_groups"], shard["features"]  # Beam YAML takes no features
    assert [json.loads(line) for line in written.open()] == [shard]


def test_rows_of_another_source_and_their_folds(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with other fields come one by one, in as many blocks as there are; folds may be assigned on the way."""
    monkeypatch.setattr(rating_rows, "_PENDING_ROWS", 7)
    log.write_text(log.read_text().replace("u1,2,nan,3\n", "").replace("u1,2,5,99\n", ""))
    Path("own.csv").write_text(log.read_text().replace("user,item,rating,time", "customer,sku,stars,time"))
    run("""
    - {type: ReadFromCsv, config: {path: own.csv}}
    - type: MapToFields
      input: ReadFromCsv
      config: {fields: {user: customer, item: sku, rating: stars, time: time}}
    - type: WriteDataset
      name: Own
      input: MapToFields
      config: {output: own, axis: item, num_shards: 3, folds: {method: hash, percent: [50, 20, 30], seed: 4}}
    - {type: ReadRatings, config: {input: log.csv, timestamp_column: time, dead_letters: letters}}
    - type: AssignFolds
      input: ReadRatings.ratings
      config: {folds: {method: last, axis: user, validation: 1, test: 2}}
    - type: WriteDataset
      name: Folded
      input: AssignFolds
      config: {output: folded, axis: user, folds: {method: files}}
""")
    flags = ["--axis", "item", "--num_shards", 3, "--folds", "50,20,30", "--fold_seed", 4]
    assert prepare("--input", log, "--output", "expected", *flags) == 0
    assert files_of("own") == files_of("expected")
    flags = ["--axis", "user", "--timestamp_column", "time", "--validation_last", 1, "--test_last", 2]
    assert prepare("--input", log, "--output", "expected_folded", *flags) == 0
    shards = [name for name in files_of("folded") if name.startswith("rows/")]
    assert [files_of("folded")[name] for name in shards] == [files_of("expected_folded")[name] for name in shards]
    assert json.loads(files_of("folded")["manifest.json"])["folds"] == {"method": "files"}


def test_interactions_are_those_of_prepare(log: Path) -> None:
    """Rows without ratings, and rows whose ratings become interactions; folds by rows and by a share of time."""
    log.write_text(log.read_text().replace("u1,2,nan,3\n", ""))
    run("""
    - {type: ReadRatings, config: {input: log.csv, timestamp_column: time, dead_letters: letters}}
    - type: MapToFields
      input: ReadRatings.ratings
      config: {fields: {user: user, item: item}}
    - type: WriteDataset
      name: Counted
      input: MapToFields
      config: {output: counted, axis: user, feedback: implicit, folds: {method: rows, test: 20, seed: 2}}
    - type: WriteDataset
      name: Positive
      input: ReadRatings.ratings
      config: {output: positive, axis: item, positive_from: 3.5, folds: {method: time, test_share: 10}}
""")
    rows = ["--feedback", "implicit", "--test_rows", 20, "--fold_seed", 2, "--timestamp_column", "time"]
    assert prepare("--input", log, "--output", "expected", "--axis", "user", *rows) == 0
    assert files_of("counted") == files_of("expected")
    shares = ["--positive_from", 3.5, "--test_share_time", 10, "--timestamp_column", "time"]
    assert prepare("--input", log, "--output", "expected", "--overwrite", "--axis", "item", *shares) == 0
    assert files_of("positive") == files_of("expected")
    manifest = json.loads(files_of("positive")["manifest.json"])
    assert (manifest["feedback"], manifest["duplicates"]) == ("implicit", "count")
    assert manifest["fold_entries"]["test"] > 0


def test_too_many_bad_records_fail_the_run_and_the_next_begins_anew(log: Path) -> None:
    pipeline = """
    - {type: ReadRatings, config: {input: {train: log.csv}, dead_letters: out/dead_letters}}
    - type: WriteDataset
      input: {ratings: ReadRatings.ratings, summaries: ReadRatings.summaries}
      config: {output: out, axis: user, duplicates: mean, folds: {method: files}, max_bad_fraction: FRACTION}
"""
    with pytest.raises(InputError, match=r"^1 of 303 records are malformed.*log\.csv:102: .*u1,2,nan,3"):
        run(pipeline.replace("FRACTION", "0.001"))
    assert "manifest.json" not in files_of("out")
    run(pipeline.replace("FRACTION", "0.01"))
    assert prepare("--train_input", "log.csv", "--output", "expected", "--axis", "user", "--duplicates", "mean") == 0
    assert files_of("out") == files_of("expected")


WRITE = """
    - {type: ReadRatings, config: {input: log.csv, dead_letters: out/dead_letters}}
    - type: WriteDataset
      input: {ratings: ReadRatings.ratings, summaries: ReadRatings.summaries}
      config: {output: out, axis: user, duplicates: mean, overwrite: OVERWRITE}
"""


def test_building_changes_nothing_and_running_replaces_all_of_it(log: Path) -> None:
    bad = log.read_text()
    assert prepare("--input", log, "--output", "out", "--axis", "user", "--duplicates", "mean", "--num_shards", 3) == 0
    before = files_of("out")
    assert "dead_letters/00000-00000-00000.jsonl" in before
    pipeline = beam.Pipeline(RUNNER.partition("=")[2])
    rows = pipeline | beam.Create([beam.Row(user="a", item=1, rating=2.5)])
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        _ = rows | "Refused" >> beam_yaml.WriteDataset("out", "user")
    _ = rows | beam_yaml.WriteDataset("out", "user", overwrite=True)
    assert files_of("out") == before
    log.write_text(bad.replace("u1,2,nan,3\n", ""))
    run(WRITE.replace("OVERWRITE", "true"))
    assert prepare("--input", "log.csv", "--output", "expected", "--axis", "user", "--duplicates", "mean") == 0
    assert files_of("out") == files_of("expected")


def test_a_first_stage_that_is_made_again_removes_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = beam_yaml._complete

    def complete_after_a_retry(once: bytes, output: Any, *rest: Any) -> Any:
        beam_yaml._begin(output)
        return complete(once, output, *rest)

    monkeypatch.setattr(beam_yaml, "_complete", complete_after_a_retry)
    assert prepare("--input", "log.csv", "--output", "out", "--axis", "item", "--duplicates", "mean") == 0
    run(WRITE.replace("OVERWRITE", "true"))
    assert prepare("--input", "log.csv", "--output", "expected", "--axis", "user", "--duplicates", "mean") == 0
    assert files_of("out") == files_of("expected")


def test_a_data_set_whose_files_were_removed_meanwhile_is_not_completed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = beam_yaml._complete

    def complete_what_was_removed(once: bytes, output: Any, *rest: Any) -> Any:
        output.remove_matching("columns/*")
        return complete(once, output, *rest)

    monkeypatch.setattr(beam_yaml, "_complete", complete_what_was_removed)
    with pytest.raises(RuntimeError, match=r"columns/part-\S+ was written and is not there any more"):
        run(WRITE.replace("OVERWRITE", "false"))
    assert "manifest.json" not in files_of("out")


def test_summaries_do_not_count_what_a_filter_leaves_out(log: Path) -> None:
    with pytest.raises(InputError, match=r"^the summaries count 302 ratings, and 291 came; .*drop the input summaries"):
        run("""
    - {type: ReadRatings, config: {input: log.csv, dead_letters: letters}}
    - {type: Filter, input: ReadRatings.ratings, config: {language: python, keep: user != 'u2' and item < 77}}
    - type: MapToFields
      input: Filter
      config: {language: python, fields: {user: user, item: item, rating: rating, extra: item > 3}}
    - type: WriteDataset
      input: {ratings: MapToFields, summaries: ReadRatings.summaries}
      config: {output: out, axis: user, duplicates: mean}
""")


ROW = "{user: 1, item: tea, rating: 2.5}"


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        (ROW, "axis: users", "axis is 'users'; give user or item"),
        (ROW, "axis: user, axes: 1", "unexpected argument 'axes'"),
        (ROW, "axis: user, folds: {method: lost}", "the method of folds is 'lost'"),
        (ROW, "axis: user, folds: {method: last, axis: item}", "go by the rows of the axis item, and axis is user"),
        (ROW, "axis: user, duplicates: last", "the rows have no field timestamp, only user, item, rating"),
        (ROW, "axis: user, time_from: 3, time_to: 3", "time_from 3 is not before time_to 3"),
        (ROW, "axis: user, min_row_ratings: 0", "min_row_ratings is 0; give an integer from 1"),
        (ROW, "axis: user, feedback: none", "feedback is 'none'; give explicit or implicit"),
        (ROW, "axis: user, feedback: explicit, positive_from: 4", "positive_from is 4, and feedback explicit; give"),
        (ROW, "axis: user, positive_from: four", "positive_from is 'four', and feedback implicit; give a number"),
        (ROW, "axis: user, folds: {method: rows, axis: item}", "go by the rows of the axis item, and axis is user"),
        ("{user: 1, item: tea}", "axis: user, positive_from: 4", "the rows have no field rating, only user, item"),
        (ROW, "axis: user, max_bad_fraction: 5", "max_bad_fraction is 5; give a number from 0 to 1"),
        ("{user: 1, item: tea}", "axis: user", "the rows have no field rating, only user, item"),
        ("{user: 1, item: 2.5, rating: 2}", "axis: user", "field item of the rows is .*, not an integer or a string"),
        ("{user: 1, item: true, rating: 2}", "axis: user", "field item of the rows is .*, not an integer or a string"),
    ],
)
def test_what_is_wrong_is_said_when_the_pipeline_is_built(
    row: str, config: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf'"WriteDataset" at line 4.*: .*{message}'):
        run(f"""
    - {{type: Create, config: {{elements: [{row}]}}}}
    - {{type: WriteDataset, input: Create, config: {{output: out, {config}}}}}
""")
    assert not files_of("out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("input: 3", "input is 3; give the URL"),
        ("input: {test: log.csv}", "input is of the folds test; give train"),
        ("input: none.csv", "none.csv"),
        ("input: log.csv, user_column: who", "there is no column 'who'"),
        ("input: log.csv, format: xml", "format is 'xml'; give auto, parquet,"),
        ("input: log.csv, id_type: text", "id_type is 'text'; give auto, int or string"),
    ],
)
def test_what_is_wrong_with_the_input_is_said_when_the_pipeline_is_built(log: Path, config: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf'"ReadRatings" at line 3.*: .*{message}'):
        run(f"\n    - {{type: ReadRatings, config: {{dead_letters: letters, {config}}}}}\n")


def test_elements_that_are_no_ratings_are_refused(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(RUNNER.partition("=")[2])
    blocks = pipeline | beam.Create([b"x"])
    with pytest.raises(InputError, match="elements of type <class 'bytes'>; give rows with the fields user"):
        _ = blocks | beam_yaml.AssignFolds({"method": "hash"})
    with pytest.raises(InputError, match="the inputs are rows, summaries; give ratings"):
        beam_yaml.WriteDataset(str(tmp_path), "user").expand({"rows": blocks, "summaries": blocks})
    with pytest.raises(InputError, match="are those that the rows have"):
        beam_yaml.AssignFolds({"method": "files"})
