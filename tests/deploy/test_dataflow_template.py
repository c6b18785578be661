"""Flex templates: their metadata is that of the commands' flags, and what the launcher starts describes a whole job."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from samples import ROOT, Trained

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="no client of Dataflow; the extra dev has it")
pytest.importorskip("gcp_storage_emulator.server", reason="no server of GCS; the extra dev has it")

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator import server as emulator
from google.cloud import dataflow_v1beta3 as dataflow

from deploy.dataflow import metadata as templates
from deploy.dataflow.launch import COMMANDS, command_line
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import parser_for
from nnsparse_stream.scoring.manifest import NAME
from nnsparse_stream.storage import files as storage

FOLDER = ROOT / "deploy" / "dataflow"
IMAGE = "registry.example/my-project/nnsparse-stream-cpu:0.1.0"
GPU_IMAGE = IMAGE.replace("-cpu", "-gpu")
BUCKET = "my-bucket"
JOB_OBJECT = f"gs://{BUCKET}/staging/template_launches/2026-11-27_01_02_03-1/job_object"
SETTINGS = {"PROJECT": "my-project", "REGION": "europe-west1", "BUCKET": BUCKET, "IMAGE": IMAGE}


def test_there_is_a_template_of_every_command_that_runs_a_pipeline() -> None:
    names = {path.name for path in (FOLDER / "templates").iterdir()}
    assert names == {"prepare.json", "train.json", "blend.json", "evaluate.json", "score.json", "stream.json"}
    assert names == {f"{command}.json" for command in COMMANDS}
    text = (ROOT / "docs" / "engines.md").read_text()
    (named,) = re.findall(r"Every command that runs a pipeline \((.*?)\)", text)
    assert set(re.findall("`([a-z]+)`", named)) | {"stream"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_metadata_is_what_google_reads_and_what_the_flags_are(command: str) -> None:
    """`python -m deploy.dataflow.metadata write` writes it."""
    text = (FOLDER / "templates" / f"{command}.json").read_text()
    assert text == templates.text(templates.metadata(command))
    read = dataflow.TemplateMetadata.from_json(text, ignore_unknown_fields=False)
    names = [parameter.name for parameter in read.parameters]
    flags = {name for action in parser_for(command)._actions for name in action.option_strings} - {"-h", "--help"}
    # What is done without a job, or when it is over.
    left_out = {"train": {"--metrics_file"}, "stream": {"--compact", "--metrics_file"}}
    assert {f"--{name}" for name in names} == (flags - left_out.get(command, set())) | {
        "--command",
        "--sdk_container_image",
    }
    assert len(names) == len(set(names))
    assert read.streaming == (command == "stream")
    for parameter in read.parameters:
        assert parameter.label, parameter.name
        assert parameter.help_text, parameter.name
        for regex in parameter.regexes:
            for value in [option.value for option in parameter.enum_options] or [parameter.default_value or "1"]:
                assert re.fullmatch(regex, value), parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_spec_is_what_google_reads(command: str) -> None:
    run = [sys.executable, "-m", "deploy.dataflow.metadata", "spec", command, "--image", IMAGE]
    printed = subprocess.run(run, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    spec = dataflow.ContainerSpec.from_json(printed, ignore_unknown_fields=False)
    assert spec.image == IMAGE
    assert spec.sdk_info.language == dataflow.SDKInfo.Language.PYTHON
    assert spec.metadata.name == f"nnsparse-stream {command}"


def test_parameters_become_flags() -> None:
    given = ["--command=train", "--data=gs://b/d", "--seed=", "--resume=TRUE", "--overwrite=false", "--streaming=true"]
    given += ["--enable_streaming_engine", "--accelerator=type:nvidia-l4;count:1"]
    flags = ["--data=gs://b/d", "--resume", "--streaming", "--enable_streaming_engine"]
    assert command_line(given) == [
        "train", *flags, "--accelerator=type:nvidia-l4;count:1", "--sdk_location=container",
        "--no_save_main_session",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="resume: 'maybe' is neither true nor false"):
        command_line(["--command=train", "--resume=maybe"])
    for given in ([], ["--command=demo"]):
        with pytest.raises(ValueError, match="is none of prepare, train"):
            command_line(given)


def printed(*arguments: str, **settings: str) -> list[str]:
    """What `run.sh` would run, as words."""
    run = [FOLDER / "run.sh", "--print-only", *arguments]
    environment = {**os.environ, **SETTINGS, **settings}
    return shlex.split(subprocess.run(run, check=True, env=environment, capture_output=True, text=True).stdout)


def parameters_of(words: list[str]) -> dict[str, str]:
    """What --parameters says to gcloud."""
    (value,) = [word.removeprefix("--parameters=") for word in words if word.startswith("--parameters=")]
    found = re.fullmatch(r"\^(.)\^(.*)", value)
    assert found
    return dict(part.split("=", 1) for part in found[2].split(found[1]))


def printed_parameters(
    command: str, given: dict[str, str], flags: tuple[str, ...] = (), **settings: str
) -> tuple[list[str], str]:
    """What the launcher is given when `run.sh` starts a command, and the image of the workers."""
    words = printed(*flags, command, *(f"{name}={value}" for name, value in given.items()), **settings)
    parameters = parameters_of(words)
    return [f"--{name}={value}" for name, value in parameters.items()], parameters["sdk_container_image"]


class Tokens(BaseHTTPRequestHandler):
    """Gives a token to whoever shows a signature."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"access_token": "x", "expires_in": 3600, "token_type": "Bearer"}).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which gs:// is a server on the loopback interface, and credentials come from another one."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    host, port = server._api._httpd.socket.getsockname()
    tokens = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "launcher@my-project.example",
        "private_key": key.decode(),
        "token_uri": f"http://127.0.0.1:{tokens.server_port}/token",
    }
    credentials = tmp_path_factory.mktemp("credentials") / "account.json"
    credentials.write_text(json.dumps(account))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "STORAGE_EMULATOR_HOST": f"http://{host}:{port}",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }.items():
            patch.setenv(name, value)
        # fsspec has read its environment by now.
        patch.setitem(fsspec.config.conf, "gs", {"endpoint_url": f"http://{host}:{port}", "token": "anon"})
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        yield {"FSSPEC_GS_TOKEN": "anon"}
        fsspec.get_filesystem_class("gs").clear_instance_cache()
    tokens.shutdown()
    server.stop()


