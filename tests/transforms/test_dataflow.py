"""Jobs of prepare and stream for Dataflow, up to where credentials would be needed: the dry run of Beam's runner."""

from __future__ import annotations

import functools
from typing import Any

import pytest

pytest.importorskip("google.cloud.dataflow", reason="no client of Dataflow; the extra dev has it")

from apache_beam.portability.api import beam_runner_api_pb2
from samples import Trained

from nnsparse_stream.pipelines import prepare
from nnsparse_stream.pipelines.cli import parser_for
from nnsparse_stream.pipelines.feedback_options import chosen_feedback
from nnsparse_stream.pipelines.prepare_job import build as build_preparation
from nnsparse_stream.pipelines.running import run_pipeline
from nnsparse_stream.ratings.folds import HashFolds
from nnsparse_stream.ratings.input_plan import plan_inputs
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.open_source import open_source
from nnsparse_stream.streaming.windows import Windows
from nnsparse_stream.transforms.stream import StreamJob, build_stream

IMAGE = "registry.example/my-project/nnsparse-stream:0.1.0"
FLAGS = [
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west1",
    "--job_name=prepare-ratings",
    "--staging_location=gs://my-bucket/staging",
    "--temp_location=gs://my-bucket/temp",
    f"--sdk_container_image={IMAGE}",
    "--sdk_location=container",
    "--resource_hints=min_ram=8GB",
    "--machine_type=n2-standard-4",
    "--max_num_workers=20",
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The job as it would be submitted."""
    ratings = tmp_path_factory.mktemp("dataflow") / "ratings.csv"
    ratings.write_text("user,item,rating\n1,2,3\n")
    flags = ["--input", str(ratings), "--output", "gs://my-bucket/data", "--axis", "user"]
    args = parser_for("prepare").parse_args(flags)
    plan = plan_inputs([str(ratings)])
    settings = prepare._settings(args, plan, chosen_feedback(args), HashFolds(), Selection(), None)
    build = functools.partial(build_preparation, args=args, plan=plan, settings=settings)
    return run_pipeline(build, [*FLAGS, "--dry_run=True"]).job


def test_workers_run_the_image_on_machines_of_the_size_asked_for(job: Any) -> None:
    environments = job.proto_pipeline.components.environments.values()
    for environment in environments:
        payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        assert (environment.urn, payload.container_image) == ("beam:env:docker:v1", IMAGE)
        assert environment.resource_hints["beam:resources:min_ram_bytes:v1"] == b"8000000000"


def test_the_job_names_the_pool_of_workers_and_where_files_are_staged(job: Any) -> None:
    from apache_beam.runners.dataflow.internal import apiclient

    staged = "gs://my-bucket/staging/pipeline.pb"
    described = apiclient.Environment(["extra.tar"], job.options, "8", staged, job.proto_pipeline).proto
    (pool,) = described.worker_pools
    assert pool.machine_type == "n2-standard-4"
    assert pool.autoscaling_settings.max_num_workers == 20
    assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]
    (package,) = pool.packages
    assert "/my-bucket/staging/prepare-ratings." in package.location
    assert "/my-bucket/temp/prepare-ratings." in described.temp_storage_prefix
    assert (job.proto.name, job.proto.type_.name) == ("prepare-ratings", "JOB_TYPE_BATCH")


def test_the_graph_is_the_one_of_every_engine(job: Any) -> None:
    names = {transform.unique_name for transform in job.proto_pipeline.components.transforms.values()}
    inner = {"BuildVocabulary/By part", "SparsifyRatings/By shard", "WriteShards/Write"}
    assert {"ReadRatings/Read", *(f"PrepareShards/{name}" for name in inner)} <= names


@pytest.fixture(scope="module")
def streaming(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The job of `stream`, as it would be submitted."""
    source = open_source(str(tmp_path_factory.mktemp("events")), EventFormat("user", "string", "string"))
    shards = BaseRows(trained.data).num_shards
    windows = Windows(60_000_000, 300_000_000)
    job = StreamJob(trained.data, trained.run, "gs://my-bucket/live", windows, shards, "string", "string")
    flags = [*FLAGS, "--dry_run=True", "--streaming"]
    return run_pipeline(lambda pipeline: build_stream(pipeline, source, job), flags).job


def test_a_stream_is_a_streaming_job_whose_events_are_read_piece_by_piece(streaming: Any) -> None:
    assert streaming.proto.type_.name == "JOB_TYPE_STREAMING"
    transforms = streaming.proto_pipeline.components.transforms.values()
    steps = {
        transform.unique_name: beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
        for transform in transforms
        if transform.spec.urn == "beam:transform:pardo:v1"
    }
    assert steps["ReadEvents/Read"].restriction_coder_id
    assert set(steps["KeepRatings/Keep"].state_specs) == {"pending", "settled", "meta"}
    unbounded = beam_runner_api_pb2.IsBounded.UNBOUNDED
    assert any(made.is_bounded == unbounded for made in streaming.proto_pipeline.components.pcollections.values())
