"""Engines, started once a session and ended with it; and the table at the end that says what ran on which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.engines.engine import Engine
from deploy.engines.flink.cluster import FlinkCluster
from deploy.engines.kafka.broker import Kafka
from deploy.engines.portable import PortableJobService
from deploy.engines.prism import Prism
from deploy.engines.redis import Redis

_LOOPBACK = "--environment_type=LOOPBACK"

E = TypeVar("E", bound=Engine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Flink's tests are first, since they take longest."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.timeout(900))
    items.sort(key=lambda item: not item.get_closest_marker("engines") or _engine_of(item.nodeid) != "flink")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one engine run in one process, which starts it."""
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _engine_of(nodeid)

    return ByEngine(config, log) if config.getoption("dist") == "loadscope" else None


def _engine_of(nodeid: str) -> str:
    """What a test runs on, by its name or its module's. (The groups of pytest-xdist 3.8 are none in pytest 9.2.)"""
    name = nodeid.rpartition("engines/")[2].lower()
    return next((engine for engine in ("flink", "prism", "job service", "azure") if engine in name), "in process")


def serving(engine: type[E], directory: Path, **sizes: int) -> Iterator[E]:
    """Starts an engine, or leaves the test out with the reason; ends the engine in any case."""
    missing = engine.missing()
    if missing:
        pytest.skip(missing)
    served = engine(directory, **sizes)
    try:
        served.start()
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="session")
def job_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortableJobService]:
    yield from serving(PortableJobService, tmp_path_factory.mktemp("job_service"))


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    yield from serving(Prism, tmp_path_factory.mktemp("prism"))


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    yield from serving(FlinkCluster, tmp_path_factory.mktemp("flink"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    yield from serving(Kafka, tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    yield from serving(Redis, tmp_path_factory.mktemp("redis"))


def _no_flags(request: pytest.FixtureRequest) -> list[str]:
    return []


def _several_processes(request: pytest.FixtureRequest) -> list[str]:
    return ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


def _job_service_loopback(request: pytest.FixtureRequest) -> list[str]:
    return [*request.getfixturevalue("job_service").flags()[:3], _LOOPBACK]


def _prism_loopback(request: pytest.FixtureRequest) -> list[str]:
    request.getfixturevalue("prism")  # skips where it cannot be had
    return ["--runner=PrismRunner", f"--prism_location={Prism.program()}"]


ENGINES = {
    "in process": _no_flags,
    "in process, multi_processing": _several_processes,
    "job service, LOOPBACK": _job_service_loopback,
    "job service, EXTERNAL": lambda request: request.getfixturevalue("job_service").flags(),
    "Prism, LOOPBACK": _prism_loopback,
    "Prism, EXTERNAL": lambda request: request.getfixturevalue("prism").flags(),
    "Flink, EXTERNAL": lambda request: request.getfixturevalue("flink").flags(),
}


@pytest.fixture(params=ENGINES)
def engine_flags(request: pytest.FixtureRequest) -> list[str]:
    """The Beam options of one engine."""
    return ENGINES[request.param](request)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if "tests/engines" not in report.nodeid.replace("\\", "/"):
                continue
            known = dict(report.user_properties)
            reason = str(report.longrepr[2]).removeprefix("Skipped: ") if outcome == "skipped" else ""
            name = report.nodeid.partition("::")[2].removeprefix("test_")
            state = f"left out: {reason}" if reason else outcome
            rows.append((name, state, str(known.get("seconds", "")), known.get("checksum", "")))
    if rows:
        width = max(len(row[0]) for row in rows)
        terminalreporter.section("engines")
        terminalreporter.write_line(f"{'test [engine]':<{width}}  {'outcome':<8} {'seconds':>12}  checksum")
        for name, state, seconds, checksum in sorted(rows):
            terminalreporter.write_line(f"{name:<{width}}  {state:<8} {seconds:>12}  {checksum}")