def launch(cloud: dict[str, str], *parameters: str) -> subprocess.CompletedProcess[str]:
    """Starts the program as the launcher in the image does, and waits for its end."""
    told = [
        "--runner=DataflowRunner",
        "--project=my-project",
        "--region=europe-west1",
        "--job_name=nightly",
        f"--staging_location=gs://{BUCKET}/staging",
        f"--temp_location=gs://{BUCKET}/temp",
        f"--template_location={JOB_OBJECT}",
        "--service_account_email=worker@my-project.example",
        '--labels={\n   "goog-dataflow-provided-template-type" : "flex"\n}\n',
        "--max_num_workers=7",
    ]
    command = [sys.executable, str(FOLDER / "launch.py"), *parameters, *told]
    return subprocess.run(command, env={**os.environ, **cloud}, capture_output=True, text=True, cwd=ROOT)


def described(done: subprocess.CompletedProcess[str]) -> tuple[Any, Any]:
    """The job that a launch has described, as Google reads it, and its pipeline."""
    assert done.returncode == 0, done.stderr[-3000:]
    job = dataflow.Job.from_json(storage.read_file(JOB_OBJECT), ignore_unknown_fields=False)
    options = job.environment.sdk_pipeline_options["options"]
    pipeline = beam_runner_api_pb2.Pipeline.FromString(storage.read_file(options["pipelineUrl"]))
    return job, pipeline


def run_described(pipeline: Any) -> None:
    """Runs a described job's pipeline, with workers of this process instead of the image."""
    for environment in pipeline.components.environments.values():
        environment.Clear()
        environment.urn = "beam:env:embedded_python:v1"
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()


def test_prepare_is_launched_and_its_job_completes_the_data_set(
    trained: Trained, cloud: dict[str, str], tmp_path: Path
) -> None:
    output, log = f"gs://{BUCKET}/data", f"gs://{BUCKET}/logs/ratings.parquet"
    storage.write_file(log, Path(trained.log).read_bytes())
    given = {"input": log, "output": output, "axis": "user", "folds": "80,10,10", "num_shards": "3"}
    parameters, image = printed_parameters("prepare", given)
    assert image == IMAGE
    job, pipeline = described(launch(cloud, *parameters))
    assert Tokens.asked, "the launcher does not use the credentials of its machine"
    assert (job.name, job.type_) == ("nightly", dataflow.JobType.JOB_TYPE_BATCH)
    (pool,) = job.environment.worker_pools
    assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]
    assert pool.autoscaling_settings.max_num_workers == 7
    # No code, which the image has: only a list of what the launcher had installed.
    assert {package.name for package in pool.packages} == {"submission_environment_dependencies.txt"}
    with pytest.raises(InputError):
        Manifest.read(output)
    run_described(pipeline)
    assert Manifest.read(output).fingerprint() == Manifest.read(trained.data).fingerprint()


