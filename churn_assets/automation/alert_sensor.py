"""Send alerts on to the destinations of CHURN_ALERTS (`operations.alert_delivery`).

A sensor of its own, so that a destination that does not answer keeps nothing else waiting. How far each destination has been
told is in its cursor, which survives restarts.
"""

import json
from dataclasses import asdict

import dagster as dg

from churn_assets.clock import Clock
from churn_assets.operations.alert_delivery import Position, deliver
from churn_assets.settings import Settings, SettingsError


def alert_sensor(clock: Clock) -> dg.SensorDefinition:
    """The sensor, which reads the time from `clock`."""

    @dg.sensor(
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends what the other sensors report to the destinations of CHURN_ALERTS. It requests no run.",
    )
    def alert_delivery(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        """Tell each destination what is new."""
        if settings.alerts is None:
            return dg.SkipReason("CHURN_ALERTS is not set")
        positions = [Position(**each) for each in json.loads(context.cursor)] if context.cursor else []
        try:
            told, problems = deliver(settings, positions, clock.now())
        except SettingsError as error:
            return dg.SkipReason(str(error))
        context.update_cursor(json.dumps([asdict(position) for position in told]))
        return dg.SkipReason("; ".join(problems) or f"{len(told)} destinations know all there is")

    return alert_delivery
