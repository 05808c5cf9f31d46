"""Every statement that goes through the warehouse's protocol is one that the lake and Snowflake both take.

A scenario runs on lakes, every statement that the code sends is recorded, and the text of each is judged by `one_sql`. That every
place that sends one was reached is tested, too. Not judged is what dbt compiles, which it does for each warehouse by itself.
"""

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pyarrow as pa
import pytest

from churn_assets.assets import dynamic_tables
from churn_assets.assets.ledgers import ingest_config
from churn_assets.cli import check as rehearsal
from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion import backlog, commit, corrections, gaps, history
from churn_assets.ingestion.backlog import lags
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.gaps import Gap, Kind
from churn_assets.ingestion.kafka import OffsetRange, Partition
from churn_assets.ingestion.publisher import Publisher
from churn_assets.model import labels, registry, snowflake_training, training_set
from churn_assets.model.gate import judge
from churn_assets.model.training import Trained
from churn_assets.operations import erasure, setbacks
from churn_assets.operations.dbt import features_query, manifest_path
from churn_assets.operations.metrics import StateCollector
from churn_assets.retention import claims, effect, emails, suppressions
from churn_assets.retention.marks import Marks
from churn_assets.retention.outbox import approval, exporting, sending
from churn_assets.retention.outbox.smtp import smtp_of
from churn_assets.retention.queue import STREAM
from churn_assets.rules import EVENTS_TOPIC, Labels, Rules
from churn_assets.serving.grants import grant_segments
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator import seeding
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.warehouse import lake as lake_module
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.setbacks import SetbackError
from churn_assets.warehouse.shelf import Shelf
from churn_assets.wiring import open_lake, shelf_of
from churn_assets_tests.assets.conftest import Graph
from churn_assets_tests.ingestion.mapping.mapped import POSTING, decoded, mappings, postings
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.repository import REPOSITORY
from churn_assets_tests.retention.bank import DAY, HIGH, LOW, MINUTE, NOW, TODAY, rescore
from churn_assets_tests.retention.email_runs import FailingWriter, SayingWriter, email_run_of, write
from churn_assets_tests.retention.post import Mailbox, approved_emails, mail_server, write_emails
from churn_assets_tests.retention.test_queue import alert
from churn_assets_tests.snowflake.one_sql import RULES, broken_rules

pytestmark = pytest.mark.emulator

