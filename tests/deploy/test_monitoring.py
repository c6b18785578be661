"""Dashboard and rules of Prometheus: all that they ask for is what the commands write."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus import Metric, of_all_commands, read
from samples import ROOT, Trained

HERE = ROOT / "deploy" / "monitoring"
_SELECTED = re.compile(r"\b(nnsparse_stream_\w+)(?:\{([^}]*)\})?(\[\w+\])?")
_MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*')


@pytest.fixture(scope="module")
def written(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Metric]]:
    """The metrics of all commands, each as every command tells it."""
    found: dict[str, list[Metric]] = {}
    for path in of_all_commands(trained, tmp_path_factory.mktemp("metrics")).values():
        for name, metric in read(path.read_text()).items():
            found.setdefault(name, []).append(metric)
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((HERE / "alerts.yaml").read_text())
    assert set(groups) == {"groups"}
    assert all(set(group) == {"name", "rules"} for group in groups["groups"])
    return [rule for group in groups["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return dict(json.loads((HERE / "dashboard.json").read_text()))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Each expression, and the text that names its labels."""
    asked = [(rule["expr"], json.dumps(rule["annotations"])) for rule in rules()]
    return asked + [(one["expr"], one["legendFormat"]) for panel in panels() for one in panel["targets"]]


def labels_of(metrics: list[Metric]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for metric in metrics:
        for labels in metric.values:
            for name, value in labels:
                found.setdefault(name, set()).add(value)
    return found


def matches(operator: str, wanted: str, value: str) -> bool:
    equal = bool(re.fullmatch(wanted, value)) if "~" in operator else wanted == value
    return equal is not operator.startswith("!")


def test_names_and_labels_are_those_that_commands_write(written):
    for expression, told in queries():
        selected = _SELECTED.findall(expression)
        assert selected, expression
        for name, matchers, span in selected:
            assert name in written, name
            there = labels_of(written[name])
            for label, operator, wanted in _MATCHER.findall(matchers):
                assert label in there, (name, label)
                assert any(matches(operator, wanted, value) for value in there[label]), (expression, label)
            assert len(_MATCHER.findall(matchers)) == matchers.count('"') // 2
            assert not span or f"({name}" in expression  # a range is what a function is given
        labels = {label for name, *_ in selected for label in labels_of(written[name])}
        assert set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", told)) <= labels, told
        grouped = re.findall(r"(?:ignoring|without|on|by) \(([\w, ]*)\)", expression)
        assert {label.strip() for some in grouped for label in some.split(",")} <= labels, expression


def test_counters_are_asked_for_by_rates_and_gauges_never(written):
    for expression, _ in queries():
        for name, _, span in _SELECTED.findall(expression):
            (kind,) = {metric.kind for metric in written[name]}
            counted = re.search(rf"(rate|increase)\({name}\b", expression) is not None
            assert counted == (kind == "counter"), expression
            assert not counted or span


def test_the_dashboard_shows_all_that_commands_write(written):
    shown = {name for panel in panels() for one in panel["targets"] for name, *_ in _SELECTED.findall(one["expr"])}
    assert shown == set(written)


def test_the_dashboard_is_one_that_grafana_can_lay_out():
    board = dashboard()
    assert board["schemaVersion"] >= 36  # data sources are objects since then
    (variable,) = board["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: Counter[tuple[int, int]] = Counter()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert max(taken.values()) == 1
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat")
        for one in [panel, *panel["targets"]]:
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        names = [one["refId"] for one in panel["targets"]]
        assert len(set(names)) == len(names)


def test_rules_are_whole_and_named_once():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
        for opened, shut in ("()", "{}", "[]"):
            assert rule["expr"].count(opened) == rule["expr"].count(shut)
        assert re.search(r" (>|>=|<|==) ", rule["expr"]), rule["alert"]


def test_prometheus_itself_takes_the_rules():
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run(["promtool", "check", "rules", str(HERE / "alerts.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_is_one_that_is_tested():
    assert {path.name for path in HERE.iterdir()} == {"README.md", "alerts.yaml", "dashboard.json"}


def test_the_page_names_every_metric(written):
    text = Path(HERE / "README.md").read_text()
    named = {f"nnsparse_stream_{name}" for name in re.findall(r"`([a-z_]+)`", text)}
    assert set(written) <= named
