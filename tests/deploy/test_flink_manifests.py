"""Flink on Kubernetes: manifests against the schemas of their kinds, and against what runs as processes."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from flink_builds import BUILDS, HERE, built, cluster, container, containers, kind_of, pods
from samples import ROOT

from deploy.engines.engine import EngineError, cached, run_tool
from deploy.engines.flink import artefacts
from deploy.engines.flink.cluster import _METASPACE_MB, _OPENS, FlinkCluster
from nnsparse_stream.pipelines import cli

COMMANDS = ("prepare", "train", "score", "stream")
KUBECONFORM = "0.8.0"
#: The oldest that has containers which start before a job's and end with it, and the newest that is known.
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"([0-9]+)(m|Mi|Gi)", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "Gi" else 1)


def closed(schema: Any) -> Any:
    """A schema that knows no fields but those it names, as strict validation wants it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        inner.setdefault("additionalProperties", False)
    return inner


@functools.cache
def operator_schema() -> dict[str, Any]:
    definition = yaml.safe_load((Path(__file__).parent / "schemas" / "flinkdeployments.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"].update(apiVersion={"const": "flink.apache.org/v1beta1"}, kind={}, metadata={})
    return dict(schema)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_built_fits_its_schemas(name, version):
    for one in built(name):
        if one["kind"] != "FlinkDeployment":
            kubernetes_validate.validate(one, version, strict=True)
            continue
        jsonschema.validate(one, operator_schema())
        for template in (one["spec"]["podTemplate"], one["spec"]["taskManager"]["podTemplate"]):
            kubernetes_validate.validate(template, version, strict=True)


def kubeconform(resource: dict[str, Any], where: Path) -> dict[str, Any]:
    """What kubeconform says of a cluster, by the operator's definition of it."""
    if shutil.which("go") is None:
        pytest.skip("no go, which installs kubeconform")

    def install(directory: Path) -> None:
        run_tool(["go", "install", f"github.com/yannh/kubeconform/cmd/kubeconform@v{KUBECONFORM}"], directory,
                 GOBIN=str(directory), CGO_ENABLED="0")  # fmt: skip

    try:
        program = cached(f"kubeconform-{KUBECONFORM}", install) / "kubeconform"
    except EngineError as error:
        pytest.skip(f"kubeconform cannot be installed: {str(error).splitlines()[-1]}")
    (where / "flinkdeployment_v1beta1.json").write_text(json.dumps(operator_schema()))
    (where / "resource.json").write_text(json.dumps(resource))
    schemas = str(where / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json")
    words = [program, "-strict", "-output=json", "-summary", "-schema-location", schemas, where / "resource.json"]
    done = subprocess.run(words, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (found["summary"]["valid"] == 1), done.stdout
    return found


@pytest.mark.parametrize("name", ["overlays/cpu", "overlays/gpu", "overlays/minio"])
def test_kubeconform_takes_the_cluster_and_no_misspelt_one(name, tmp_path):
    cluster = json.loads(json.dumps(kind_of(name, "FlinkDeployment")))
    assert kubeconform(cluster, tmp_path)["summary"]["valid"] == 1
    cluster["spec"]["jobManager"]["replica"] = cluster["spec"]["jobManager"].pop("replicas")
    (refused,) = kubeconform(cluster, tmp_path)["resources"]
    assert "replica" in refused["msg"]


def test_the_schemas_refuse_what_is_misspelt():
    broken = json.loads(json.dumps(kind_of("overlays/cpu", "FlinkDeployment")))
    broken["spec"]["taskManager"]["replica"] = broken["spec"]["taskManager"].pop("replicas")
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(broken, operator_schema())
    template = broken["spec"]["podTemplate"]
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(template, VERSIONS[0], strict=True)


def test_every_file_is_in_a_build_or_known():
    known = {HERE / name for name in ("README.md", "Dockerfile", "__init__.py", "savepoint.py")}
    for file in HERE.rglob("kustomization.yaml"):
        known.add(file)
        text = yaml.safe_load(file.read_text())
        assert any(file.parent == HERE / name for name in BUILDS) or file.parent.name == "base"
        used = [*text.get("resources", []), *(one["path"] for one in text.get("patches", []))]
        used += [name for one in text.get("configMapGenerator", []) for name in one["envs"]]
        known |= {(file.parent / name).resolve() for name in used}
    files = {file for file in HERE.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert files <= known


@pytest.mark.parametrize("name", BUILDS)
def test_nothing_runs_as_root_writes_to_its_root_or_has_a_right(name):
    for pod in pods(name):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        volumes = {one["name"] for one in pod["volumes"]}
        for part in [*pod.get("initContainers", []), *pod["containers"]]:
            context = dict(part["securityContext"])
            user = context.pop("runAsUser", pod["securityContext"]["runAsUser"])
            assert context.pop("runAsGroup", pod["securityContext"]["runAsGroup"]) == user
            assert context == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, part["name"]  # fmt: skip
            if re.match("nnsparse-stream-[cg]pu:", part.get("image", "")):  # which knows no other user
                assert f"USER {user}:{user}\n" in (ROOT / "deploy" / "images" / "Dockerfile").read_text()
            assert "/tmp" in {mount["mountPath"] for mount in part["volumeMounts"]}
            assert {mount["name"] for mount in part["volumeMounts"]} <= volumes | {"data"}
            # What the operator gives Flink's own containers stands in `resource`.
            if part["name"] != "flink-main-container":
                assert set(part["resources"]["requests"]) == {"cpu", "memory"}
                assert "memory" in part["resources"]["limits"]
    assert not [one for one in built(name) if one["kind"] in ("Role", "ClusterRole", "RoleBinding", "Secret")]


@pytest.mark.parametrize("name", BUILDS)
def test_secrets_are_only_referred_to(name):
    for part in containers(name):
        for variable in part.get("env", []):
            if re.search("KEY|SECRET|PASSWORD|TOKEN|ACCESS", variable["name"]):
                assert "value" not in variable
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "nnsparse-stream-storage"
    opens_urls = [
        part for part in containers(name) if part["name"] in ("worker-pool", "flink-main-container", *COMMANDS)
    ]
    assert opens_urls
    for part in opens_urls:
        assert {"secretRef": {"name": "nnsparse-stream-storage", "optional": True}} in part["envFrom"]


def test_the_configuration_is_that_of_the_processes(tmp_path):
    processes = FlinkCluster(tmp_path)
    processes.write_configuration()
    theirs = json.loads((tmp_path / "conf" / "config.yaml").read_text())
    # Addresses, ports and folders of one machine, what the operator makes of `resource`, and what only tests want.
    for name in list(theirs):
        if re.match(r"rest\.|.*\.(host|address|port|bind-host)$|io\.tmp|state\.|web\.", name):
            del theirs[name]
    assert theirs.pop("taskmanager.cpu.cores") == cluster()["taskManager"]["resource"]["cpu"]
    ours = cluster()["flinkConfiguration"]
    assert {name: ours.get(name) for name in theirs} == {name: str(value) for name, value in theirs.items()}
    more = set(ours) - set(theirs)
    assert not [name for name in more if not name.startswith(("jobmanager.memory.", "state.", "metrics."))]


def test_replicas_slots_and_parallelism_are_one_number():
    default, _ = FlinkCluster.SIZES["task_managers"]
    for name in ("overlays/cpu", "overlays/gpu", "overlays/minio"):
        spec = cluster(name)
        assert spec["taskManager"]["replicas"] == default == int(spec["flinkConfiguration"]["parallelism.default"])
        assert spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"


def test_pods_have_the_memory_that_their_parts_add_up_to():
    ours = cluster()["flinkConfiguration"]
    for of, kind in (("taskManager", "taskmanager"), ("jobManager", "jobmanager")):
        parts = [mebibytes(value) for name, value in ours.items()
                 if name.startswith(f"{kind}.memory.") and not name.endswith(".min")]  # fmt: skip
        assert mebibytes(cluster()[of]["resource"]["memory"]) == sum(parts)


def test_flink_itself_takes_the_memory(tmp_path):
    jars = sorted((artefacts_directory() / f"flink-{artefacts.FLINK_VERSION}").glob("*.jar"))
    if not jars or shutil.which("java") is None:
        pytest.skip("no Flink or no Java on this machine; `make install-engines`")
    spec = cluster()
    sizes = {f"{kind}.memory.process.size": spec[of]["resource"]["memory"]
             for of, kind in (("taskManager", "taskmanager"), ("jobManager", "jobmanager"))}  # fmt: skip
    settings = {**spec["flinkConfiguration"], **sizes, "taskmanager.cpu.cores": 1.0}

    def check() -> subprocess.CompletedProcess[str]:
        (tmp_path / "config.yaml").write_text(json.dumps(settings))
        program = Path(__file__).with_name("FlinkMemory.java")
        command = ["java", "-cp", ":".join(map(str, jars)), str(program), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True)

    done = check()
    assert done.returncode == 0, done.stderr
    assert "managedMemorySize=1024" in done.stdout
    settings["taskmanager.memory.process.size"] = "2881m"
    assert "Derived JVM Overhead size" in check().stderr


def artefacts_directory() -> Path:
    import os

    return Path(os.environ.get("NNSPARSE_STREAM_ENGINES") or "~/.cache/nnsparse-stream/engines").expanduser()


def test_versions_are_those_of_the_processes_and_the_package():
    dockerfile = (HERE / "Dockerfile").read_text()
    assert f"FROM flink:{artefacts.FLINK_VERSION}-scala_2.12-java17" in dockerfile
    assert f"/opt/flink/opt/flink-s3-fs-presto-{artefacts.FLINK_VERSION}.jar" in dockerfile
    assert f"COPY {artefacts._POM.relative_to(ROOT)} " in dockerfile
    assert cluster()["flinkVersion"] == "v" + "_".join(artefacts.FLINK_VERSION.split(".")[:2])
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    images = {part["image"] for name in BUILDS for part in containers(name) if "image" in part}
    own = {image for image in images if image.startswith("nnsparse")} | {cluster()["image"]}
    assert own == {f"nnsparse-stream-{what}:{version}" for what in ("flink", "cpu", "gpu")}
    assert all(re.search(r":(RELEASE\.)?[0-9]", image) for image in images)


def test_a_pool_is_in_each_task_managers_pod_and_where_the_flags_say(tmp_path, monkeypatch):
    processes, started = FlinkCluster(tmp_path), []
    monkeypatch.setattr(processes.servers, "start", lambda *given: started.append(given))
    processes.start_pool()
    ((_, (_, *module, _, _), _),) = started
    for name in ("overlays/cpu", "overlays/gpu", "overlays/minio"):
        pool = container(name, "worker-pool")
        entrypoint = ["/opt/nnsparse-stream/gpu_boot.sh"] if name == "overlays/gpu" else []
        assert pool["command"] == [*entrypoint, "python", *module, "50000", "/tmp/workers"]
        assert "/tmp" in [mount["mountPath"] for mount in pool["volumeMounts"]]
        assert [port["containerPort"] for port in pool["ports"]] == [50000]
    assert "nvidia.com/gpu" in container("overlays/gpu", "worker-pool")["resources"]["limits"]


def without_ports(flags: list[str]) -> list[str]:
    return [re.sub(r"localhost:[0-9]+$", "localhost:PORT", flag) for flag in flags]


@pytest.mark.parametrize(("name", "command"), [("batch", "prepare"), ("batch", "train"), ("batch", "score"),
                                               ("stream", "stream"), ("resume", "stream")])  # fmt: skip
def test_commands_have_flags_that_they_know_and_those_of_the_processes(name, command, tmp_path):
    part = container(name, command)
    assert part["command"] == ["nnsparse-stream", command]
    urls = {key: value for one in built(name) if one["kind"] == "ConfigMap" for key, value in one["data"].items()}
    assert one_config_map(name) in [of["configMapRef"]["name"] for of in part["envFrom"] if "configMapRef" in of]
    flags = [re.sub(r"\$\((\w+)\)", lambda found: urls[found[1]], flag) for flag in part["args"]]
    _, beam_flags = cli.parser_for(command).parse_known_args(flags)
    cli._check_beam_flags(command, beam_flags)
    processes = FlinkCluster(tmp_path)
    expected = processes.flags() if name == "batch" else processes.streaming_flags()
    more = [flag for flag in beam_flags if flag.startswith("--savepoint_path=")]
    assert len(more) == (name == "resume")
    assert sorted(without_ports(beam_flags)) == sorted([*without_ports(expected), *more])
    assert "--job_endpoint=localhost:8099" in beam_flags
    assert "--environment_config=localhost:50000" in beam_flags


def one_config_map(name: str) -> str:
    return str(kind_of(name, "ConfigMap")["metadata"]["name"])


def test_all_reach_the_store_of_the_cluster():
    store = kind_of("overlays/minio", "ConfigMap")
    url = json.loads(store["data"]["FSSPEC_S3"])["endpoint_url"]
    assert store["metadata"]["name"] == "nnsparse-stream-storage"  # which all containers take, of whatever build
    assert cluster("overlays/minio")["flinkConfiguration"]["s3.endpoint"] == url
    service = kind_of("overlays/minio", "Service")
    assert url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    bucket = container("overlays/minio", "bucket")["args"][-1].partition("/")[2]
    named = [
        value for name in BUILDS for one in built(name) if one["kind"] == "ConfigMap" for value in one["data"].values()
    ]
    named += list(cluster()["flinkConfiguration"].values())
    assert {url.split("/")[2] for url in named if url.startswith("s3://")} == {bucket}


def test_stages_follow_each_other():
    (pod,) = pods("batch")
    assert [part["name"] for part in pod["initContainers"]] == ["job-server", "prepare", "train"]
    assert [part["name"] for part in pod["containers"]] == ["score"]


@pytest.mark.parametrize("name", ["batch", "stream", "resume"])
def test_the_job_server_is_that_of_the_processes(name, tmp_path, monkeypatch):
    started = []
    processes = FlinkCluster(tmp_path)
    monkeypatch.setattr(processes, "_java", lambda *given: started.append(given))
    processes._job_server()
    ((_, heap, direct, main, *arguments),) = started
    server = container(name, "job-server")
    assert server["restartPolicy"] == "Always"  # beside the commands, as long as they run
    assert server["image"] == cluster()["image"]
    java = [f"-Xmx{heap}m", f"-XX:MaxDirectMemorySize={direct}m", f"-XX:MaxMetaspaceSize={_METASPACE_MB}m", *_OPENS]
    assert server["command"] == ["java", *java, "-cp", "/opt/flink/lib/*", main]
    assert [flag.partition("=")[0] for flag in server["args"]] == [flag.partition("=")[0] for flag in arguments]
    assert (
        f"--flink-master={kind_of('overlays/cpu', 'FlinkDeployment')['metadata']['name']}-rest:8081" in server["args"]
    )
    assert {"--job-host=localhost", "--job-port=8099"} <= set(server["args"])
    assert mebibytes(server["resources"]["limits"]["memory"]) >= heap + direct + _METASPACE_MB + 192


def test_ports_are_documented_and_closed():
    text = (HERE / "README.md").read_text()
    table = text[text.index("## Ports") : text.index("## Sizes")]
    told = {int(port) for line in table.splitlines() if line.startswith("| ") for port in
            re.findall(r"\b[0-9]{4,5}\b", line.split("|")[1])}  # fmt: skip
    used = {port["containerPort"] for name in BUILDS for part in containers(name) for port in part.get("ports", [])}
    of_server = " ".join(container("batch", "job-server")["args"])
    used |= {int(port) for port in re.findall(r"(?::|port=)([0-9]+)", of_server)}
    assert used | {6122, 6123, 6124} == told  # these are the operator's own
    policy = kind_of("overlays/cpu", "NetworkPolicy")["spec"]
    chosen = policy["podSelector"]["matchLabels"]
    labels = [cluster()["podTemplate"]["metadata"]["labels"]]
    labels += [one["spec"]["template"]["metadata"]["labels"] for name in BUILDS for one in built(name)
               if "template" in one.get("spec", {})]  # fmt: skip
    assert all(chosen.items() <= of.items() for of in labels)
    others = [(rule["from"], [port["port"] for port in rule["ports"]]) for rule in policy["ingress"] if "ports" in rule]
    assert [ports for _, ports in others] == [[8081], [9249]]
