"""Which data sets a model reads: that of its training, and later ones of which the columns are the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import Trained, command

from nnsparse_stream.pipelines import cli


def test_a_model_reads_a_later_data_set_of_the_same_columns(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pq.read_table(trained.log)
    # Other counts, so another order were it not for the earlier vocabulary.
    pq.write_table(log.slice(0, 3000), tmp_path / "same.parquet")
    extra = pa.table({"user": ["user-00000"], "item": ["new"], "rating": pa.array([3.0], pa.float32())})
    pq.write_table(pa.concat_tables([log.slice(0, 3000), extra]), tmp_path / "more.parquet")
    pq.write_table(log.slice(3000, 3000), tmp_path / "third.parquet")
    flags = ["--axis", "user", "--num_shards", "2"]
    for name, earlier in (("same", trained.data), ("more", trained.data), ("third", str(tmp_path / "same"))):
        source, out = str(tmp_path / f"{name}.parquet"), str(tmp_path / name)
        command("prepare", "--input", source, "--output", out, *flags, "--vocabulary", earlier)
    command("prepare", "--input", str(tmp_path / "same.parquet"), "--output", str(tmp_path / "apart"), *flags)
    for name, code, message in (
        ("same", 0, ""),
        ("third", 0, ""),
        ("more", 2, "more has 1 columns more than the model"),
        ("apart", 2, "has another vocabulary"),
    ):
        assert cli.main(["evaluate", "--model", trained.run, "--data", str(tmp_path / name)]) == code
        assert message in capsys.readouterr().err
