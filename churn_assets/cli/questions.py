"""The commands for questions: SQL, search, questions in words, and which role sees which segments."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Annotated, Any

import typer

from churn_assets.analyst.answer import Answer
from churn_assets.cli.shown import one_line, print_rows, progress, say
from churn_assets.errors import ChurnError
from churn_assets.rules import ENGINEER_ROLE
from churn_assets.search.hits import Filters, Hit
from churn_assets.serving.guard import ROW_LIMIT as ANSWER_ROWS
from churn_assets.settings import load_settings
from churn_assets.wiring import open_agent, open_serving, open_warehouse, warehouse_to_write

app = typer.Typer()


QUERY_ROWS = 1000


@app.command(rich_help_panel="Questions")
def query(
    sql: Annotated[str, typer.Argument(help="One read-only statement.")],
    role: Annotated[
        str | None,
        typer.Option(
            help="Query as a role, such as MARKETING_ANALYST: one SELECT over the serving views, with what that role sees."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array of rows.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
) -> None:
    """Run SQL on the warehouse, read-only."""
    settings = load_settings()
    if role is None:
        result = open_warehouse(settings, read_only=True).query(sql)
    else:
        result = open_serving(settings, role).query_from_outside(sql)
    if as_json:
        print(json.dumps(result.to_pylist(), default=str))  # noqa: T201
    elif as_csv:
        print(result.to_pandas().to_csv(index=False), end="")  # noqa: T201
    else:
        print_rows(result.slice(0, QUERY_ROWS))
        if result.num_rows > QUERY_ROWS:
            say(f"... {QUERY_ROWS:,} of {result.num_rows:,} rows; --csv prints all")


@app.command(rich_help_panel="Questions")
def search(
    words: Annotated[str, typer.Argument(help="What happened, in your words; '' lists the newest.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="kind=error|case, customer_id=, error_code= or device=; repeat it for several."),
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="From this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many hits.")] = 20,
    role: Annotated[str, typer.Option(help="Search as this role, such as MARKETING_ANALYST.")] = "DATA_ENGINEER",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Search the app's errors and the support cases in words: best hits first, newer ones first among equals."""
    from churn_assets.search.hits import parse_filters
    from churn_assets.wiring import open_log_index, open_search

    settings = load_settings()
    wanted = parse_filters(filters or [], since, until)
    found = open_search(settings, role)
    state = "as fresh as the search service"
    if index := open_log_index(settings, open_warehouse(settings)):
        open_warehouse(settings, read_only=True).query("SELECT 1")  # raises if there is no lake, rather than make one
        with progress("bringing the search index up to date") as show:
            update = index.update(lambda so_far: show(f"building the search index: {so_far:,} events"))
        state = f"in an index of {update.documents:,} errors and cases, up to date"
        if update.reason:
            state += f" (just built in {update.seconds:.1f} s: {update.reason})"
    hits = found.search(words, wanted, limit)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], indent=2, default=str))  # noqa: T201
        return
    _print_hits(hits)
    say(f"{len(hits)} found, {state}")


@app.command(rich_help_panel="Questions")
def grant(
    role: Annotated[str, typer.Argument(help="MARKETING_ANALYST, or a role of your own.")],
    segments: Annotated[
        list[str] | None, typer.Argument(help="The segments that it sees; '*' for all; omit for none.")
    ] = None,
) -> None:
    """Let a role see only these segments in the serving views, from the next query on."""
    from churn_assets.serving.grants import grant_segments

    granted = segments or []
    grant_segments(warehouse_to_write(load_settings()), role.upper(), granted)
    say(f"{role.upper()} sees {', '.join(granted) or 'nothing'}")


@app.command(rich_help_panel="Questions")
def ask(
    question: Annotated[str, typer.Argument(help="In words, such as 'How many customers are in each class of risk?'")],
    role: Annotated[str, typer.Option(help="Answer as a role, such as MARKETING_ANALYST.")] = ENGINEER_ROLE,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Answer a question from the figures or by a search over errors and cases, and show how.

    It knows the verified questions of the semantic model and other ways to ask them. For other questions, CHURN_ANALYST names
    a language model. If it cannot answer, it prints the reason and the nearest questions, and exits with code 1.
    """
    answer = open_agent(load_settings(), role).answer(question)
    if as_json:
        print(json.dumps(_as_json(answer), indent=2, default=str))  # noqa: T201
    else:
        _show_answer(answer)
    if answer.refusal is not None:
        raise ChurnError(answer.refusal)


def _as_json(answer: Answer) -> dict[str, Any]:
    parts = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return {
        **parts,
        "rows": None if answer.rows is None else answer.rows.to_pylist(),
        "filters": answer.filters and asdict(answer.filters),
        "hits": answer.hits and [asdict(hit) for hit in answer.hits],
        "refused": [asdict(refused) for refused in answer.refused],
    }


def _show_answer(answer: Answer) -> None:
    say(f"{answer.route}: {answer.why}")
    if answer.taken_for is not None:
        sure = "" if answer.confidence is None else f"  ({answer.confidence:.0%} sure that this was asked)"
        say(f"{answer.taken_for}{sure}")
    for refused in answer.refused:
        say(f"\n{refused.sql}\n-- refused: {refused.reason}")
    if answer.sql is not None:
        say(f"\n{answer.sql}\n")
    if answer.rows is not None:
        print_rows(answer.rows)
        if answer.rows.num_rows == ANSWER_ROWS:
            say(f"... the first {ANSWER_ROWS:,} rows; there may be more")
    if answer.hits is not None:
        filters = {name: value for name, value in asdict(answer.filters or Filters()).items() if value is not None}
        say(f"searched for {answer.searched!r}{''.join(f', {name} {value}' for name, value in filters.items())}\n")
        _print_hits(answer.hits)
        say(f"{len(answer.hits)} found")
    if answer.nearest:
        say("\n".join(["I can answer these:", *(f"  {answerable}" for answerable in answer.nearest)]))


def _print_hits(hits: Sequence[Hit]) -> None:
    rows: list[tuple[str, ...]] = [("score", "when (UTC)", "customer", "segment", "what")]
    for hit in hits:
        what = ", ".join(part for part in (hit.error_code, hit.device) if part)
        when = f"{hit.happened_at:%Y-%m-%d %H:%M}"
        title = f"{hit.title} ({what})" if what else hit.title
        rows.append((f"{hit.score:.2f}", when, *map(one_line, (hit.customer_id, hit.segment or "", title))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for place, (*cells, title) in enumerate(rows if hits else []):
        say("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), title]))
        if place:
            say(f"       {one_line(hits[place - 1].passage)}")
