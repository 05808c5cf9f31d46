"""Freshness policies: when Dagster shows an asset as overdue.

A policy looks only at the time of the last materialization. So it fits assets with a target lag or a schedule, but not assets
that wait for events: a ledger without new events is not stale. The Kafka topics show how far ingestion is behind.
"""

from datetime import timedelta

import dagster as dg


def within(seconds: float) -> dg.FreshnessPolicy:
    """Materialized at least once in each target lag, given in seconds."""
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(seconds=seconds))


def scheduled(seconds: float) -> dg.FreshnessPolicy:
    """Materialized every `seconds`: a warning once a run is late by half of that, a failure once a whole run is missing."""
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(seconds=2 * seconds), warn_window=timedelta(seconds=1.5 * seconds)
    )
