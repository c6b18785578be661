"""Every file of deploy/schedule: run, or held against the schema or the parser of what reads it."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
import yaml
from samples import ROOT

from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.nightly_config import STAGES, tomllib
from nnsparse_stream.ratings.synthetic import make_ratings

SCHEDULE = ROOT / "deploy" / "schedule"
#: Python of an environment with requirements-airflow.txt: `make install-airflow`.
AIRFLOW = Path(os.environ.get("NNSPARSE_STREAM_AIRFLOW", ROOT / ".venv-airflow" / "bin" / "python"))
CONFIG = "/etc/nnsparse-stream/nightly.toml"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(SCHEDULE / name)
    return parser


def manifests() -> dict[str, dict]:
    return {held["kind"]: held for held in yaml.safe_load_all((SCHEDULE / "cronjob.yaml").read_text())}


def parsed(words: list[str]) -> object:
    """A command line of ours, parsed: it ends the test where it is none."""
    assert words[0] == "nnsparse-stream"
    return cli.parser_for(words[1]).parse_args(words[2:])


def small(text: str, where: Path) -> str:
    """The example's configuration, of a small log."""
    table = make_ratings(150, 40, 3_000, 0.5, seed=1).ratings.select(["user", "item", "rating"])
    (where / "ratings").mkdir()
    times = pa.array(range(1_700_000_000, 1_700_000_000 + len(table)))
    pyarrow.csv.write_csv(table.append_column("timestamp", times), str(where / "ratings" / "day.csv"))
    changed = text.replace("/var/lib/nnsparse-stream", str(where / "out")).replace("/var/log", str(where))
    assert changed.count(str(where)) == 2
    return changed


def test_every_file_is_tested_here() -> None:
    here = Path(__file__).read_text()
    for path in SCHEDULE.rglob("*"):
        if path.suffix != ".pyc" and path.is_file():
            assert f'"{path.name}"' in here or f"{path.name}`" in here, f"no test names {path}"


def test_the_readme_leads_to_each_file() -> None:
    text = (SCHEDULE / "README.md").read_text()
    assert set(re.findall(r"\]\(([\w.-]+)\)", text)) == {
        path.name for path in SCHEDULE.iterdir() if path.is_file() and path.name != "README.md"
    }


def test_the_example_runs_on_a_small_log(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(small((SCHEDULE / "nightly.toml").read_text(), tmp_path))
    assert cli.main(["nightly", "--config", str(path), "--date", "2026-11-27"]) == 0
    latest = json.loads((tmp_path / "out" / "latest.json").read_text())
    assert (latest["night"], set(latest["metrics"])) == ("2026-11-27", {"rmse"})


def test_cron_runs_the_command() -> None:
    lines = [line for line in (SCHEDULE / "nnsparse-nightly.cron").read_text().splitlines() if line[:1] != "#"]
    (entry,) = [line for line in lines if not re.match(r"\w+=", line)]
    *times, user, words = entry.split(None, 6)
    ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    for time, (low, high) in zip(times, ranges, strict=True):
        assert time == "*" or all(low <= int(part) <= high for part in time.split(","))
    assert user == "nnsparse"
    assert "%" not in words  # cron takes it for a line's end
    command, logged = words.split(" | ")
    assert parsed(shlex.split(command)).config == CONFIG
    assert logged.startswith("logger ")


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    service = unit("nnsparse-nightly.service")["Service"]
    words = shlex.split(service["ExecStart"])
    assert parsed(words[1:]).config == CONFIG
    assert {str(code) for code in (2, cli.REFUSED)} == set(service["RestartPreventExitStatus"].split())
    output = tomllib.loads((SCHEDULE / "nightly.toml").read_text())["output"]
    assert output == f"/var/lib/{service['StateDirectory']}"  # the one place that the unit may write to
    assert unit("nnsparse-nightly.timer")["Timer"]["Persistent"] == "yes"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze, which reads units, is not installed")
    for name in ("nnsparse-nightly.service", "nnsparse-nightly.timer"):
        shutil.copy(SCHEDULE / name, tmp_path)
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "nnsparse" in line]) == (0, [])


def test_kubernetes_takes_the_cron_job() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for held in manifests().values():
        for version in ("1.31", "1.37"):
            kubernetes_validate.validate(held, version, strict=True)


def test_the_cron_job_runs_the_command_without_rights() -> None:
    held = manifests()
    job = held["CronJob"]["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert parsed([*container["command"], *container["args"]]).config == CONFIG
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"] == f"nnsparse-stream-cpu:{version}"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert held["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    codes = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes == [{"containerName": container["name"], "operator": "In", "values": [2, cli.REFUSED]}]
    # What is mounted is there, and what is written is mounted.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    output = tomllib.loads((SCHEDULE / "nightly.toml").read_text())["output"]
    assert (
        volumes[mounts[output]]["persistentVolumeClaim"]["claimName"]
        == (held["PersistentVolumeClaim"]["metadata"]["name"])
    )
    assert pod["serviceAccountName"] == held["ServiceAccount"]["metadata"]["name"]
    assert all(one["value"].startswith("/tmp") for one in container["env"])


def test_the_dag_has_the_stages_in_their_order() -> None:
    """As far as that can be seen without Airflow."""
    tree = ast.parse((SCHEDULE / "nightly_dag.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    stages = sorted((call for call in calls if call.func.id in ("piped", "plain")), key=lambda call: call.lineno)
    assert tuple(call.args[0].value for call in stages) == STAGES


_DAG_CODE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
tasks = [task for task in dag.topological_sort()]
print("FOUND " + json.dumps({
    "max_active_runs": dag.max_active_runs,
    "tasks": [[task.task_id, sorted(task.upstream_task_ids), task.retries] for task in tasks],
    "jobs": [task.dataflow_config.job_name for task in tasks if hasattr(task, "dataflow_config")],
}))
if len(sys.argv) > 2:
    context = {"ds": "2026-11-27", "var": {"value": {
        "nnsparse_nightly_config": sys.argv[2], "nnsparse_nightly_runner": "DirectRunner"}}}
    for task in tasks:
        task.render_template_fields(context)
        task.execute({**context, "ti": None})
"""


def airflow(where: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    if not AIRFLOW.exists():
        pytest.skip(f"no Airflow: `make install-airflow` makes {AIRFLOW} of requirements-airflow.txt")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(where / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # what the tasks run
        "PYTHONPATH": str(ROOT),
    }
    words = [str(AIRFLOW), "-c", _DAG_CODE, str(SCHEDULE / "nightly_dag.py"), *map(str, argv)]
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)


def test_airflow_imports_the_dag_and_its_tasks_do_a_night(tmp_path: Path) -> None:
    """Each task, rendered and executed in its order, as a worker does it (`requirements-airflow.txt`)."""
    path = tmp_path / "nightly.toml"
    path.write_text(small((SCHEDULE / "nightly.toml").read_text(), tmp_path))
    done = airflow(tmp_path, path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(re.search(r"^FOUND (.*)$", done.stdout, re.MULTILINE)[1])
    before = [[], *([stage] for stage in STAGES)]
    assert found["tasks"] == [[s, before[n], 0 if s == "gate" else 3] for n, s in enumerate(STAGES)]
    assert found["max_active_runs"] == 1
    assert found["jobs"] == [f"nnsparse-nightly-{stage}" for stage in ("prepare", "train", "evaluate", "score")]
    assert json.loads((tmp_path / "out" / "latest.json").read_text())["night"] == "2026-11-27"
