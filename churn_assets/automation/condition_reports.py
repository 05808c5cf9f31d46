"""Report what a person should know of though no run has failed: late tables, gaps, emails in doubt, damage, a full disk.

The doctor's checks that may turn red while everything runs say what there is (`doctor.watched`). This sensor reports each once
when it has held for two looks, and again when it is over. What it has reported is in its cursor. A killed tick is repeated, so
an alert may come twice, but none is lost.
"""

import json
from datetime import datetime

import dagster as dg

from churn_assets.clock import Clock
from churn_assets.operations.alerts import Alert, send
from churn_assets.operations.doctor import watched
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

_SECONDS = 30
_SECONDS_ON_SNOWFLAKE = 3600.0  # each look wakes a virtual warehouse, which is billed
_LOOKED_AT = "looked at"  # in the cursor, beside "seen" or "told" by condition
_LONGEST_MESSAGE = 500  # characters


def condition_sensor(clock: Clock) -> dg.SensorDefinition:
    """The sensor, which reads the time from `clock`."""

    @dg.sensor(
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reports late tables, gaps in Kafka, many rejects, emails in doubt, damaged files, a wrong clock and a full disk,"
            " once when they begin and once when they are over. It requests no run."
        ),
    )
    def condition_reports(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Settings],
    ) -> dg.SkipReason:
        """Look once."""
        now = clock.now()
        before: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
        last = datetime.fromisoformat(before.get(_LOOKED_AT, "1970-01-01"))
        if settings.target == "snowflake" and (now - last).total_seconds() < _SECONDS_ON_SNOWFLAKE:
            return dg.SkipReason("the last look is less than an hour ago")
        findings = watched(settings, warehouse, now)
        after = {_LOOKED_AT: now.isoformat()}
        alerts: list[Alert] = []
        for finding in findings:
            known = before.get(finding.what)
            if finding.problem is None:
                if known == "told":
                    alerts.append(
                        _alert(now.isoformat(timespec="seconds"), f"{finding.what}: {finding.state}", over=True)
                    )
            elif known is None:
                after[finding.what] = "seen"  # a busy moment is no news
            else:
                after[finding.what] = "told"
                if known == "seen":
                    alerts.append(_alert(now.isoformat(timespec="seconds"), f"{finding.what}: {finding.problem}"))
        for alert in alerts:
            send(settings, alert)
        context.update_cursor(json.dumps(after))
        red = ", ".join(name for name in after if name != _LOOKED_AT)
        return dg.SkipReason(f"red: {red}" if red else "all is well")

    return condition_reports


def _alert(when: str, message: str, *, over: bool = False) -> Alert:
    return Alert(
        when=when,
        kind="condition",
        severity="info" if over else "error",
        job=None,
        asset=None,
        run_id=None,
        message=" ".join(message.split())[:_LONGEST_MESSAGE],
        link="/automation",
        state="is over" if over else "begins",
    )
