"""Alert rules and dashboard: they parse, name only what there is, and each alert has its cases."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import promql_parser
import pytest
import yaml

from integrator.metrics import METRICS, Kind
from tests.unit.test_compose import services

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "infra" / "monitoring" / "prometheus"
GRAFANA = ROOT / "infra" / "monitoring" / "grafana"
NIGHT = (ROOT / "docs" / "howto" / "night.md").read_text()

GROUPS = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
CASES = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
PANELS: list[dict[str, Any]] = orjson.loads((GRAFANA / "dashboards" / "integrator.json").read_bytes())["panels"]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]},
}
KNOWN = {metric.name: metric for metric in METRICS}


def shown(expression: str) -> list[tuple[str, str]]:
    """The metrics that an expression selects, each with what stands between its braces."""
    return re.findall(r"\b(integrator_\w+|up)\b(?:\{([^}]*)\})?", expression)


def base(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_given_an_expression_when_parsed_then_it_is_promql_and_names_metrics_and_labels_that_exist(
    name: str,
) -> None:
    expression = EXPRESSIONS[name].replace("$__rate_interval", "5m")
    promql_parser.parse(expression)
    found = shown(expression)
    assert found
    for metric, matchers in found:
        if metric == "up":
            continue
        assert base(metric) in KNOWN, metric
        known = KNOWN[base(metric)]
        assert (metric != base(metric)) == (known.kind is Kind.HISTOGRAM), metric
        assert set(re.findall(r"(\w+)(?:=|!)", matchers)) <= set(known.labels) | {"job", "instance"}, metric
        assert (known.kind is not Kind.GAUGE) == bool(re.search(rf"(rate|increase)\({metric}", expression)), metric


def test_given_the_grouping_of_expressions_when_read_then_its_labels_exist() -> None:
    for name, expression in EXPRESSIONS.items():
        selected = [KNOWN[base(metric)] for metric, _ in shown(expression) if metric != "up"]
        labels = {label for metric in selected for label in metric.labels}
        groups = re.findall(r" by \(([^)]*)\)", expression)
        grouped = {word.strip() for group in groups for word in group.split(",")}
        assert grouped <= labels | {"le", "instance"}, name


def test_given_all_metrics_when_looked_for_then_each_is_on_the_dashboard() -> None:
    drawn = {base(name) for panel in PANELS for target in panel["targets"] for name, _ in shown(target["expr"])}
    assert drawn - {"up"} == set(KNOWN)


def test_given_every_alert_when_its_cases_are_counted_then_it_is_seen_to_fire_and_to_be_silent() -> None:
    seen = [
        (case["alertname"], bool(case["exp_alerts"])) for test in CASES for case in test.get("alert_rule_test", [])
    ]
    assert sorted(seen) == sorted((rule["alert"], fires) for rule in RULES for fires in (True, False))


def test_given_every_alert_when_the_page_for_the_night_is_read_then_it_says_what_to_do() -> None:
    section = NIGHT.partition("## What an alert means\n")[2].partition("\n## ")[0]
    said = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
    assert said == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


def test_given_every_alert_when_the_page_for_the_night_is_read_then_it_names_a_command_or_leads_to_one() -> None:
    section = NIGHT.partition("## What an alert means\n")[2].partition("\n## ")[0]
    command = re.compile(r"`(?:celery|flask|docker) [^`]+`|^```sh$", re.MULTILINE)
    for name, advice in re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", section, re.MULTILINE):
        led_to = re.findall(r"\]\(#([\w-]+)\)", advice)
        titles = {
            title.lower().replace(" ", "-"): text
            for title, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", NIGHT, re.MULTILINE)
        }
        assert command.search(advice) or any(command.search(titles[anchor]) for anchor in led_to), name


def test_given_the_panels_when_laid_out_then_none_covers_another() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = any(
            first[at] + first[size] <= second[at]
            for first, second in ((one, other), (other, one))
            for at, size in (("x", "w"), ("y", "h"))
        )
        assert apart, (one, other)


def test_given_prometheus_jobs_when_read_then_they_find_every_service_that_has_a_metrics_port() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    found = {name for job in jobs for place in job["dns_sd_configs"] for name in place["names"]}
    watched = {
        name
        for name, one in services().items()
        if "healthcheck" in one and "INTEGRATOR_METRICS_PORT" in (one.get("environment") or {})
    }
    assert found == watched
    assert {place["port"] for job in jobs for place in job["dns_sd_configs"]} == {9100}
    assert {job["job_name"] for job in jobs} >= set(re.findall(r'job="(\w+)"', " ".join(EXPRESSIONS.values())))
