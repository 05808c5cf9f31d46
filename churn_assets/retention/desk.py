"""The desk that the settings ask for: writer, template, checks and limits put together. Nothing is decided here."""

from functools import partial

from churn_assets.retention.emails import Desk, Limits
from churn_assets.retention.prompts import load_prompts
from churn_assets.retention.template_writer import TemplateWriter
from churn_assets.retention.text_checks import complaints_about
from churn_assets.retention.writers import make_writer
from churn_assets.settings import Settings


def make_desk(settings: Settings) -> Desk:
    """Read what marketing wrote, or `PromptsError`; `SettingsError` where the writer's settings are wrong."""
    prompts = load_prompts()
    return Desk(
        writer=make_writer(settings, prompts),
        template=TemplateWriter(prompts),
        check=partial(complaints_about, prompts=prompts),
        folder=settings.emails_path,
        limits=limits_of(settings),
    )


def limits_of(settings: Settings) -> Limits:
    """What a day may cost."""
    return Limits(settings.emails_per_day, settings.tokens_per_day)
