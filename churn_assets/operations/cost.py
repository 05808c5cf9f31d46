"""An estimate of what a deployment on Snowflake costs a day, printed with its assumptions.

Here belongs the arithmetic; `account` decides what is deployed.
"""

from collections.abc import Iterable

from churn_assets.dynamic_tables.tables import is_downstream, parse_target_lag
from churn_assets.operations.dbt import Model
from churn_assets.retention.writing.prompts import MAX_ANSWER_TOKENS, load_prompts
from churn_assets.retention.writing.writer import EmailRequest
from churn_assets.rules import HISTORY_SECONDS, INGEST_SECONDS
from churn_assets.settings import DEFAULT_MODELS, Settings

DAY_SECONDS = 24 * 3600
# Credits for an hour awake. Billed by the second, and for at least a minute each time the warehouse resumes:
# https://docs.snowflake.com/en/user-guide/cost-understanding-compute
CREDITS_PER_HOUR = {"XSMALL": 1, "SMALL": 2, "MEDIUM": 4, "LARGE": 8, "XLARGE": 16, "XXLARGE": 32}
LEAST_SECONDS_AWAKE = 60
REFRESH_SECONDS = 10  # assumed duration of an incremental refresh
CHARACTERS_PER_TOKEN = 4  # roughly, in English text


def estimate(settings: Settings, models: Iterable[Model], size: str = "XSMALL", auto_suspend: int = 60) -> list[str]:
    """The estimate as lines of text. `size` and `auto_suspend` (seconds) belong to the warehouse."""
    size = size.upper().replace("-", "")
    price = CREDITS_PER_HOUR.get(size)
    if price is None:
        return [f"cost: not estimated; unknown warehouse size {size}"]
    awake = max(LEAST_SECONDS_AWAKE, REFRESH_SECONDS + auto_suspend)
    lines = [
        f"cost a day, estimated: warehouse of size {size}, {price} credits an hour while awake, at least"
        f" {LEAST_SECONDS_AWAKE} s each time, asleep after {auto_suspend} s; a refresh is assumed to take {REFRESH_SECONDS} s"
    ]
    lags: dict[int, list[str]] = {}
    for model in models:
        if not is_downstream(model.target_lag):
            lags.setdefault(parse_target_lag(model.target_lag), []).append(model.name)
    for lag, names in sorted(lags.items()):
        share = min(1.0, awake / lag)
        sleep = ", so it never sleeps" if share == 1 else f", {DAY_SECONDS // lag} times {awake} s"
        lines.append(
            f"  {', '.join(sorted(names))}, each {lag} s: {24 * price * share:.1f} credits if rows change all day"
            f"{sleep}; none if nothing changes"
        )
    lines.append(
        f"  ingestion, at most one batch every {INGEST_SECONDS:.0f} s: keeps the warehouse awake while events arrive, at most"
        f" {24 * price:.1f} credits"
    )
    asked = 24 * price * min(1.0, max(LEAST_SECONDS_AWAKE, auto_suspend) / HISTORY_SECONDS)
    lines.append(
        f"  Dagster's sensors, which read the refresh history every {HISTORY_SECONDS:.0f} s: {asked:.1f} credits if the daemon"
        " runs all day, even if nothing changes; the warehouse stays awake while queued customers may not get an email yet"
    )
    lines.append(
        f"  all share one warehouse: together at most {24 * price:.1f} credits a day, {price} for each hour with events"
    )
    if settings.driver == "native":
        lines.append(
            "  tasks: on the same warehouse when their stream has data; checking the stream is a cloud service, free up to"
            " 10 % of the day's credits"
        )
    return [*lines, _emails(settings)]


def _emails(settings: Settings) -> str:
    if settings.driver != "native" and settings.writer != "cortex":
        return f"  emails: no Cortex tokens, because CHURN_WRITER={settings.writer}"
    model = (settings.writer_model if settings.writer == "cortex" else None) or DEFAULT_MODELS["cortex"]
    prompt = load_prompts().messages(EmailRequest(full_name="Ann Example", segment="MASS", reasons="rarely active"))
    tokens = len(prompt.system + prompt.user) // CHARACTERS_PER_TOKEN + MAX_ANSWER_TOKENS
    a_day = settings.emails_per_day * tokens
    return (
        f"  emails: at most {settings.emails_per_day:,} x about {tokens:,} tokens = {a_day / 1e6:.2f} million tokens of {model};"
        " Snowflake's Service Consumption Table gives the credits per million"
    )
