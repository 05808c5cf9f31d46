"""`churn doctor`: check everything that the system needs, and say how to fix each problem. Secrets are never shown.

Here belong the checks. `watched` are those that may turn red while everything runs: the alerts and the metrics ask them, too.
What only Dagster's storage knows is in `automation.liveness`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import duckdb

from churn_assets import processes
from churn_assets.clock import utc_now
from churn_assets.configuration import differences, rules
from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.commit import fatal_rejects
from churn_assets.model import labels, registry, training_set
from churn_assets.operations import alert_delivery, damage, setbacks
from churn_assets.operations.dbt import deployed_rules, deployed_score_source, manifest_path
from churn_assets.operations.erasure import unfinished
from churn_assets.operations.unknown_codes import unknown_codes
from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.retention.outbox.smtp import smtp_of
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.rules import CLOCK_SKEW_SECONDS, MAX_REJECT_SHARE, Rules
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.setbacks import refuse_if_held
from churn_assets.wiring import make_email_run, open_warehouse, place_of

if TYPE_CHECKING:
    from churn_assets.warehouse.snowflake_connection import Rows

LEAST_FREE_BYTES = 1024**3
TOLD_DAYS = 7  # for which a message that stopped the decoder is told
# Only these values are shown; any other librdkafka property may be a secret.
_SHOWN = {"security.protocol", "sasl.mechanism", "sasl.mechanisms", "ssl.ca.location"}


@dataclass(frozen=True)
class Finding:
    """The result of one check: the state, or the problem and what to do."""

    what: str
    state: str
    problem: str | None = None


Check: TypeAlias = tuple[str, Callable[[], str]]  # what is checked, and what gives its state or raises the problem


def examine(settings: Settings, further: Sequence[Check] = (), *, deep: bool = False) -> list[Finding]:
    """Run all checks and `further` ones, even after one has found a problem. `deep`: read all files, compare their contents."""
    first = [
        _finding("settings", lambda: _settings(settings)),
        _finding("processes", lambda: _processes(settings)),
        _finding("rules", lambda: _rules(settings)),
    ]
    last = [
        _finding("deployment", lambda: _deployment(settings)),
        _finding("emails", lambda: _emails(settings)),
        _finding("alerts", lambda: _alerts(settings)),
        *(_finding(what, look) for what, look in further),
    ]
    if settings.target == "snowflake":
        of_account = examine_account(settings, utc_now)
        if of_account[0].problem:  # every other check of the warehouse would report the same
            return [*first, _finding("disk", lambda: _disk(settings)), *of_account, *last]
    else:
        of_account = []
    warehouse = open_warehouse(settings, read_only=True)
    return [
        *first,
        *(of_account or [_finding("warehouse", lambda: _warehouse(settings, warehouse))]),
        last[0],
        *watched(settings, warehouse, utc_now(), deep=deep),
        _finding("codes", lambda: _codes(warehouse)),
        _finding("labels", lambda: _labels(warehouse)),
        _finding("erasures", lambda: _erasures(warehouse)),
        _finding("setbacks", lambda: _setbacks(settings, warehouse)),
        _finding("model", lambda: _model(settings, warehouse)),
        _finding("decoder", lambda: _decoder(warehouse, utc_now())),
        *last[1:],
    ]


def watched(settings: Settings, warehouse: Warehouse, now: datetime, *, deep: bool = False) -> list[Finding]:
    """The checks that may turn red while everything runs. `now` is UTC. No problem names a customer."""
    checks: list[Check] = [
        ("disk", lambda: _disk(settings)),
        ("files", lambda: _files(warehouse, now, deep=deep)),
        ("clock", lambda: _clock(warehouse, now)),
        ("Kafka", lambda: _kafka(settings, warehouse)),
        ("rejects", lambda: _rejects(warehouse, now)),
        ("freshness", lambda: _freshness(warehouse, now)),
        ("outbox", lambda: _outbox(warehouse)),
    ]
    return [_finding(what, look) for what, look in checks]


def examine_account(
    settings: Settings,
    now: Callable[[], datetime],
    connect: Callable[[Settings], AbstractContextManager[Rows]] | None = None,
) -> list[Finding]:
    """Check a Snowflake account; only the connection if that fails. `now` is UTC."""
    # Snowflake's client takes seconds to import, which the doctor of a lake does not need.
    from churn_assets.operations import account_doctor  # noqa: PLC0415
    from churn_assets.warehouse.snowflake_connection import signed_in  # noqa: PLC0415
    from churn_assets.warehouse.snowflake_names import names_of  # noqa: PLC0415

    try:
        with (connect or signed_in)(settings) as rows:
            checks = account_doctor.checks(settings, names_of(settings), rows, now)
            return [_finding(what, look) for what, look in checks]
    except ChurnError as error:
        return [Finding("connection", "", str(error))]


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except ChurnError as error:
        return Finding(what, "", str(error))
    except duckdb.Error as error:  # of a lake that is damaged; the other checks may still say something
        return Finding(what, "", str(error).strip().splitlines()[0])


def _settings(settings: Settings) -> str:
    security = ", ".join(
        f"{name}={secret.get_secret_value() if name in _SHOWN else 'set'}"
        for name, secret in sorted(settings.kafka_security.items())
    )
    return (
        f"CHURN_HOME={settings.home} CHURN_TARGET={settings.target} CHURN_TOPICS={','.join(settings.topics)}"
        f" CHURN_ON_GAP={settings.on_gap} CHURN_REFRESH={settings.refresh}; Kafka security: {security or 'none'}"
    )


def _rules(settings: Settings) -> str:
    """Check `churn.toml`, and that the deployed tables use its rules."""
    found = rules().model_dump(mode="json")
    if differing := differences(deployed_rules(settings), found):
        raise ChurnError(f"churn.toml differs from what is deployed in {', '.join(differing)}; run `churn deploy`")
    own = ", ".join(differences(Rules().model_dump(mode="json"), found))
    return f"as deployed; the bank's own: {own}" if own else "as deployed, all with their defaults"


def _codes(warehouse: Warehouse) -> str:
    found = unknown_codes(warehouse)
    if any(one.is_too_much for one in found):
        raise ChurnError("; ".join(one.in_words for one in found if one.rows))
    return "; ".join(one.in_words for one in found)


def _labels(warehouse: Warehouse) -> str:
    if found := labels.problem(warehouse):
        raise ChurnError(found)
    if training_set.latest_cut_off(warehouse):
        training_set.refuse_other_rule(warehouse)
    return f"who has left: {rules().labels.in_words}"


def _disk(settings: Settings) -> str:
    there = next(folder for folder in (settings.home.absolute(), *settings.home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        raise ChurnError(
            f"only {free / 1024**2:,.0f} MB are free for {settings.home}; free some space or move CHURN_HOME"
        )
    return f"{free / 1024**3:,.0f} GB free"


def _processes(settings: Settings) -> str:
    """Compare the settings of the processes that run with each other and with those here."""
    here = processes.shown(settings)
    found = processes.running(settings)
    problems: list[str] = []
    for one in found:
        if names := processes.differing(one.settings, here):
            told = ", ".join(
                name
                if name == processes.RULES
                else f"{name} is {one.settings.get(name)} there and {here.get(name)} here"
                for name in names
            )
            problems.append(f"the {one.name} that runs since {one.since} has other settings than this command: {told}")
    if problems:
        raise ChurnError(
            "; ".join(problems) + "; start it again with the settings that are right, or run this command with them"
        )
    return f"{len(found)} run, with the same settings as here" if found else "none runs that has announced itself"


def _files(warehouse: Warehouse, now: datetime, *, deep: bool) -> str:
    if deep:
        done = damage.check(warehouse, 1.0, now)
        found = done.damage
        state = (
            f"{done.read:,} files with {done.bytes_read / 1024**2:,.1f} MB read: {done.read - done.new:,} are as they were,"
            f" {done.new:,} have got their first checksum; SQLite finds no fault in the catalog"
        )
    else:
        found, state = damage.damage(warehouse), "all there, with the sizes that were written; --deep reads them"
    if found:
        raise ChurnError(damage.in_words(found))
    return state


def _clock(warehouse: Warehouse, now: datetime) -> str:
    """Whether something was stored at a time that is still to come."""
    (row,) = warehouse.query("SELECT max(stored_at) AS newest FROM ingest_ranges").to_pylist()
    times = [row["newest"], *(table.refreshed_at for table in warehouse.dynamic_tables(now))]
    ahead = max(((time - now).total_seconds() for time in times if time is not None), default=0.0)
    if ahead > CLOCK_SKEW_SECONDS:
        raise ChurnError(
            f"the newest commit is {ahead:,.0f} s ahead of this machine's clock: either this clock is late, or one was ahead"
            " when it was made; set the clocks by NTP. Nothing is lost"
        )
    return f"nothing was stored later than now, {now:%Y-%m-%d %H:%M:%S} UTC"


def _rejects(warehouse: Warehouse, now: datetime) -> str:
    since = now - timedelta(days=1)
    (row,) = warehouse.query(
        "SELECT (SELECT count(*) FROM event_rejects WHERE rejected_at > ? AND replayed_at IS NULL AND epoch <> 'file')"
        " AS rejects, (SELECT coalesce(sum(end_offset - start_offset), 0) FROM ingest_ranges WHERE stored_at > ?) AS messages",
        [since, since],
    ).to_pylist()
    rejects, messages = int(row["rejects"]), int(row["messages"])
    state = f"{rejects:,} of {messages:,} messages of a day"
    if rejects > MAX_REJECT_SHARE * messages:
        raise ChurnError(
            f"{state} could not become rows, more than {MAX_REJECT_SHARE:.0%}; event_rejects has the reasons: correct the"
            " producer or the mapping, then run `churn replay-rejects`"
        )
    return state


def _freshness(warehouse: Warehouse, now: datetime) -> str:
    tables = warehouse.dynamic_tables(now)
    if late := [table for table in tables if table.lag_seconds > table.target_lag_seconds]:
        told = ", ".join(
            f"{one.name} by {one.lag_seconds:,.0f} s (target {one.target_lag_seconds:,} s)" for one in late
        )
        raise ChurnError(f"late: {told}; see the last ticks of refresh_sensor in Dagster, or run `churn run`")
    return f"{len(tables)} dynamic tables are within their target lag"


def _outbox(warehouse: Warehouse) -> str:
    (row,) = warehouse.query(
        "SELECT count(*) AS in_doubt FROM agent_intervention_log WHERE status = 'UNCERTAIN'"
    ).to_pylist()
    if row["in_doubt"]:
        raise ChurnError(
            f"of {row['in_doubt']:,} emails nobody knows whether they were sent; look into the mail server's log, then run"
            " `churn outbox resolve ID --sent` or `--not-sent`"
        )
    return "of every email it is known whether it was sent"


def _alerts(settings: Settings) -> str:
    destinations = alert_delivery.destinations_of(settings)
    return (
        f"{len(destinations)} destinations"
        if destinations
        else "to the log and alerts.jsonl only (CHURN_ALERTS is not set)"
    )


def _warehouse(settings: Settings, warehouse: Warehouse) -> str:
    tables = warehouse.dynamic_tables(utc_now())
    if not tables:
        raise ChurnError("no dynamic table is declared; run `churn deploy`")
    return f"{place_of(settings).described}, {len(tables)} dynamic tables"


def _deployment(settings: Settings) -> str:
    return f"dbt manifest {manifest_path(settings)}"


def _erasures(warehouse: Warehouse) -> str:
    if left := unfinished(warehouse):
        raise ChurnError(f"{left:,} were interrupted before the files were clean; run `churn erase CUSTOMER` again")
    return "all are finished"


def _setbacks(settings: Settings, warehouse: Warehouse) -> str:
    """Check that the tables are not older than what the world has seen; nothing is recorded."""
    refuse_if_held(warehouse, utc_now())
    if found := setbacks.evidence(settings, warehouse):
        raise ChurnError(f"the tables went back: {found[0]}; see docs/backup.md")
    return "the tables know every email that left, and as much of Kafka as ever"


def _model(settings: Settings, warehouse: Warehouse) -> str:
    found = registry.champion(warehouse)
    serves = f"version {found[0]} serves" if found else "none serves yet"
    deployed = deployed_score_source(settings)
    if deployed != settings.score_source:
        raise ChurnError(
            f"{serves}, but CHURN_SCORE_SOURCE={settings.score_source} and the deployed predictions take the risk class"
            f" from the {deployed}; run `churn deploy`"
        )
    return f"{serves}; the risk class comes from the {settings.score_source}"


def _kafka(settings: Settings, warehouse: Warehouse) -> str:
    cluster = kafka.connect(settings)
    found = lags(warehouse, cluster, settings.topics)
    if problems := [lag.problem for lag in found if lag.problem]:
        raise ChurnError("; ".join(problems) + "; `churn gaps` says what resolves a gap")
    waiting = sum(len(lag.waiting) for lag in found)
    return f"{cluster.bootstrap_servers}, {len(found)} partitions, {waiting:,} messages wait"


def _decoder(warehouse: Warehouse, now: datetime) -> str:
    found = fatal_rejects(warehouse, now - timedelta(days=TOLD_DAYS))
    if found:
        last = found[-1]
        raise ChurnError(
            f"in {TOLD_DAYS} days it died, failed or hung on {len(found):,} message{'s' * (len(found) > 1)}, which are rejects;"
            f" the newest is {last['kafka_topic']}[{last['kafka_partition']}] at {last['kafka_offset']}: {last['reason']}."
            " Please report it; once the decoder is corrected, `churn replay-rejects` stores it"
        )
    return f"no message has stopped it for {TOLD_DAYS} days"


def _emails(settings: Settings) -> str:
    """Check the settings and marketing's wording. It calls neither a language model nor a mail server."""
    writer = make_email_run(settings, open_warehouse(settings, read_only=True)).writer
    general = ", ".join(map(repr, load_prompts().wording.reasons_without_offer))
    quiet_hours(settings)
    smtp = smtp_of(settings) if settings.smtp_url else None
    out = f"sent over {smtp.host}:{smtp.port}" if smtp else "not sent (CHURN_SMTP_URL is not set)"
    return f"written by {writer.name}, wording {writer.prompt_version}; approved by {settings.approval}, {out}" + (
        f"; the general offer for the reasons {general}" if general else ""
    )
