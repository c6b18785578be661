"""The nightly chain in Airflow: a task for each stage of `nnsparse-stream nightly`, which does what is not yet done.

Airflow's Variables say where and how: `nnsparse_nightly_config`, the URL of nightly.toml, `nnsparse_nightly_runner`,
the Beam runner of the stages that run a pipeline, and `nnsparse_nightly_region`, where that is DataflowRunner. The
tasks run `python3` of the workers' PATH, which has nnsparse-stream.
"""

from __future__ import annotations

import datetime

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.google.cloud.operators.dataflow import DataflowConfiguration
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

CONFIG = "{{ var.value.get('nnsparse_nightly_config', '/etc/nnsparse-stream/nightly.toml') }}"
RUNNER = "{{ var.value.get('nnsparse_nightly_runner', 'DirectRunner') }}"
NIGHT = "{{ ds }}"
REGION = "{{ var.value.get('nnsparse_nightly_region', 'europe-west1') }}"
#: Beam's options of the engine that the runner names. Of DataflowRunner: temp_location, sdk_container_image, and
#: "sdk_location": "container". The project is that of Airflow's connection; on_kill cancels the job.
ENGINE: dict[str, object] = {}

with DAG(
    dag_id="nnsparse_nightly",
    description="Prepare, train, judge, score and publish a night's lists",
    schedule="30 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    catchup=False,
    # Two nights must not write at the same time: on an object store nothing else keeps them apart.
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": datetime.timedelta(minutes=5)},
    tags=["nnsparse-stream"],
) as dag:

    def piped(stage: str) -> BeamRunPythonPipelineOperator:
        """A stage that runs a pipeline."""
        return BeamRunPythonPipelineOperator(
            task_id=stage,
            runner=RUNNER,
            py_options=["-m"],
            py_file="nnsparse_stream.pipelines.nightly",
            pipeline_options={**ENGINE, "config": CONFIG, "date": NIGHT, "until": stage},
            # Read where the runner is Dataflow's. A stage may be several jobs, as that which judges two models.
            dataflow_config=DataflowConfiguration(
                job_name=f"nnsparse-nightly-{stage}", location=REGION, multiple_jobs=True
            ),
        )

    def plain(stage: str, retries: int) -> BashOperator:
        """A stage that only reads and writes small files."""
        command = f"python3 -m nnsparse_stream.pipelines nightly --config '{CONFIG}' --date {NIGHT} --until {stage}"
        return BashOperator(task_id=stage, bash_command=command, retries=retries)

    # A gate that refused (exit code 3) is no better when it is asked again.
    _ = (
        piped("prepare")
        >> piped("train")
        >> piped("evaluate")
        >> plain("gate", retries=0)
        >> piped("score")
        >> plain("publish", retries=3)
    )
