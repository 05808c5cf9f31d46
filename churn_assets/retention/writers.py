"""Which writer the settings ask for. How each one writes is its own module."""

from churn_assets.retention.prompts import Prompts
from churn_assets.retention.template_writer import TemplateWriter
from churn_assets.retention.writer import Writer
from churn_assets.settings import WRITER_RETRIES, WRITER_TIMEOUT_SECONDS, Settings, SettingsError
from churn_assets.warehouse.opening import open_warehouse

DEFAULT_MODELS = {"openai": "llama3", "cortex": "llama3.1-8b"}  # unless CHURN_WRITER_MODEL names another


def make_writer(settings: Settings, prompts: Prompts) -> Writer:
    """The writer of `CHURN_WRITER`, or `SettingsError`; nothing is called before it writes."""
    match settings.writer:
        case "template":
            return TemplateWriter(prompts)
        case "openai":
            # Its client takes a second to import, which every other run would pay.
            from churn_assets.retention.openai_writer import OpenAIWriter  # noqa: PLC0415

            return OpenAIWriter(
                base_url=settings.openai_base_url.get_secret_value(),
                api_key=settings.openai_api_key.get_secret_value(),
                model=settings.writer_model or DEFAULT_MODELS[settings.writer],
                prompts=prompts,
                timeout=WRITER_TIMEOUT_SECONDS,
                max_retries=WRITER_RETRIES,
            )
        case "cortex":
            if settings.target != "snowflake":
                raise SettingsError(
                    "CHURN_WRITER=cortex needs CHURN_TARGET=snowflake; or set CHURN_WRITER to template or openai"
                )
            from churn_assets.retention.cortex_writer import CortexWriter  # noqa: PLC0415

            return CortexWriter(
                open_warehouse(settings), settings.writer_model or DEFAULT_MODELS[settings.writer], prompts
            )
