"""Make objects from the settings: warehouse, search index, writer, author, email run.

Only this module reads CHURN_TARGET, CHURN_WRITER and CHURN_ANALYST to choose an implementation.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from churn_assets.analyst.agent import Agent
from churn_assets.analyst.answer import Author
from churn_assets.analyst.semantic_model import SemanticModel, load_semantic_model
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.folder import Folder
from churn_assets.model import serving as model_functions
from churn_assets.retention.emails import EmailRun, Limits
from churn_assets.retention.writing.cortex import CortexWriter
from churn_assets.retention.writing.prompts import Prompts, load_prompts
from churn_assets.retention.writing.template import TemplateWriter
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import Writer
from churn_assets.rules import ANALYST_TIMEOUT_SECONDS, WRITER_RETRIES, WRITER_TIMEOUT_SECONDS
from churn_assets.search.cortex import CortexSearch
from churn_assets.search.embedded import EmbeddedSearch
from churn_assets.search.grants import SeenByGrants
from churn_assets.search.hits import Search
from churn_assets.search.index import LogIndex
from churn_assets.search.relevance import load_catalogue
from churn_assets.serving.guard import TIMEOUT_SECONDS
from churn_assets.serving.reading import LakeServing, Serving, SnowflakeServing
from churn_assets.settings import DEFAULT_MODELS, Settings, SettingsError
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import EMAILS, LakePlace
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.shelf import Shelf
from churn_assets.warehouse.snowflake_names import names_of

# The clients of Snowflake and OpenAI each take a second to import, so they are imported only where they are needed.


class OnlyHereError(ChurnError):
    """A command runs on this machine only, but the settings name a remote warehouse."""


@dataclass(frozen=True)
class Place:
    """Where the tables are: described for a person, as a Dagster kind, and as the prefix of a full table name."""

    described: str
    kind: str
    schema: str


def place_of(settings: Settings) -> Place:
    """Where the tables of `settings` are."""
    if settings.target == "snowflake":
        schema = f"{settings.snowflake_database}.{settings.snowflake_schema}".upper()
        return Place(f"{schema} of Snowflake's account {settings.snowflake_account}", "snowflake", schema)
    place = lake_place(settings)
    described = f"{place} with its catalog in the {place.catalog}" if settings.lake_is_shared else str(place)
    return Place(described, "ducklake", "lake.main")


def lake_place(settings: Settings) -> LakePlace:
    """Where the lake of `settings` is. It connects to nothing."""
    if settings.lake_catalog is None or settings.lake_data is None:
        return LakePlace.here(settings.lake_path)
    return LakePlace.shared(settings.lake_catalog, settings.lake_data, settings.lake_path)


def shelf_of(settings: Settings) -> Shelf:
    """Where the warehouse's marks and paid answers are kept."""
    if settings.lake_is_shared:
        return Shelf(Folder(f"{settings.lake_data}/{EMAILS}"), lake_place(settings).turns)
    return Shelf.here(settings.emails_path)


def must_be_here(settings: Settings, command: str) -> None:
    """`OnlyHereError` if the settings name a warehouse that is not on this machine."""
    if settings.target != "local":
        raise OnlyHereError(f"`{command}` runs on this machine only; set CHURN_TARGET=local for it")


def must_be_in_home(settings: Settings, command: str) -> None:
    """`OnlyHereError` if the settings name a warehouse that is not in CHURN_HOME."""
    must_be_here(settings, command)
    if settings.lake_is_shared:
        raise OnlyHereError(
            f"`{command}` has a lake in CHURN_HOME; unset CHURN_LAKE_CATALOG and CHURN_LAKE_DATA for it"
        )


def open_warehouse(settings: Settings, *, read_only: bool = False, **of_snowflake: Any) -> Warehouse:
    """The warehouse of `settings`; it connects at the first query.

    `of_snowflake` are further arguments of `SnowflakeWarehouse`, such as `tag` and `connect`.
    """
    if settings.target == "snowflake":
        from churn_assets.warehouse.snowflake import SnowflakeWarehouse  # noqa: PLC0415

        return SnowflakeWarehouse(settings, read_only=read_only, **of_snowflake)

    return open_lake(lake_place(settings), read_only=read_only, memory_limit=settings.memory_limit)


def open_lake(
    place: Path | LakePlace,
    *,
    read_only: bool = False,
    timeout_seconds: float | None = None,
    memory_limit: str | None = None,
    any_version: bool = False,
) -> LakeWarehouse:
    """The lake in a folder, or where `place` says, whose queries may call the model."""
    return LakeWarehouse(
        place,
        read_only=read_only,
        timeout_seconds=timeout_seconds,
        memory_limit=memory_limit,
        functions=model_functions.register,
        any_version=any_version,
    )


