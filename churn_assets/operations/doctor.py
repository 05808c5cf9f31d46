"""`churn doctor`: check everything that the system needs, and say how to fix each problem. Secrets are never shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from churn_assets.clock import utc_now
from churn_assets.configuration import differences, rules
from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.commit import fatal_rejects
from churn_assets.model import labels, registry, training_set
from churn_assets.operations import setbacks
from churn_assets.operations.dbt import deployed_rules, deployed_score_source, manifest_path
from churn_assets.operations.erasure import unfinished
from churn_assets.operations.unknown_codes import unknown_codes
from churn_assets.retention.outbox.quiet_hours import quiet_hours
from churn_assets.retention.outbox.smtp import smtp_of
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.rules import Rules
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


def examine(settings: Settings) -> list[Finding]:
    """Run all checks, even after one has found a problem."""
    first = [
        _finding("settings", lambda: _settings(settings)),
        _finding("rules", lambda: _rules(settings)),
        _finding("disk", lambda: _disk(settings)),
    ]
    last = [_finding("deployment", lambda: _deployment(settings)), _finding("emails", lambda: _emails(settings))]
    if settings.target == "snowflake":
        of_account = examine_account(settings, utc_now)
        if of_account[0].problem:  # every other check of the warehouse would report the same
            return [*first, *of_account, *last]
    else:
        of_account = []
    warehouse = open_warehouse(settings, read_only=True)
    return [
        *first,
        *(of_account or [_finding("warehouse", lambda: _warehouse(settings, warehouse))]),
        last[0],
        _finding("codes", lambda: _codes(warehouse)),
        _finding("labels", lambda: _labels(warehouse)),
        _finding("erasures", lambda: _erasures(warehouse)),
        _finding("setbacks", lambda: _setbacks(settings, warehouse)),
        _finding("model", lambda: _model(settings, warehouse)),
        _finding("Kafka", lambda: _kafka(settings, warehouse)),
        _finding("decoder", lambda: _decoder(warehouse, utc_now())),
        last[1],
    ]


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
