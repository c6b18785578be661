"""The image of CPU workers, built offline but for Python's packages, and the commands that run in it.

What the Dockerfile builds on is made here, under the names that it has there: Debian with its Python, and Beam's boot,
from source. Google's launcher is not to be had: an empty file stands for it. An index with torch for the CPU alone may
be named by NNSPARSE_STREAM_TORCH_INDEX; without one torch is left out of the image, and the containers find that of
this environment, with what it needs, in a directory that is mounted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from samples import ROOT, Trained, command, contents

from deploy.engines.engine import cached
from deploy.engines.prism import Prism
from deploy.engines.servers import listens
from nnsparse_stream.data.manifest import Manifest

pytestmark = [pytest.mark.images, pytest.mark.timeout(3000)]

TOOLS = ("buildah", "debootstrap", "go", "unshare", "chroot")
PYTHON, BEAM = "docker.io/library/python:3.11-slim-bookworm", "docker.io/apache/beam_python3.11_sdk:2.77.0"
LAUNCHER = "gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00"
#: The pool's port, which Beam's boot has no flag for.
PORT = 50000
#: Where containers find torch that is not in the image.
TORCH = "/tmp/torch"
# A container: the image's files read-only, /tmp of its own, the data at the path that they have outside, torch, and the
# name of the loopback interface, which every container has, and Beam's boot needs; run as the image's user.
ISOLATED = f"""
mount --bind "$1" "$1" && mount -t tmpfs tmpfs "$1/tmp" && mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev"
mkdir -p "$1$2" "$1{TORCH}" && mount --bind "$2" "$1$2" && mount --bind "$3" "$1{TORCH}"
echo 127.0.0.1 localhost > "$1/etc/hosts"
mount -o remount,ro,bind "$1"
root=$1 user=$4; shift 4
exec chroot --userspec="$user" "$root" /usr/bin/env --ignore-environment "$@"
"""


class Image(NamedTuple):
    """The image: how it is run, and where its files lie."""

    config: dict[str, Any]
    root: Path

    def container(self, data: Path, *command: str) -> list[str]:
        """What runs a command in a container that ends with it.

        Args:
            data: what the container sees of this machine, which may be written.
        """
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ISOLATED, "sh"]
        mounted = [self.root, data, distribution("torch").locate_file("")]
        settings = [f"--chdir={self.config['WorkingDir']}", *self.config["Env"]]
        return [*isolated, *map(str, mounted), self.config["User"], *settings, *command]


class Buildah(NamedTuple):
    """buildah with a store of its own."""

    store: Path

    def __call__(self, *words: str | Path) -> str:
        places = ["--root", self.store / "images", "--runroot", self.store / "run", "--storage-driver", "vfs"]
        done = subprocess.run(["buildah", *map(str, places), *map(str, words)], stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout.strip()

    def make(self, name: str, directory: Path) -> None:
        """Makes an image of a directory."""
        container = self("from", "scratch")
        self("add", "--quiet", container, directory, "/")
        self("commit", "--quiet", "--rm", container, name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing more'}")
    # Gigabytes, which pytest would keep.
    with tempfile.TemporaryDirectory() as store:
        yield _built(Buildah(Path(store)), tmp_path_factory.mktemp("images"))


def _built(buildah: Buildah, scratch: Path) -> Image:
    buildah.make(PYTHON, cached("debian-bookworm-python", _debian))
    boot = scratch / "beam" / "opt" / "apache" / "beam"
    boot.mkdir(parents=True)
    shutil.copy(cached(f"beam-boot-{version('apache-beam')}", _boot) / "container", boot / "boot")
    for name in ("LICENSE", "NOTICE"):
        (boot / name).write_text("that of Beam's image\n")
    buildah.make(BEAM, scratch / "beam")
    launcher = scratch / "launcher" / "opt" / "google" / "dataflow"
    launcher.mkdir(parents=True)
    (launcher / "python_template_launcher").touch()
    buildah.make(LAUNCHER, scratch / "launcher")
    index = os.environ.get("NNSPARSE_STREAM_TORCH_INDEX") or f"file://{_index_without_torch(scratch / 'index')}"
    name = "localhost/nnsparse-stream:test"
    # The network, and the certificates, are this machine's.
    shared = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", scratch)]
    file = ROOT / "deploy" / "images" / "Dockerfile"
    wanted = ["--pull-never", "--isolation=chroot", "--target=cpu", f"--ignorefile={file}.dockerignore", *shared]
    buildah("build", *wanted, "--file", file, "--tag", name, f"--build-arg=TORCH_INDEX={index}", ROOT)
    config = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    return Image(config, Path(buildah("mount", buildah("from", "--pull-never", name))))


def _debian(directory: Path) -> None:
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", directory], check=True)


def _boot(directory: Path) -> None:
    module = f"github.com/apache/beam/sdks/v2/python/container@v{version('apache-beam')}"
    environment = {**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0"}
    subprocess.run(["go", "install", module], check=True, env=environment)


def _index_without_torch(directory: Path) -> Path:
    """An index of packages whose torch is a path on which torch may be found."""
    folder = directory / "torch"
    folder.mkdir(parents=True)
    stem = f"torch-{version('torch').partition('+')[0]}"
    wheel = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        info = f"{stem}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {stem.split('-')[1]}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr("torch.pth", TORCH)  # searched after the image's own packages
    (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    return directory


def test_the_image_says_what_it_is(image: Image) -> None:
    config, root = image
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/opt/apache/beam/boot"]
    parts = json.loads((root / "opt/nnsparse-stream/sbom.cdx.json").read_text())
    listed = {part["name"]: part for part in parts["components"]}
    assert listed["apache-beam"]["version"] == version("apache-beam")
    assert listed["pyarrow"]["licenses"]
    # Debian's Python is older than 3.11.3, for which redis wants a package more.
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").open()}
    assert {name.lower().replace("_", "-") for name in listed} <= pinned | {"nnsparse-stream", "async-timeout"}
    assert not {"pytest", "mypy", "ruff", "moto", "setuptools"} & set(listed)
    assert not [tool for tool in ("gcc", "cc", "make", "git") if (root / "usr/bin" / tool).exists()]


@pytest.fixture
def data(trained: Trained, tmp_path: Path) -> Path:
    """A directory that the image's user writes to, with the log, the data set and the model of it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    shutil.copy(trained.log, shared / "ratings.parquet")
    for name, url in (("data", trained.data), ("run", trained.run)):
        shutil.copytree(url, shared / name)
    return shared


