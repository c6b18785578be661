"""Features of rows from their file to the scores of rows without a rating, by every way."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from preparing import files_of, prepare
from samples import Trained, command
from scores import by_row, score, write_pairs

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.data.fold_rows import fold_rows
from nnsparse_stream.pipelines import cli
from nnsparse_stream.scoring.blend import Blend

LIKED = {"good": 5, "bad": 1}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Ratings of 80 films by 30 users that depend on the film's genre alone, and a model of rows of films."""
    where = tmp_path_factory.mktemp("films")
    draw = random.Random(0)
    genres = {film: draw.choice(list(LIKED)) for film in range(100)}
    lines = [f"{u},{film},{LIKED[genres[film]]}" for film in range(80) for u in draw.sample(range(30), 12)]
    (where / "log.csv").write_text("\n".join(["user,item,rating", *lines]))
    (where / "films.csv").write_text("film,genre\n" + "".join(f"{f},{genre}\n" for f, genre in genres.items()))
    log, data, run = (str(where / name) for name in ("log.csv", "data", "run"))
    flags = ["--axis", "item", "--folds", "80,10,10", "--num_shards", "3", "--row_features", str(where / "films.csv")]
    command("prepare", "--input", log, "--output", data, *flags)
    command("train", "--data", data, "--output", run, "--hidden", "8", "--epochs", "20", "--threads", "1")
    return Trained(log, data, run)


def features_file(films: Trained) -> str:
    return str(Path(films.log).with_name("films.csv"))


def genres_of(films: Trained) -> dict[int, str]:
    lines = Path(features_file(films)).read_text().splitlines()[1:]
    return {int(film): genre for film, genre in (line.split(",") for line in lines)}


def test_shards_come_with_the_features_of_their_rows(films: Trained) -> None:
    dataset = Dataset(films.data)
    dataset.check_files()
    assert dataset.manifest.features is not None
    values = pq.read_table(Path(films.data, dataset.manifest.features.path))["value"].to_pylist()
    found = {
        row["row"]: [values[feature] for feature in row["features"]]
        for batch in dataset.batches()
        for row in batch.to_pylist()
    }
    assert found == {film: [genre] for film, genre in genres_of(films).items() if film < 80}
    rows = fold_rows(next(dataset.batches()), (0,), dataset.manifest.num_columns)
    assert rows.features is not None
    assert rows.features.lengths().tolist() == [1] * rows.num_rows


def test_beam_writes_the_same_bytes(films: Trained, tmp_path: Path) -> None:
    flags = ["--axis", "item", "--folds", "80,10,10", "--num_shards", 3, "--row_features", features_file(films)]
    assert prepare("--input", films.log, "--output", tmp_path / "beam", *flags, "--runner=DirectRunner") == 0
    assert files_of(str(tmp_path / "beam")) == files_of(films.data)


def test_rows_without_a_rating_are_predicted_by_their_features(films: Trained, tmp_path: Path) -> None:
    pairs = [(user, film) for film in range(80, 100) for user in range(3)]
    path = write_pairs(tmp_path / "pairs.csv", pairs)
    by_data = by_row(score(tmp_path / "a", "--model", films.run, "--data", films.data, "--pairs", path))
    raw = ["--input", films.log, "--row_features", features_file(films)]
    by_log = by_row(score(tmp_path / "b", "--model", films.run, *raw, "--pairs", path))
    assert by_data == by_log
    genres = genres_of(films)
    means = {
        genre: [value for film, scored in by_data.items() if genres[film] == genre for _, value in scored]
        for genre in LIKED
    }
    assert min(means["good"]) > max(means["bad"])
    assert not (tmp_path / "b" / "scores" / "_features").exists()


def test_lists_by_data_and_by_raw_files_are_the_same(films: Trained, tmp_path: Path) -> None:
    raw = ["--input", films.log, "--row_features", features_file(films)]
    (tmp_path / "wanted.csv").write_text("item\n3\n99\n")
    wanted = ["--top_k", "2", "--rows", str(tmp_path / "wanted.csv")]
    by_log = by_row(score(tmp_path / "b", "--model", films.run, *raw, *wanted))
    by_data = by_row(score(tmp_path / "a", "--model", films.run, "--data", films.data, *wanted))
    assert by_log.keys() == by_data.keys() == {3, 99}  # film 99 has no rating
    for row, scored in by_data.items():
        assert [value for _, value in by_log[row]] == pytest.approx([value for _, value in scored], abs=1e-5)


def test_a_later_log_keeps_the_features_of_the_first(films: Trained, tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("film,genre\n" + "".join(f"{film},new\n" for film in range(90)) + "99,bad\n")
    flags = ["--input", films.log, "--axis", "item", "--vocabulary", films.data, "--output", tmp_path / "data"]
    assert prepare(*flags, "--row_features", tmp_path / "films.csv") == 0
    assert Dataset(str(tmp_path / "data")).manifest.features == Dataset(films.data).manifest.features
    command("evaluate", "--model", films.run, "--data", str(tmp_path / "data"), "--fold", "test")


def test_models_that_read_no_features_leave_them_aside(films: Trained, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    flags = ["--feature_scale", "0", "--hidden", "4", "--epochs", "1", "--threads", "1"]
    command("train", "--data", films.data, "--output", run, *flags)
    model = load_model(run)
    assert model.features is None
    assert not model.model.reads_features
    command("evaluate", "--model", run, "--data", films.data, "--fold", "test", "--json", str(tmp_path / "e.json"))
    assert json.loads((tmp_path / "e.json").read_text())["count"]


def test_what_does_not_fit_is_refused(
    films: Trained, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = str(tmp_path / "bare")
    assert prepare("--input", films.log, "--axis", "item", "--output", bare, "--num_shards", 3) == 0
    scored = ["score", "--output", str(tmp_path / "scores"), "--model"]
    features = ["--row_features", features_file(films)]
    later = ["--vocabulary", films.data]
    cases = [
        ([*scored, films.run, "--input", films.log], "reads features of rows: pass --row_features"),
        ([*scored, films.run, "--data", films.data, *features], "--data has its own features"),
        ([*scored, trained.run, "--input", trained.log, *features], "reads no features; leave out --row_features"),
        ([*scored, films.run, "--data", bare], "has not the features of rows"),
        (
            ["prepare", "--axis", "item", "--output", bare, "--overwrite", "--input", films.log, *later],
            "has features of its rows; pass --row_features",
        ),
    ]
    capsys.readouterr()
    for argv, said in cases:
        assert cli.main(argv) == 2
        assert said in capsys.readouterr().err


def test_a_part_that_is_damaged_is_named(films: Trained, tmp_path: Path) -> None:
    for name, data in files_of(films.data).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(Path(films.data, name).read_bytes() if "manifest" in name else data)
    part = tmp_path / "features" / "part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(Exception, match="part-00001"):
        list(Dataset(str(tmp_path)).batches())


def test_a_blend_holds_the_features_of_its_models(films: Trained, tmp_path: Path) -> None:
    blend = tmp_path / "blend"
    models = ["--model", f"{films.run},{films.run}", "--data", films.data]
    command("blend", *models, "--output", str(blend))
    for member in ("0", "1"):
        copied = Path("members", member, "features", "vocabulary.parquet")
        assert (blend / copied).read_bytes() == Path(films.run, "features", "vocabulary.parquet").read_bytes()
    assert Blend.read(str(blend)).fit.rmse < 1.0
    command("blend", *models, "--output", str(blend), "--overwrite")