BREAKING = (
    ("FROM dim_customers", "a query that begins with FROM"),
    ("SELECT a FROM (FROM dim_customers) AS t", "a query that begins with FROM"),
    ("SELECT t.a FROM t ANTI JOIN u ON t.a = u.a", "ANTI or SEMI JOIN"),
    ("SELECT count(*) FILTER (WHERE a > 1) AS n FROM t", "FILTER behind an aggregate"),
    ("SELECT a FROM t WHERE a = ?1", "a numbered or named parameter"),
    ("UPDATE t AS u SET a = 1", "an alias of UPDATE's target"),
    ("SELECT a FROM t WHERE b > c - INTERVAL '7' DAY", "INTERVAL with its unit outside of the text"),
    ("SELECT a FROM t WHERE b > TIMESTAMP '2026-01-01'", "a literal of a type"),
    ("SELECT a FROM t ORDER BY a DESC", "DESC without NULLS: Snowflake has them first, DuckDB last"),
    ("SELECT a FROM t ORDER BY ALL", "ALL in ORDER BY or GROUP BY"),
    ("SELECT DISTINCT ON (a) a, b FROM t", "DISTINCT ON"),
    ("INSERT INTO t BY NAME SELECT a FROM u", "BY NAME"),
    ("SELECT * EXCLUDE (a) FROM t", "EXCLUDE, REPLACE or COLUMNS"),
    ("SELECT [1, 2] AS a FROM t", "a list, a struct or a lambda"),
    ("SELECT a FROM t WHERE b = ?::DATE", "a parameter with ::"),
    ("SELECT a FROM t LIMIT ?", "a parameter behind LIMIT"),
    ('SELECT "a" FROM t', "a name in quotes, whose case counts"),
    ("SELECT a / b AS c FROM t", "division: whole numbers give a whole number or not"),
    ("SELECT before.a FROM t AS before", "a name that is a word of Snowflake's"),
    ("SELECT count(*) AS rows FROM t", "a name that is a word of Snowflake's"),
    ("SELECT a FROM t WHERE (a, b, c) > (1, 2, 3)", "a comparison of rows"),
    ("SELECT a FROM t WHERE (a, b) IN (SELECT a, b FROM u)", "a comparison of rows"),
    ("INSERT INTO t (a, b) SELECT a, ? FROM u", "a parameter that is a column of its own without a type"),
    (
        "SELECT CASE WHEN a IN (SELECT a FROM u) THEN 1 END AS c FROM t",
        "IN or EXISTS over a query that is no condition of WHERE by itself",
    ),
    (
        "SELECT a FROM t WHERE b = 1 OR EXISTS (SELECT 1 FROM u WHERE u.a = t.a)",
        "IN or EXISTS over a query that is no condition of WHERE by itself",
    ),
    ("SELECT a FROM t WHERE a IN (SELECT a FROM u WHERE u.b = t.b)", "IN over a subquery that reads from outside"),
    (
        "SELECT coalesce((SELECT max(u.b) FROM u WHERE u.a = t.a), 0) AS c FROM t",
        "a scalar subquery that reads from outside",
    ),
    ("SELECT a FROM t WHERE b > (SELECT max(u.b) FROM u WHERE u.a = t.a)", "a scalar subquery that reads from outside"),
    ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a LIMIT 1)", "EXISTS over an aggregate or a LIMIT"),
    (
        "SELECT created_at - lag(created_at) OVER (PARTITION BY a ORDER BY b) AS c FROM t",
        "a difference of times, which is no interval in Snowflake",
    ),
    ("SELECT CAST(trained_at AS VARCHAR) AS c FROM t", "a time as text, which each writes in its own way"),
    ("SELECT sum(a > 1) AS c FROM t", "a sum of truths"),
    ("UPDATE t SET a = v.a FROM (VALUES (?, ?)) AS v (a, b) WHERE t.b = v.b", "VALUES that are read without a type"),
    (
        "MERGE INTO t USING (VALUES (?, ?)) AS v (a, b) ON t.a = v.a WHEN MATCHED THEN UPDATE SET b = v.b",
        "VALUES that are read without a type",
    ),
    ("SELECT v.a FROM (VALUES (?, ?)) AS v (a, b)", "VALUES that are read without a type"),
    ("SELECT greatest(a, b) AS c FROM t", "the function GREATEST is not on the list"),
    ("SELECT epoch_us(a) AS c FROM t", "the function EPOCH_US is not on the list"),
    ("SELECT CAST(a AS FLOAT) AS c FROM t", "the type FLOAT is not on the list"),
    ("CREATE TEMPORARY TABLE t (a INTEGER)", "CREATE is no query"),
    ("SELCT 1", "not parsed by sqlfluff"),
)

# Where the scenario does not come, by file and function, and why.
UNREACHED = {
    ("cli/questions.py", "query"): "a person's own statement",
    ("cli/questions.py", "search"): "a look at whether there is a lake, on the lake only",
    ("retention/writing/cortex.py", "write"): "AI_COMPLETE, which only Snowflake has",
    ("operations/traces.py", "_mask_sqlite"): "SQLite files of this machine",
    ("operations/damage.py", "_explained"): "what the lake's streams read, if a file of it is damaged",
    ("operations/lake.py", "deploy"): "the lake's deployment; Snowflake's asks the same in operations/account.py",
}
# What the lake's own engine and connections run, and what Snowflake's do; the search of each of the two; and what reads the
# serving views, which are written into it on the lake: test_in_snowflake.py holds the dashboard's, test_guard.py what is asked.
_NO_PROTOCOL = (
    *(
        "dynamic_tables",
        "warehouse/lake.py",
        "warehouse/catalog_file.py",
        "warehouse/lake_files.py",
        "warehouse/lake_place.py",
        "warehouse/catalog_copy.py",
        "warehouse/turns.py",
        "warehouse/snowflake",
        "search/",
    ),
    *("dashboard/", "serving/reading.py", "analyst/agent.py", "ingestion/mapping/"),
)
_NO_WAREHOUSE = {"connection", "self"}  # DuckDB as a library; a protocol's own method


class Place(NamedTuple):
    """Where a statement is sent from: a file of the package, a line, and the function that it is in."""

    file: str
    line: int
    function: str

    @property
    def is_the_codes_own(self) -> bool:
        """Whether it is in the package and uses the protocol."""
        return not self.file.startswith(("/", *_NO_PROTOCOL))