def run(image: Image, data: Path, *command: str) -> None:
    """Runs a command of the package, out of the image, and expects it to succeed."""
    words = image.container(data, "nnsparse-stream", *command)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def owners(directory: Path) -> set[int]:
    return {path.stat().st_uid for path in directory.rglob("*")}


def flinks_pool() -> list[str]:
    """The command of the pool that task managers of Flink have beside them."""
    cluster = ROOT / "deploy" / "flink" / "base" / "cluster.yaml"
    for found in yaml.safe_load_all(cluster.read_text()):
        if found["kind"] == "FlinkDeployment":
            containers = found["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
            return next(list(one["command"]) for one in containers if one["name"] == "worker-pool")
    raise AssertionError(cluster)


def test_train_runs_with_a_read_only_root(image: Image, data: Path) -> None:
    flags = ["--hidden", "16", "--epochs", "1", "--threads", "1"]
    run(image, data, "train", "--data", str(data / "data"), "--output", str(data / "new"), *flags)
    command("train", "--data", str(data / "data"), "--output", str(data / "expected"), *flags)
    made, expected = (contents(str(data / name)) for name in ("new", "expected"))
    weights = [name for name in expected if name.endswith(".safetensors")]
    assert weights
    assert [made[name] for name in weights] == [expected[name] for name in weights]
    assert owners(data / "new") == {10001}


@pytest.mark.parametrize("pool", ["boot", "flink"])
def test_pipelines_run_with_a_read_only_root(pool: str, image: Image, data: Path, tmp_path: Path) -> None:
    """Their workers and their driver, each in a container."""
    assert not listens(PORT), "another pool's"
    started = [*image.config["Entrypoint"], "--worker_pool"] if pool == "boot" else flinks_pool()
    prism = Prism(tmp_path / "prism")
    try:
        prism.servers.start("prism", [Prism.program(), f"-job_port={prism.ports['jobs']}", "-serve_http=false"])
        prism.servers.start("pool", image.container(data, *started))
        prism.wait_for_ports("jobs")
        prism.servers.wait("the pool", lambda: listens(PORT), 120)
        flags = [*prism.flags()[:-1], f"--environment_config=localhost:{PORT}"]
        new, scores, expected = (str(data / name) for name in ("new", "scores", "expected"))
        folds = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "3"]
        run(image, data, "prepare", "--input", str(data / "ratings.parquet"), "--output", new, *folds, *flags)
        score = ["score", "--data", new, "--model", str(data / "run"), "--top_k", "3", "--output"]
        run(image, data, *score, scores, *flags)
    finally:
        if prism.servers.running():
            print(prism.servers.tail("pool"), prism.servers.tail("prism"), sep="\n", file=sys.stderr)
        prism.stop()
    assert Manifest.read(new).fingerprint() == Manifest.read(str(data / "data")).fingerprint()
    command(*score, expected)
    assert contents(scores) == contents(expected)
    assert owners(data / "new") == owners(data / "scores") == {10001}
