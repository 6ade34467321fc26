"""Write Grafana's dashboards: `python deploy/monitoring/make_dashboards.py` after a change here.

Needs grafana-foundation-sdk, which tests/requirements.txt pins.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).with_name("dashboards")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT, STAT_WIDTH, STAT_HEIGHT = 12, 8, 6, 4
SELECTED = 'model=~"$model"'
REFUSED = f'scancer_requests_total{{{SELECTED},status=~"4.."}}'
DAY = f"increase(scancer_predictions_total{{{SELECTED}}}[1d])"


class Panel(NamedTuple):
    """One panel: its title, what it tells, its unit as Grafana names it, and its queries by legend."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    is_number: bool = False


OPERATOR = (
    Panel("Servers that answer", "Targets that Prometheus reaches.", "none", {"up": 'sum(up{job="scancer"})'}, True),
    Panel(
        "Versions that are READY",
        "In at least one worker.",
        "none",
        {"READY": 'count(max by (model, version) (scancer_model_state{state="READY"}) > 0)'},
        True,
    ),
    Panel(
        "Requests",
        "Of all three addresses.",
        "reqps",
        {"requests": "sum(instance:scancer_requests:rate5m)"},
        True,
    ),
    Panel(
        "Errors of the server",
        "Share of the predictions asked that end with 5xx, but for 504. Over 2 % an alert is sent.",
        "percentunit",
        {"errors": "max(instance:scancer_server_errors:ratio5m)"},
        True,
    ),
    Panel(
        "Answers by status",
        "4xx: the caller's fault; 503: too much work, or a model that is not ready.",
        "reqps",
        {"{{status}}": "sum by (status) (rate(scancer_requests_total[5m]))"},
    ),
    Panel(
        "Time of a prediction, 99th percentile",
        "In the server, from the head of the request to the answer.",
        "s",
        {"{{instance}} {{model}}": "model:scancer_whole_seconds:p99_5m"},
    ),
    Panel(
        "Wait in the queue",
        "Mean and 99th percentile. Over 0.5 s on average an alert is sent.",
        "s",
        {
            "{{instance}} {{model}} mean": "model:scancer_queue_seconds:mean5m",
            "{{instance}} {{model}} p99": "model:scancer_queue_seconds:p99_5m",
        },
    ),
    Panel(
        "Where the time goes",
        "Seconds of each second that all predictions spend decoding, waiting and in the model.",
        "none",
        {"{{stage}}": 'sum by (stage) (rate(scancer_prediction_seconds_sum{stage=~"decode|queue|inference"}[5m]))'},
    ),
    Panel(
        "Refused requests",
        "overload, uploads: too much at a time; rate: one user asks too much; connections: too many are open.",
        "reqps",
        {"{{instance}} {{reason}}": "instance:scancer_refused:rate5m"},
    ),
    Panel(
        "Failed sign-ins",
        "wrong: a name or password; limited: not tried, after too many wrong ones.",
        "reqps",
        {"{{instance}} {{reason}}": "instance:scancer_failed_logins:rate5m"},
    ),
    Panel(
        "Models by state",
        "Workers in which a version is in a state. A version in no worker is left out.",
        "none",
        {"{{model}} {{version}} {{state}}": "sum by (model, version, state) (scancer_model_state) > 0"},
    ),
    Panel(
        "Time to load a model",
        "In the worker in which it took longest.",
        "s",
        {"{{model}} {{version}}": "max by (model, version) (scancer_model_load_seconds)"},
    ),
    Panel(
        "Processors, memory, disk",
        "Of the machine; the disk is the one of /.",
        "percent",
        {
            "{{instance}} processors": 'CPUUtilization{job="scancer"}',
            "{{instance}} memory": 'MemoryUtilization{job="scancer"}',
            "{{instance}} disk": 'DiskUtilization{job="scancer"}',
        },
    ),
    Panel(
        "Time of other requests, 99th percentile",
        "By route: health, lists of models, management.",
        "s",
        {"{{rule}}": "histogram_quantile(0.99, sum by (rule, le) (rate(scancer_request_seconds_bucket[5m])))"},
    ),
)