@dataclass
class Record:
    """The statements that were sent, and from where."""

    sent: dict[str, set[Place]] = field(default_factory=dict)
    compiled: list[str] = field(default_factory=list)  # by dbt, and what was made of it

    def note(self, sql: str) -> None:
        """Note a statement of whoever called the caller."""
        frame = sys._getframe(2)
        file = Path(frame.f_code.co_filename)
        name = file.relative_to(_PACKAGE).as_posix() if file.is_relative_to(_PACKAGE) else str(file)
        place = Place(name, frame.f_lineno, frame.f_code.co_name)
        if place.is_the_codes_own:
            for query in self.compiled:
                sql = sql.replace(query, "SELECT * FROM compiled")
            self.sent.setdefault(sql, set()).add(place)


_PACKAGE = REPOSITORY / "churn_assets"


@pytest.fixture(scope="module")
def record(deployed_home: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """What a run of nearly everything sends: a small bank over Kafka, then emails and models of made-up customers."""
    found = Record()
    folder = tmp_path_factory.mktemp("one_sql")
    homes = [folder / "graph", folder / "emails"]
    for home in homes:
        shutil.copytree(deployed_home, home)
    with pytest.MonkeyPatch.context() as patch:
        _record(patch, found)
        bank, made_up = (load_settings(CHURN_HOME=home) for home in homes)
        nodes = json.loads(manifest_path(bank).read_text())["nodes"].values()
        found.compiled += sorted((node["compiled_code"] for node in nodes if node.get("compiled_code")), key=len)[::-1]
        _events_to_emails(bank, trained, folder)
        _labels(bank)
        people = open_lake(made_up.lake_path)
        _models(people, trained)
        _emails(people)
        _outbox(people, folder)
        _setbacks(made_up, people)
        yield found


def _record(patch: pytest.MonkeyPatch, found: Record) -> None:
    original = {name: getattr(lake_module._LakeTransaction, name) for name in ("execute", "rows")}
    query, as_of = LakeWarehouse.query, training_set.features_as_of

    def recorded_query(self: LakeWarehouse, sql: str, parameters: Any = ()):
        found.note(sql)
        return query(self, sql, parameters)

    def execute(self: Any, sql: str, parameters: Any = ()):
        found.note(sql)
        return original["execute"](self, sql, parameters)

    def rows(self: Any, sql: str, parameters: Any = ()):
        found.note(sql)
        return original["rows"](self, sql, parameters)

    def features_as_of(*arguments: Any):
        found.compiled.append(as_of(*arguments))
        return found.compiled[-1]

    patch.setattr(LakeWarehouse, "query", recorded_query)
    patch.setattr(lake_module._LakeTransaction, "execute", execute)
    patch.setattr(lake_module._LakeTransaction, "rows", rows)
    patch.setattr(training_set, "features_as_of", features_as_of)


def _events_to_emails(settings: Settings, trained: Trained, folder: Path) -> None:
    """The graph over a bank of 150 customers, with all that can be wrong about its events."""
    lake = open_lake(settings.lake_path)
    bank = seeding.new_bank(150, 75, 1, utc_now())
    seeding.seed(lake, bank, utc_now(), lambda ledger, rows: None)
    assert seeding.seeded_bank(lake) == bank
    assert seeding.is_complete(lake)
    assert seeding.newest_event_time(lake)
    with embedded_broker(settings.broker_file) as cluster, dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(build_defs(settings), instance, lake, settings)
        publisher = Publisher(cluster, EVENTS_TOPIC)
        produce_at_once(LiveBank(bank), publisher, 300, utc_now, lambda sent: None)
        repeated = [
            message("TXN"),
            message("TXN", amount=1),
            # A code that no rule knows.
            message("TXN", transaction_ref="odd", transaction_code="KARTE", posting_date=f"{utc_now().isoformat()}Z"),
            message("USER"),
            message("USER", full_name="Eve"),
            b"poison",
        ]
        for number, event in enumerate(repeated * 2):
            publisher.send(str(number).encode(), event)
        publisher.flush()
        ranges = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
        halves = [OffsetRange(r.partition, r.start, (r.start + r.end) // 2) for r in ranges]
        for part in (halves, [OffsetRange(r.partition, (r.start + r.end) // 2, r.end) for r in ranges]):
            request = dg.RunRequest(run_config=dg.RunConfig(ops={"ingest": ingest_config([r for r in part if r])}))
            assert graph.run("ingest_events", request).success
        assert backlog.went_back(lake, cluster, settings.topics, settings.kafka_group) is None
        assert commit.furthest_offsets(lake)
        gone = Partition("gone", "t", 0)
        commit.begin(lake, {Partition("new", "t", 0): 7}, utc_now())
        assert lake.transact(lambda tx: commit.merge_old_ranges(tx, utc_now())) > 0
        for gap in (
            Gap(gone, Kind.DELETED, 0, 5),
            Gap(gone, Kind.TRUNCATED, 3, 5),
            Gap(gone, Kind.CREATED_AGAIN, 5, None),
        ):
            gaps.keep(lake, [gap], utc_now())
            gaps.resolve(lake, gap, utc_now(), "Ann", "a try")
        # An update and a delete of Debezium's.
        changes = [{"op": "u", "after": POSTING}, {"op": "d", "before": {"ref": "T2"}}]
        changed = decoded(mappings(postings(format="debezium")), *changes)
        values = pa.table({"value": pa.array([b"", b""], pa.binary())})
        commit.store_decoded(lake, values, changed, "core", utc_now(), first=lambda tx: None)
        version = registry.register(lake, trained.model, judge(trained, None), utc_now())
        registry.promote(lake, version, utc_now(), "Ann", "a try", force=True)
        assert graph.tick("trend_sensor").run_requests
        assert graph.tick("effect_sensor").skip_message == "nobody has been written to yet"
        for job in (
            "check_ledgers",
            "refresh_dynamic_tables",
            "extend_training_set",
            "measure_effect",
            "measure_drift",
            "count_cost",
            "count_risk",
        ):
            assert graph.run(job).success, job
        assert list(StateCollector(settings, lake, utc_now).collect())
        rehearsal._missing(lake)
        lake.transact(lambda tx: tx.execute("UPDATE dyn_churn_predictions SET risk_class = 'HIGH', risk_score = 0.9"))
        lake.transact(lambda tx: tx.execute("UPDATE streams SET position = NULL"))
        today = dg.RunRequest(partition_key=utc_now().date().isoformat())
        assert graph.run("write_retention_emails", today).success
        native = settings.model_copy(update={"driver": "native"})
        graph = Graph(build_defs(native), instance, lake, native)
        for sensor in ("driver_sensor", "emails_sensor"):
            graph.tick(sensor)
        assert graph.run("write_retention_emails", today).success
        # What a check asks only when it fails: for the rows that fail it.
        one = "SELECT MIN(customer_id) FROM agent_intervention_log"
        twice = f"INSERT INTO dim_customers SELECT * FROM dim_customers WHERE customer_id = ({one})"
        lake.transact(lambda tx: tx.execute(twice))
        assert not graph.run("check_ledgers").success
        tests = dynamic_tables.data_tests(json.loads(manifest_path(settings).read_text()), "dyn_churn_predictions")
        assert lake.transact(lambda tx: dynamic_tables.count_failing(tx, tests))
        for test in tests:
            dynamic_tables._failing_rows(lake, test)
    cases, customers = folder / "cases.csv", folder / "customers.csv"
    cases.write_text("case_id,customer_id,open_timestamp,category\nK1,C1,2026-03-01,FEES\nK2,,2026-03-01,FEES\n")
    customers.write_text("customer_id,full_name,segment,join_date\nF1,Ada,MASS,2020-01-01\n")
    for ledger, file in (("support_cases", cases), ("dim_customers", customers)) * 2:
        history.load(lake, ledger, history.open_tables(ledger, [file]), utc_now, lambda file, total: None)
    for reason in (None, "not JSON"):
        assert history.replay_rejects(lake, reason, utc_now).messages
    _corrections_and_erasure(settings, lake, folder)


def _corrections_and_erasure(settings: Settings, lake: LakeWarehouse, folder: Path) -> None:
    """Rows that are replaced or deleted, keys that nobody has or that stand there twice, and a customer who is erased.

    The one who has an email is stored twice before, and has a reject afterwards.
    """
    has_email = lake.query("SELECT MIN(customer_id) AS id FROM agent_intervention_log")["id"][0].as_py()
    corrected, deleted = folder / "corrected.csv", folder / "deleted.csv"
    rows = [("F1", "Ada B."), (has_email, "Eve"), ("F9", "Nobody"), *[("F8", "Twice")] * 2]
    lines = [f"{key},{name},MASS,2020-01-01\n" for key, name in rows]
    corrected.write_text("customer_id,full_name,segment,join_date\n" + "".join(lines))
    deleted.write_text(f"customer_id\nF1\n{has_email}\n{has_email}\n")  # so it stays
    assert corrections.correct(lake, "dim_customers", [corrected], "Ann", utc_now).replaced == 2
    assert corrections.delete(lake, "dim_customers", [deleted], "Ann", utc_now).deleted == 1
    erased = erasure.erase(settings, lake, None, has_email, "Ann", utc_now)
    assert erased.rows_deleted
    assert erased.rejects_blanked
    assert not commit.fatal_rejects(lake, NOW)


def _labels(settings: Settings) -> None:
    """The training set by each rule of who has left, made and corrected."""
    lake, (query, _) = open_lake(settings.lake_path), features_query(manifest_path(settings))
    for rule in (
        Labels(),
        Labels(churn="silent", days=20),
        Labels(churn="column", column="left_on"),
        Labels(churn="event", event="LOGOUT"),
    ):
        of_bank = Rules(labels=rule)
        with pytest.MonkeyPatch.context() as patch:
            for module in (labels, training_set):
                patch.setattr(module, "rules", lambda of_bank=of_bank: of_bank)
            training_set.clear(lake)
            assert training_set.extend(lake, query, utc_now(), lambda line: None).added
            assert training_set.extend(lake, query, utc_now(), lambda line: None).added == 0
            labels.problem(lake)
    # As an earlier version left it, with other labels.
    training_set.clear(lake)
    training_set.extend(lake, query, utc_now(), lambda line: None)
    lake.transact(lambda tx: tx.execute("UPDATE churn_training_set SET has_left = NOT has_left"))
    lake.transact(lambda tx: tx.execute("DELETE FROM churn_training_state"))
    assert training_set.extend(lake, query, utc_now(), lambda line: None).corrected


def _models(lake: LakeWarehouse, trained: Trained) -> None:
    """Two models, one after the other, and the way back."""
    assert snowflake_training._champion(lake) is None
    for version in (1, 2):
        assert registry.register(lake, trained.model, judge(trained, None), NOW + version * MINUTE) == version
        registry.promote(lake, version, NOW + version * MINUTE, "Ann", "a try", force=True)
    assert registry.rollback(lake, NOW + DAY, "Ann", "a try") == 1
    assert registry.champion(lake)
    assert len(registry.versions(lake)) == 2
    registry.serving_since(lake)
    training_set.read(lake)
    training_set.read(lake, after=TODAY)
    training_set.latest_cut_off(lake)
    training_set.leavers_by_cut_off(lake)


def _emails(lake: LakeWarehouse) -> None:
    """Alerts, claims, texts that are refused or fail, and customers who leave or may no longer be written to."""
    names = ["Ann", "Bob", "Cat", "Dan", "Eve", "Flo"]
    rescore(lake, dict.fromkeys([*names, "Hal"], LOW))
    assert rescore(lake, {**dict.fromkeys(names, HIGH), "Hal": LOW}) == len(names)
    assert alert(lake, dict.fromkeys(["Ann", "Hal", "a stranger"], 0.95)) == 3
    email_run = email_run_of(lake, FailingWriter("Name of Bob", "Name of Cat"), control_share=0.2)
    assert emails.next_day(lake, email_run.limits, NOW) == TODAY
    emails.write_emails(lake, email_run, TODAY, NOW)
    suppressions.suppress(lake, "Cat", None, NOW, None, "Ann")
    rescore(lake, {name: LOW if name == "Dan" else HIGH for name in names if name != "Bob"}, NOW + MINUTE)
    write(lake, SayingWriter("nothing"), now=NOW + 31 * MINUTE)
    suppressions.lift(lake, "Cat", NOW + DAY)
    emails.next_day(lake, email_run.limits, NOW + DAY)
    emails.emails_with_complaints(lake, email_run.check, TODAY)
    with suppress(suppressions.SuppressionError):
        suppressions.suppress(lake, "Nobody", None, NOW, None, "Ann")
    ready = [entry for entry in approval.waiting(lake) if entry.status == "READY"]
    suppressions.suppress(lake, ready[0].customer_id, TODAY + 9 * DAY, NOW, "asked", "Ann")
    assert not claims.customers_written_to_twice(lake)
    grant_segments(lake, "MARKETING_ANALYST", ["MASS", "SMB"])
    for look in (effect.intervention_effect, effect.effect_by_month):
        look(lake, NOW + timedelta(days=60))


def _outbox(lake: LakeWarehouse, folder: Path) -> None:
    """Emails that are approved, rejected, exported, sent, in doubt, and cancelled on their way."""
    write_emails(lake, ["Kim", "Lea", "Mia", "Ned", "Oda"])
    approval.reject(lake, ["to-Kim"], "Ann", NOW)
    approval.approve(lake, ["to-Lea"], "Ann", NOW)
    approval.shown(lake, "to-Lea")
    shelf = Shelf.here(folder)
    exporting.export(lake, folder / "emails.csv", shelf, "Ann", NOW, lambda line: None)
    approval.approve_all(lake, "Ann", NOW)
    box = Mailbox()
    box.message_answers["Mia"] = None
    lake.transact(lambda tx: tx.execute("UPDATE dim_customers SET email_consent = FALSE WHERE customer_id = 'Oda'"))
    with mail_server(box) as port:
        smtp = smtp_of(load_settings(CHURN_SMTP_URL=f"smtp://127.0.0.1:{port}", CHURN_EMAIL_FROM="care@bank.example"))
        for _ in range(2):
            sending.send(lake, smtp, shelf, None, "Ann", lambda: NOW + MINUTE)
    approval.resolve(lake, "to-Mia", True, "Ann", NOW + DAY)
    approved_emails(lake, ["Pia"])


def _setbacks(settings: Settings, lake: LakeWarehouse) -> None:
    """A lake that forgot an email which left, and another one's leaving; then a second time, when all that left is marked."""
    marks = Marks(shelf_of(settings))
    known = lake.query("SELECT intervention_id FROM agent_intervention_log WHERE status = 'EXPORTED'")[
        "intervention_id"
    ]
    marks.append(lake, known.to_pylist()[:1])
    lines = shelf_of(settings).lines("left.ndjson")
    line = json.loads(lines.read()[0])
    others = [{**line, "intervention_id": name, "moved_at": f"{NOW + 3 * DAY}"} for name in ("forgotten", "to-Pia")]
    lines.append(json.dumps(other | {"customer_id": "Pia"}) for other in others)
    with pytest.raises(SetbackError):
        setbacks.must_not_have_gone_back(settings, lake, NOW)
    for all_are_marked in (False, True):
        assert setbacks.confirm(settings, lake, all_are_marked=all_are_marked, by="Ann", now=NOW + DAY)


def _call_sites() -> list[tuple[Place, int]]:
    """Every place in the package that sends a statement, with its last line."""
    found = list[tuple[Place, int]]()
    for path in sorted(_PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SENDS:
                around = [each.name for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
                place = Place(path.relative_to(_PACKAGE).as_posix(), node.lineno, around[-1] if around else "")
                receiver = node.func.value
                if place.is_the_codes_own and not (isinstance(receiver, ast.Name) and receiver.id in _NO_WAREHOUSE):
                    found.append((place, node.end_lineno or node.lineno))
    return found


_SENDS = {"query", "rows", "execute"}


def test_every_place_that_sends_a_statement_was_reached(record: Record):
    places = {(place.file, place.line) for sent in record.sent.values() for place in sent}

    unreached = [
        f"{place.file}:{place.line} in {place.function}"
        for place, end in _call_sites()
        if (place.file, place.function) not in UNREACHED
        and not any((place.file, line) in places for line in range(place.line, end + 1))
    ]
    assert not unreached, "\n".join(unreached)
    assert len(_call_sites()) > 80, "the scan finds them"


def test_every_statement_is_one_that_snowflake_takes_too(record: Record):
    broken = {sql: found for sql in record.sent if (found := broken_rules(sql))}

    assert not broken, "\n".join(f"{found}: {sql} ({record.sent[sql]})" for sql, found in broken.items())
    assert len(record.sent) > 80


@pytest.mark.parametrize(("sql", "rule"), BREAKING)
def test_a_statement_that_snowflake_would_refuse_or_take_otherwise_is_found(sql: str, rule: str):
    assert any(found.startswith(rule) for found in broken_rules(sql)), broken_rules(sql)


def test_a_violation_of_each_rule_is_planted():
    assert set(RULES) <= {rule for _, rule in BREAKING}


def test_the_stream_is_read_by_one_statement_that_names_its_changes(record: Record):
    assert any(f"FROM changes_of_{STREAM} AS came" in sql for sql in record.sent)
