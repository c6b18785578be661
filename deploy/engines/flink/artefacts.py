"""What the cluster is made of: Flink's jars from PyPI, Beam's Flink runner and job server by Maven."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
from pathlib import Path

from deploy.engines.engine import cached, run_tool

#: What the runner of pom.xml is made for.
FLINK_VERSION = "1.19.3"
_JARS = ("flink-dist-", "log4j-")
_POM = Path(__file__).with_name("pom.xml")


def flink_jars() -> Path:
    """The directory of Flink's own jars. The PyPI package holds them all; its shell scripts are not needed."""

    def download(directory: Path) -> None:
        package = f"apache-flink-libraries=={FLINK_VERSION}"
        run_tool([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", package], directory)
        (archive,) = directory.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            for member in packed:
                name = Path(member.name)
                if name.parent.name == "lib" and name.name.startswith(_JARS):
                    content = packed.extractfile(member)
                    assert content is not None
                    with (directory / name.name).open("wb") as jar:
                        shutil.copyfileobj(content, jar)
        archive.unlink()

    return cached(f"flink-{FLINK_VERSION}", download)


def runner_jar() -> Path:
    """Beam's Flink runner, its job server and what they need but Flink, in one jar; a changed POM builds it anew."""

    def build(directory: Path) -> None:
        shutil.copy(_POM, directory)
        run_tool(["mvn", "--quiet", "--batch-mode", "package"], directory)
        (directory / "target" / "beam-flink-runner.jar").rename(directory / "beam-flink-runner.jar")
        shutil.rmtree(directory / "target")

    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    return cached(f"beam-flink-runner-{digest}", build) / "beam-flink-runner.jar"