CLINICAL = (
    Panel(
        "Pictures in a day",
        "That got an answer.",
        "none",
        {"{{model}}": f"sum by (model) ({DAY})"},
        True,
    ),
    Panel(
        "Mean score of a day",
        "Beside it stands the mean of 14 days.",
        "none",
        {
            "{{model}} {{version}}": f"version:scancer_score:mean1d{{{SELECTED}}}",
            "{{model}} {{version}}, 14 days": f"version:scancer_score:mean14d{{{SELECTED}}}",
        },
        True,
    ),
    Panel(
        "Pictures that do not fit",
        "Share of a day's pictures beyond the model's limit. Over 10 % an alert is sent.",
        "percentunit",
        {"{{model}} {{version}}": f"version:scancer_unfit:ratio1d{{{SELECTED}}}"},
        True,
    ),
    Panel(
        "Versions that answer",
        "Which versions answered in a day.",
        "none",
        {"{{model}} {{version}}": f"sum by (model, version) ({DAY}) > 0"},
        True,
    ),
    Panel(
        "Classes",
        "Pictures an hour by the class that they got.",
        "none",
        {"{{model}} {{class}}": (f"sum by (model, class) (increase(scancer_predictions_total{{{SELECTED}}}[1h]))")},
    ),
    Panel(
        "Share of each class",
        "Of the pictures of a day. A leap wants an explanation: other patients, another device.",
        "percentunit",
        {
            "{{model}} {{class}}": (
                f"sum by (model, class) ({DAY}) / on (model) group_left () (sum by (model) ({DAY}) > 0)"
            )
        },
    ),
    Panel(
        "Scores",
        "A tenth, half and nine tenths of a day's scores lie below.",
        "none",
        {
            f"{{{{model}}}} {quantile}": (
                f"histogram_quantile({quantile},"
                f" sum by (model, version, le) (increase(scancer_score_bucket{{{SELECTED}}}[1d])))"
            )
            for quantile in (0.1, 0.5, 0.9)
        },
    ),
    Panel(
        "Shift of the scores",
        "Largest gap between the distributions of a day and of 14 days, 0 to 1. Over 0.1 an alert may be sent.",
        "none",
        {"{{model}} {{version}}": f"version:scancer_score:shift1d{{{SELECTED}}}"},
    ),
    Panel(
        "Distance to the training pictures",
        "Half and nine tenths of a day's pictures lie below. 1 is the model's limit.",
        "none",
        {
            f"{{{{model}}}} {quantile}": (
                f"histogram_quantile({quantile},"
                f" sum by (model, version, le) (increase(scancer_fit_distance_bucket{{{SELECTED}}}[1d])))"
            )
            for quantile in (0.5, 0.9)
        },
    ),
    Panel(
        "Shift of the distances",
        "The same gap for distances: another device, stain or file format.",
        "none",
        {"{{model}} {{version}}": f"version:scancer_fit_distance:shift1d{{{SELECTED}}}"},
    ),
    Panel(
        "Pictures refused",
        "413 too large, 415 no picture, 422 damaged or of another kind.",
        "none",
        {"{{model}} {{status}}": f"sum by (model, status) (increase({REFUSED}[1h]))"},
    ),
    Panel(
        "Time to an answer",
        "Half and 95 of 100 predictions take less.",
        "s",
        {
            f"{{{{model}}}} {quantile}": (
                f"histogram_quantile({quantile}, sum by (model, le)"
                f' (rate(scancer_prediction_seconds_bucket{{{SELECTED},stage="whole"}}[5m])))'
            )
            for quantile in (0.5, 0.95)
        },
    ),
)


def make_panel(panel: Panel) -> Any:
    """Make the builder of one panel: a number, or a curve over time."""
    made: Any = (stat if panel.is_number else timeseries).Panel()
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    made.span(STAT_WIDTH if panel.is_number else WIDTH).height(STAT_HEIGHT if panel.is_number else HEIGHT)
    for number, (legend, query) in enumerate(panel.queries.items()):
        made.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number)))
    return made


def drop_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out what is null: Grafana chooses it."""
    return {name: value for name, value in pairs if value is not None}


def make_dashboard(uid: str, title: str, description: str, panels: tuple[Panel, ...]) -> str:
    """Return a dashboard as Grafana's JSON."""
    made = dashboard.Dashboard(title).uid(uid).description(description).tags(["scancer"]).refresh("1m")
    made.time("now-24h", "now").timezone("browser").readonly()
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    if any(SELECTED in query for panel in panels for query in panel.queries.values()):
        models = dashboard.QueryVariable("model").label("Model").datasource(SOURCE)
        models.query("label_values(scancer_model_state, model)").include_all(include_all=True).multi(multi=True)
        made.with_variable(models)
    for panel in panels:
        made.with_panel(make_panel(panel))
    plain = json.loads(JSONEncoder(sort_keys=True).encode(made.build()), object_pairs_hook=drop_nulls)
    return json.dumps(plain, indent=2) + "\n"


def make_dashboards() -> dict[str, str]:
    """Return each dashboard's text by the name of its file."""
    notice = "Research use only. Not for diagnosis."
    return {
        "operator.json": make_dashboard(
            "scancer-operator", "Scancer: operator", f"Does the service run, and is it fast enough? {notice}", OPERATOR
        ),
        "clinical.json": make_dashboard(
            "scancer-clinical",
            "Scancer: clinical",
            f"What is asked, and is it what the models know? {notice}",
            CLINICAL,
        ),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in make_dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
