"""The image of CPU workers, built offline but for Python's packages, and a pipeline that runs in it.

What the Dockerfile builds on is made here, under the names that it has there: Debian with its Python, and Beam's boot,
from source. Google's launcher is not to be had: an empty file stands for it. An index with torch for the CPU alone may
be named by NNSPARSE_STREAM_TORCH_INDEX; without one torch is left out, which `prepare` and its workers never import.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT, Trained, command

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
# Mounted read-only, with /tmp of its own and the data at the path that the driver knows; run as the image's user.
ISOLATED = """
mount --bind "$1" "$1" && mount -t tmpfs tmpfs "$1/tmp" && mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev"
mkdir -p "$1$2" && mount --bind "$2" "$1$2" && mount -o remount,ro,bind "$1"
root=$1 user=$3; shift 3
exec chroot --userspec="$user" "$root" "$@"
"""


def buildah(*words: str | Path, **options: Any) -> str:
    run = ["buildah", "--storage-driver", "vfs", *map(str, words)]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the image, built."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing more'}")
    scratch = tmp_path_factory.mktemp("images")
    _import(PYTHON, cached("debian-bookworm-python", _debian))
    boot = scratch / "beam" / "opt" / "apache" / "beam"
    boot.mkdir(parents=True)
    shutil.copy(cached(f"beam-boot-{version('apache-beam')}", _boot) / "container", boot / "boot")
    for name in ("LICENSE", "NOTICE"):
        (boot / name).write_text("that of Beam's image\n")
    _import(BEAM, scratch / "beam")
    launcher = scratch / "launcher" / "opt" / "google" / "dataflow"
    launcher.mkdir(parents=True)
    (launcher / "python_template_launcher").touch()
    _import(LAUNCHER, scratch / "launcher")
    index = os.environ.get("NNSPARSE_STREAM_TORCH_INDEX") or f"file://{_index_without_torch(scratch / 'index')}"
    name = "localhost/nnsparse-stream:test"
    # The network, and the certificates, are this machine's.
    shared = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", scratch)]
    file = ROOT / "deploy" / "images" / "Dockerfile"
    wanted = ["--pull-never", "--isolation=chroot", "--target=cpu", f"--ignorefile={file}.dockerignore", *shared]
    buildah("build", *wanted, "--file", file, "--tag", name, f"--build-arg=TORCH_INDEX={index}", ROOT)
    yield name
    buildah("rmi", name)


def _debian(directory: Path) -> None:
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", directory], check=True)


def _boot(directory: Path) -> None:
    module = f"github.com/apache/beam/sdks/v2/python/container@v{version('apache-beam')}"
    environment = {**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0"}
    subprocess.run(["go", "install", module], check=True, env=environment)


def _import(name: str, directory: Path) -> None:
    """Makes an image of a directory."""
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, directory, "/")
    buildah("commit", "--quiet", "--rm", container, name)


def _index_without_torch(directory: Path) -> Path:
    """An index of packages whose torch is empty."""
    folder = directory / "torch"
    folder.mkdir(parents=True)
    stem = f"torch-{version('torch').partition('+')[0]}"
    wheel = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        info = f"{stem}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {stem.split('-')[1]}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    return directory


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    """How the image is run."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
    return found


@pytest.fixture(scope="module")
def root(image: str) -> Iterator[Path]:
    """Where the image's files lie."""
    container = buildah("from", "--pull-never", image)
    yield Path(buildah("mount", container))
    buildah("rm", container)


def test_the_image_says_what_it_is(config: dict[str, Any], root: Path) -> None:
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
    assert not {"pytest", "mypy", "ruff", "moto", "pip", "setuptools"} & set(listed)
    assert not [tool for tool in ("gcc", "cc", "make", "git") if (root / "usr/bin" / tool).exists()]


def test_boot_runs_a_pipeline_with_a_read_only_root(
    config: dict[str, Any], root: Path, trained: Trained, tmp_path: Path
) -> None:
    data = tmp_path / "shared"
    data.mkdir()
    data.chmod(0o777)  # the image's user writes there, too
    log = shutil.copy(trained.log, data / "ratings.parquet")
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ISOLATED, "sh"]
    inside = ["/usr/bin/env", "-i", *config["Env"], *config["Entrypoint"], "--worker_pool"]
    out = (tmp_path / "pool.log").open("wb")
    assert not listens(PORT)
    pool = subprocess.Popen(
        [*isolated, str(root), str(data), config["User"], *inside], stdout=out, stderr=out, start_new_session=True
    )
    prism = Prism(tmp_path / "prism")
    try:
        prism.servers.start("prism", [Prism.program(), f"-job_port={prism.ports['jobs']}", "-serve_http=false"])
        prism.wait_for_ports("jobs")
        end = time.monotonic() + 60
        while not listens(PORT):
            assert pool.poll() is None, (tmp_path / "pool.log").read_text()
            assert time.monotonic() < end, (tmp_path / "pool.log").read_text()
            time.sleep(0.2)
        flags = ["--runner=PortableRunner", f"--job_endpoint=localhost:{prism.ports['jobs']}"]
        flags += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{PORT}"]
        os.umask(0)
        folds = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "3"]
        command("prepare", "--input", str(log), "--output", str(data / "out"), *folds, *flags)
    finally:
        prism.stop()
        if pool.poll() is None:
            os.killpg(pool.pid, signal.SIGKILL)
            pool.wait()
        print((tmp_path / "pool.log").read_text()[-3000:], file=sys.stderr)
    assert Manifest.read(str(data / "out")).fingerprint() == Manifest.read(trained.data).fingerprint()
    assert {path.stat().st_uid for path in (data / "out" / "rows").iterdir()} == {10001}
