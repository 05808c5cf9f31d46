"""All sensors: those that request runs, and those that report what is wrong. This package only decides; assets do the work.

A sensor compares states, which the warehouse and Kafka keep: high watermark and committed offset, change and refresh, queue
and log. Pending work is never kept in a cursor or a run key. So a later tick repeats a failed or lost run, no update is lost
between two ticks, and an idle system starts no run. A sensor requests nothing while a run of its job is queued or started.

With CHURN_REFRESH=eager events go from Kafka to the retention queue in one run that goes on (`streaming`), and the sensors
on this path poll during their ticks (`watching`).
"""

import dagster as dg

from churn_assets.automation.alert_sensor import alert_sensor
from churn_assets.automation.condition_reports import condition_sensor
from churn_assets.automation.failure_reports import failure_reports
from churn_assets.automation.ingestion import ingestion_sensor
from churn_assets.automation.interventions import intervention_sensors
from churn_assets.automation.refreshes import refresh_sensors
from churn_assets.automation.upkeep import upkeep_sensors
from churn_assets.clock import Clock


def all_sensors(clock: Clock) -> list[dg.SensorDefinition]:
    """The sensors of the project, which read the time from `clock`."""
    return [
        ingestion_sensor(clock),
        *refresh_sensors(clock),
        *intervention_sensors(clock),
        *upkeep_sensors(clock),
        failure_reports,
        condition_sensor(clock),
        alert_sensor(clock),
    ]
