from datetime import date, timedelta

import pytest

from churn_assets.clock import utc_now
from churn_assets.operations import lake as lake_deployment
from churn_assets.operations.first_day import first_day, note_first_day
from churn_assets.operations.lake import deploy
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse

TODAY = date(2026, 11, 29)


def test_the_first_day_is_that_of_the_first_deployment_or_of_an_older_email_and_never_moves_later(tmp_path):
    settings = load_settings(CHURN_HOME=tmp_path / "home")

    note_first_day(settings, None, TODAY)
    assert first_day(settings) == TODAY
    note_first_day(settings, None, TODAY + timedelta(days=9))
    assert first_day(settings) == TODAY
    note_first_day(settings, TODAY - timedelta(days=3), TODAY + timedelta(days=9))
    note_first_day(settings, TODAY + timedelta(days=1), TODAY + timedelta(days=9))
    assert first_day(settings) == TODAY - timedelta(days=3)


def test_a_home_that_never_noted_it_begins_before_everything(tmp_path):
    assert first_day(load_settings(CHURN_HOME=tmp_path / "nowhere")) <= date(2026, 1, 1)


def test_a_deployment_to_a_lake_with_emails_begins_with_the_oldest(
    settings: Settings, lake: LakeWarehouse, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        lake_deployment, "declare", lambda settings: None
    )  # dbt, which takes seconds and reads no email
    long_ago = utc_now().date() - timedelta(days=40)
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO agent_intervention_log (intervention_id, customer_id, churn_score, created_at, status, source,"
            " partition_day) VALUES ('I', 'C', 1, ?, 'SENT', 'prediction', ?)",
            [utc_now(), long_ago],
        )
    )

    deploy(settings, lake, lambda _: None)

    assert first_day(settings) == long_ago
