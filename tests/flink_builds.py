"""What `kubectl apply -k` sends of deploy/flink, by its parts."""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from samples import ROOT

HERE = ROOT / "deploy" / "flink"
BUILDS = ["overlays/cpu", "overlays/gpu", "overlays/minio", "batch", "stream", "resume"]


@functools.cache
def built(name: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` sends."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine")
    done = subprocess.run(["kubectl", "kustomize", str(HERE / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def kind_of(name: str, kind: str) -> dict[str, Any]:
    (found,) = (one for one in built(name) if one["kind"] == kind)
    return found


def pods(name: str) -> list[dict[str, Any]]:
    """The specifications of all pods; a task manager's is that of all pods of Flink with its own laid over it."""
    found = []
    for one in built(name):
        if one["kind"] == "FlinkDeployment":
            shared = one["spec"]["podTemplate"]["spec"]
            own = one["spec"]["taskManager"]["podTemplate"]["spec"]
            containers = {part["name"]: part for part in shared["containers"]}
            for part in own["containers"]:
                containers[part["name"]] = {**containers.get(part["name"], {}), **part}
            volumes = [*shared["volumes"], *own.get("volumes", [])]
            found.append({**shared, **own, "containers": list(containers.values()), "volumes": volumes})
        elif "template" in one.get("spec", {}):
            found.append(one["spec"]["template"]["spec"])
    return found


def containers(name: str) -> list[dict[str, Any]]:
    return [part for pod in pods(name) for part in [*pod.get("initContainers", []), *pod["containers"]]]


def container(name: str, called: str) -> dict[str, Any]:
    (found,) = (part for part in containers(name) if part["name"] == called)
    return found


def cluster(name: str = "overlays/cpu") -> dict[str, Any]:
    return dict(kind_of(name, "FlinkDeployment")["spec"])
