"""Pools, in which one run at a time has its turn: stages that would wait for each other's transactions, and upkeep.

Dagster keeps to them by `concurrency.pools` in dagster.yaml.
"""

INGESTION = "ingest"  # the runs that read Kafka
REFRESH = "refresh"
EMAILS = "emails"
OUTBOX = "outbox"
SEARCH = "search"
UPKEEP = "upkeep"  # periodic work goes one after the other, so that events and emails have the other slots, also after a start
