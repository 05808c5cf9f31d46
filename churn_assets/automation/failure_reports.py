"""Report each failed run and each failed asset check once, and when it is over (`operations.alerts`).

Dagster's own run-failure sensor misses failed checks, because a check may fail in a run that succeeds. So this sensor reads
both from the event log and keeps its position in its cursor, as Dagster's does. A killed tick is repeated, so an alert may
come twice, but none is lost.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from textwrap import shorten
from typing import Any, NamedTuple

import dagster as dg

from churn_assets import processes
from churn_assets.clock import utc_now
from churn_assets.operations.alerts import Alert, send
from churn_assets.settings import Settings

_ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_CANCELED)
_OUTSIDE = ""  # the run id that Dagster gives to events outside of runs
_FAILING = "failing"  # in the cursor: the jobs and checks whose last end was a failure
_EVENTS_PER_TICK = 200  # of each kind, to keep ticks short; the next tick reads the rest


class _News(NamedTuple):
    """The end of a run, or the evaluation of a check: when (a timestamp), of what, and whether it went well."""

    at: float
    subject: str
    is_good: bool
    alert: Alert  # as if it had failed


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reports each failed run and each failed asset check once, and when it is over, to the log and to"
        " CHURN_HOME/alerts.jsonl, which `churn status` shows. The checks of a run are reported when the run has ended. It"
        " requests no run."
    ),
)
def failure_reports(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
    """Report the failures since the last tick. The first tick only notes the end of the event log."""
    processes.announce(settings, "code server", utc_now())
    if not context.cursor:
        context.update_cursor(json.dumps(_end_of_log(context.instance)))
        return dg.SkipReason("failures are reported from now on")
    read_until: dict[str, Any] = json.loads(context.cursor)
    failing = set[str](read_until.get(_FAILING, []))
    news = sorted(
        [*_news_of_runs(context, read_until), *_news_outside_of_runs(context, read_until)], key=lambda one: one.at
    )
    alerts = [alert for one in news if (alert := _alert_of(one, failing))]
    for alert in alerts:
        send(settings, alert)
    context.update_cursor(json.dumps(read_until | {_FAILING: sorted(failing)}))
    return dg.SkipReason(f"{len(alerts)} reported" if alerts else "nothing has failed")


def _end_of_log(instance: dg.DagsterInstance) -> dict[str, str]:
    """Dagster's cursor after the last event of each kind."""
    outside = instance.get_records_for_run(
        _OUTSIDE, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION, limit=1, ascending=False
    )
    return {
        _OUTSIDE: outside.cursor,
        **{end.value: instance.fetch_run_status_changes(end, limit=1).cursor for end in _ENDS},
    }


def _news_of_runs(context: dg.SensorEvaluationContext, read_until: dict[str, str]) -> Iterator[_News]:
    """The ends of runs after `read_until`, which is moved forward, and of their checks."""
    for end in _ENDS:
        ended = context.instance.fetch_run_status_changes(
            end, limit=_EVENTS_PER_TICK, cursor=read_until[end.value], ascending=True
        )
        read_until[end.value] = ended.cursor
        for record in ended.records:
            entry = record.event_log_entry
            checks = context.instance.get_records_for_run(
                entry.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            )
            yield from _news_of_checks(context, checks.records)
            if end != dg.DagsterEventType.RUN_CANCELED:
                failed = end == dg.DagsterEventType.RUN_FAILURE
                yield _News(record.timestamp, f"run {entry.job_name}", not failed, _alert_of_run(record))


def _news_outside_of_runs(context: dg.SensorEvaluationContext, read_until: dict[str, str]) -> Iterator[_News]:
    """The checks that were evaluated outside of runs after `read_until`, which is moved forward."""
    checks = context.instance.get_records_for_run(
        _OUTSIDE,
        cursor=read_until[_OUTSIDE],
        of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        limit=_EVENTS_PER_TICK,
    )
    read_until[_OUTSIDE] = checks.cursor
    yield from _news_of_checks(context, checks.records)


def _news_of_checks(context: dg.SensorEvaluationContext, evaluations: Sequence[dg.EventLogRecord]) -> Iterator[_News]:
    for record in evaluations:
        entry = record.event_log_entry
        assert entry.dagster_event is not None
        check = entry.dagster_event.asset_check_evaluation_data
        asset = check.asset_key.to_user_string()
        alert = Alert(
            when=_utc(record.timestamp),
            kind="check",
            severity="warning" if check.severity == dg.AssetCheckSeverity.WARN else "error",
            job=entry.job_name or None,
            asset=asset,
            run_id=entry.run_id or None,
            message=f"check {check.check_name} of {asset} failed{_meaning(context, check.asset_check_key)}",
            link=f"/runs/{entry.run_id}" if entry.run_id else f"/assets/{'/'.join(check.asset_key.path)}?view=checks",
        )
        yield _News(record.timestamp, f"check {check.check_name} of {asset}", check.passed, alert)


def _alert_of(news: _News, failing: set[str]) -> Alert | None:
    """What is to be told of an event, if anything; `failing` has the subjects that fail and is brought up to date."""
    if not news.is_good:
        state = "goes on" if news.subject in failing else "begins"
        failing.add(news.subject)
        return replace(news.alert, state=state)
    if news.subject not in failing:
        return None
    failing.remove(news.subject)
    over = (
        f"{news.alert.job} has run again without a failure"
        if news.alert.kind == "run"
        else f"{news.subject} passes again"
    )
    return replace(news.alert, state="is over", severity="info", message=over)


def _meaning(context: dg.SensorEvaluationContext, key: dg.AssetCheckKey) -> str:
    """The check's description from its definition. An evaluation's own description may name customers."""
    graph = context.repository_def.asset_graph if context.repository_def else None
    if graph is None or key not in graph.asset_check_keys:
        return ""
    description = graph.get_check_spec(key).description
    return f": {_one_line(description)}" if description else ""


def _alert_of_run(record: dg.EventLogRecord) -> Alert:
    entry = record.event_log_entry
    assert entry.dagster_event is not None
    return Alert(
        when=_utc(record.timestamp),
        kind="run",
        severity="error",
        job=entry.job_name,
        asset=None,
        run_id=entry.run_id,
        message=f"{entry.job_name} failed{_reason(entry.dagster_event)}",
        link=f"/runs/{entry.run_id}",
    )


def _reason(failure: dg.DagsterEvent) -> str:
    """The step and the class of the exception, without its text, which may hold a row or a password.

    Without an exception: Dagster's message about the run's process.
    """
    data = failure.job_failure_data if failure.event_specific_data else None
    if data is None or data.error is None:
        return f": {_one_line(failure.message)}" if failure.message else ""
    step = data.first_step_failure_event.step_key if data.first_step_failure_event else None
    error = data.error.cause or data.error  # Dagster wraps what a step raises
    return f"{f' in step {step}' if step else ''}: {error.cls_name}"


def _one_line(text: str) -> str:
    return shorten(text, 200, placeholder=" …")


def _utc(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