def test_score_is_launched_with_a_gpu_for_the_workers_that_run_the_model_and_its_job_completes_the_lists(
    trained: Trained, cloud: dict[str, str]
) -> None:
    data, run, output = (f"gs://{BUCKET}/{name}" for name in ("known", "run", "lists"))
    for url, directory in ((data, Path(trained.data)), (run, Path(trained.run))):
        for file in (path for path in directory.rglob("*") if path.is_file()):
            storage.write_file(f"{url}/{file.relative_to(directory)}", file.read_bytes())
    given = {"data": data, "model": run, "output": output, "top_k": "5", "overwrite": "true"}
    parameters, image = printed_parameters("score", given, flags=("--gpu",), GPU_IMAGE=GPU_IMAGE)
    assert image == GPU_IMAGE
    job, pipeline = described(launch(cloud, *parameters))
    (pool,) = job.environment.worker_pools
    assert {image.container_image for image in pool.sdk_harness_container_images} == {GPU_IMAGE}
    hints = [dict(environment.resource_hints) for environment in pipeline.components.environments.values()]
    accelerators = [hint.get("beam:resources:accelerator:v1") for hint in hints]
    assert sorted(accelerators, key=bool) == [None, b"type:nvidia-l4;count:1;install-nvidia-driver"]
    run_described(pipeline)
    manifest = json.loads(storage.read_file(f"{output}/{NAME}"))
    assert manifest["top_k"] == 5
    assert not storage.exists(f"{output}/_unfinished.json")


def test_stream_is_launched_as_a_streaming_job(trained: Trained, cloud: dict[str, str], tmp_path: Path) -> None:
    given = {"source": str(tmp_path), "data": trained.data, "model": trained.run, "output": f"gs://{BUCKET}/live"}
    parameters, _ = printed_parameters("stream", given)
    job, pipeline = described(launch(cloud, *parameters))
    assert job.type_ == dataflow.JobType.JOB_TYPE_STREAMING
    assert any("ReadEvents" in step.unique_name for step in pipeline.components.transforms.values())


def test_what_a_template_cannot_do_is_refused_in_a_line(trained: Trained, cloud: dict[str, str]) -> None:
    judged = [f"--data={trained.data}", f"--model={trained.run}"]
    done = launch(cloud, "--command=evaluate", *judged)
    assert (done.returncode, "pass --json with a URL" in done.stderr) == (2, True), done.stderr
    rounds = ["--workers=2", "--rounds=4", "--epochs=3", "--rounds_per_job=4", f"--output=gs://{BUCKET}/rounds"]
    done = launch(cloud, "--command=train", f"--data={trained.data}", *rounds)
    assert (done.returncode, "a template is one job" in done.stderr) == (2, True), done.stderr


def test_run_says_what_gcloud_is_to_do() -> None:
    words = printed("prepare", "input=gs://b/a,gs://b/c", "output=gs://b/d", "axis=user", JOB="nightly", SUBNETWORK="s")
    assert words[:5] == ["gcloud", "dataflow", "flex-template", "run", "nightly"]
    assert {"--subnetwork=s", "--disable-public-ips", "--max-workers=20", "--project=my-project"} <= set(words)
    assert f"--template-file-gcs-location=gs://{BUCKET}/templates/prepare.json" in words
    assert parameters_of(words)["input"] == "gs://b/a,gs://b/c"
    streamed = printed("--gpu", "stream", "source=gs://b/e", GPU_IMAGE=GPU_IMAGE, GPU="nvidia-l4;count:1")
    assert {"--enable-streaming-engine", "--worker-machine-type=g2-standard-8"} <= set(streamed)
    accelerator = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    assert parameters_of(streamed)["dataflow_service_options"] == accelerator
    declared = {parameter["name"] for parameter in templates.metadata("stream")["parameters"]}
    assert set(parameters_of(streamed)) - {"dataflow_service_options"} <= declared


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo"], "there is no template of demo"),
        ([], "there is no template of no command"),
        (["--gpus", "train"], "there is no --gpus"),
        (["train", "--data", "x"], "--data is not FLAG=VALUE"),
    ],
)
def test_run_refuses(words: list[str], message: str) -> None:
    done = subprocess.run([FOLDER / "run.sh", *words], env={**os.environ, **SETTINGS}, capture_output=True, text=True)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_run_runs_what_it_prints(tmp_path: Path) -> None:
    (tmp_path / "gcloud").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    environment = {**os.environ, **SETTINGS, "JOB": "nightly", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = [FOLDER / "run.sh", "train", "data=gs://b/d"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == printed("train", "data=gs://b/d", JOB="nightly")[1:]


def test_build_says_what_is_built_and_puts_every_template_into_the_bucket() -> None:
    environment = {**os.environ, **SETTINGS, "GPU_IMAGE": GPU_IMAGE, "PYTHON": sys.executable}
    run = [FOLDER / "build.sh", "--print-only"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    built = {line[line.index("--tag") + 1]: line[line.index("--target") + 1] for line in lines if line[1] == "build"}
    assert built == {IMAGE: "cpu", GPU_IMAGE: "gpu"}
    assert {line[2] for line in lines if line[1] == "push"} == {IMAGE, GPU_IMAGE}
    copied = {line[-1] for line in lines if line[:3] == ["gcloud", "storage", "cp"]}
    assert copied == {f"gs://{BUCKET}/templates/{command}.json" for command in COMMANDS}