def open_serving(settings: Settings, role: str, timeout_seconds: float | None = None) -> Serving:
    """The serving views of the warehouse of `settings` as `role` sees them; queries are stopped after `timeout_seconds`."""
    if settings.target == "snowflake":
        seen = _as_role(settings, role, names_of(settings).serving_schema)
        views = open_warehouse(seen, read_only=True, timeout_seconds=timeout_seconds, any_version=True)
        return SnowflakeServing(views, role.upper())
    lake = open_lake(
        lake_place(settings), read_only=True, timeout_seconds=timeout_seconds, memory_limit=settings.memory_limit
    )
    return LakeServing(lake, role.upper())


def open_agent(settings: Settings, role: str) -> Agent:
    """The agent that answers questions in words for `role`; `SettingsError` if CHURN_ANALYST does not fit the warehouse."""
    model = load_semantic_model()
    serving = open_serving(settings, role, TIMEOUT_SECONDS)
    author = _author(settings, model, serving)
    stands_for: dict[str, str] = {}
    if settings.target == "snowflake":
        names = names_of(settings)
        stands_for = model.tables_of_views(f"{names.database}.{names.serving_schema}")
    return Agent(model, serving, lambda: open_search(settings, serving.role), author, utc_now, stands_for)


def _author(settings: Settings, model: SemanticModel, serving: Serving) -> Author | None:
    match settings.analyst:
        case "verified":
            return None
        case "openai":
            from churn_assets.analyst.openai_author import OpenAIAuthor  # noqa: PLC0415
            from churn_assets.language_model import LanguageModel  # noqa: PLC0415

            language_model = LanguageModel(
                settings.openai_base_url.get_secret_value(),
                settings.openai_api_key.get_secret_value(),
                settings.analyst_model,
                setting="CHURN_ANALYST_MODEL",
                timeout=ANALYST_TIMEOUT_SECONDS,
                max_retries=0,
            )
            return OpenAIAuthor(language_model, model, serving.dialect)
        case "cortex":
            if settings.target != "snowflake":
                raise SettingsError(
                    "CHURN_ANALYST=cortex needs CHURN_TARGET=snowflake; or set CHURN_ANALYST to verified or openai"
                )
            from churn_assets.analyst.cortex_author import CortexAuthor  # noqa: PLC0415

            names = names_of(settings)
            seen = _as_role(settings, serving.role, names.serving_schema)
            return CortexAuthor(seen, f"{names.database}.{names.serving_schema}.{model.name}".upper())


def _as_role(settings: Settings, role: str, serving_schema: str) -> Settings:
    """The settings of a session in which `role` sees the serving views."""
    return settings.model_copy(update={"snowflake_role": role.upper(), "snowflake_schema": serving_schema})


def warehouse_to_write(settings: Settings) -> Warehouse:
    """The warehouse of `settings`, after creating the tables that it lacks."""
    warehouse = open_warehouse(settings)
    warehouse.deploy()
    return warehouse


def open_search(settings: Settings, role: str) -> Search:
    """Search over the app's errors and the support cases for one role: DATA_ENGINEER, or one in `segment_grants`."""
    if settings.target == "snowflake":
        warehouse = open_warehouse(settings, read_only=True)
        return CortexSearch(warehouse, names_of(settings), SeenByGrants(warehouse, role))
    lake = open_warehouse(settings, read_only=True)
    return EmbeddedSearch(LogIndex(settings.search_path, lake), lake, load_catalogue(settings.search_path), role)


def open_log_index(settings: Settings, warehouse: Warehouse) -> LogIndex | None:
    """The search index that has to be kept up to date; None if the warehouse has its own search service."""
    if settings.target == "snowflake":
        return None
    return LogIndex(settings.search_path, warehouse)


def make_writer(settings: Settings, prompts: Prompts, warehouse: Warehouse) -> Writer:
    """The writer of `CHURN_WRITER`, or `SettingsError`. It calls nothing before it writes; Cortex is called over `warehouse`."""
    match settings.writer:
        case "template":
            return TemplateWriter(prompts)
        case "openai":
            from churn_assets.retention.writing.openai import OpenAIWriter  # noqa: PLC0415

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
            return CortexWriter(warehouse, settings.writer_model or DEFAULT_MODELS[settings.writer], prompts)


def make_email_run(settings: Settings, warehouse: Warehouse) -> EmailRun:
    """The email run, with marketing's wording; `PromptsError` or `SettingsError` if wording or settings are wrong."""
    prompts = load_prompts()
    return EmailRun(
        writer=make_writer(settings, prompts, warehouse),
        template=TemplateWriter(prompts),
        check=partial(complaints_about, prompts=prompts),
        shelf=shelf_of(settings),
        limits=limits_of(settings),
    )


def limits_of(settings: Settings) -> Limits:
    """The limits of a day."""
    return Limits(settings.emails_per_day, settings.tokens_per_day)
