"""What is proposed for data that nobody has described, and what a trial says of a mapping."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from churn_assets.clock import utc_now
from churn_assets.ingestion import trial
from churn_assets.ingestion.mapping.compiling import Mappings
from churn_assets.ingestion.mapping.file import MappingError, parse
from churn_assets.ingestion.mapping.suggesting import suggest
from churn_assets.ingestion.mapping.vocabulary import CODES
from churn_assets.rules import Codes
from churn_assets_tests.ingestion.mapping.mapped import mappings, postings

POSTINGS_DE = "BelegNr;IBAN;Buchungstag;Buchungsart;Betrag;Verwendungszweck\n" + "".join(
    f"B{n};DE{n % 3};{1 + n % 28:02}.03.2026 1{n % 10}:00;{('LASTSCHRIFT', 'Kartenzahlung')[n % 2]};-1.{n:03},50;x\n"
    for n in range(40)
)
ACCOUNTS_EN = "account_number,client_id,account_type,status,open_date\n" + "".join(
    f"{n:06},C{n},CHECKING,{'AC'[n % 2]},{1 + n % 12}/{13 + n % 15}/2019\n" for n in range(40)
)
CUSTOMERS_FR = "id_client|nom|segment|date_entree|courriel\n" + "".join(
    f"C{n}|Élise {n}|MASS|{13 + n % 15}/0{1 + n % 9}/2019|e{n}@example.com\n" for n in range(40)
)


@pytest.mark.parametrize(
    ("name", "text", "ledger", "columns"),
    [
        ("umsaetze.csv", POSTINGS_DE, "fact_transaction_ledger",
         {"transaction_ref": "BelegNr", "account_id": "IBAN", "amount": "abs(Betrag)",
          "posting_date": {"sql": "Buchungstag", "date_format": ["%d.%m.%Y %H:%M"]}}),
        ("accounts.csv", ACCOUNTS_EN, "dim_accounts",
         {"account_id": "account_number", "customer_id": "client_id", "product_code": "account_type",
          "opened_at": {"sql": "open_date", "date_format": ["%m/%d/%Y"]}}),
        ("clients.txt", CUSTOMERS_FR, "dim_customers",
         {"customer_id": "id_client", "full_name": "nom", "segment": "segment", "email": "courriel",
          "join_date": {"sql": "date_entree", "date_format": ["%d/%m/%Y"]}}),
    ],
)  # fmt: skip
def test_what_is_suggested_for_a_table_maps_all_of_it(
    tmp_path: Path, name: str, text: str, ledger: str, columns: dict[str, object]
):
    file = tmp_path / name
    file.write_text(text)

    suggested = suggest(trial.sample_of(file, None), None)

    (mapping,) = yaml.safe_load(suggested)["mappings"]
    assert mapping["ledger"] == ledger
    assert {name: mapping["columns"].get(name) for name in columns} == columns
    tried = trial.check(Mappings(parse(suggested.encode(), "m")), file, None, utc_now())
    assert (tried.rows[ledger].num_rows, tried.rejects) == (40, {})


def test_what_is_suggested_for_change_events_maps_them(tmp_path: Path):
    file = tmp_path / "topic.ndjson"
    row = {"id": 7, "kunde_id": "C1", "typ": "GIRO", "saldo": "12.50", "status": "A"}
    file.write_text("".join(
        json.dumps({"op": "c", "before": None, "after": row | {"id": n}, "source": {"table": "konten"},
                    "ts_ms": 1767225600000 + n}) + "\n" for n in range(9)))  # fmt: skip

    suggested = suggest(trial.sample_of(file, "db.konten"), None)

    (mapping,) = yaml.safe_load(suggested)["mappings"]
    assert (mapping["ledger"], mapping["format"], mapping["topics"]) == ("dim_accounts", "debezium", ["db.konten"])
    tried = trial.check(Mappings(parse(suggested.encode(), "m")), file, None, utc_now())
    assert (tried.rows["dim_accounts"].num_rows, tried.rejects) == (9, {})


def test_codes_are_suggested_and_tried_by_what_they_mean_to_the_rules(
    tmp_path: Path, with_rules: Callable[[str], None]
):
    assert set(CODES["transaction_code"]) <= set(Codes().of_column("transaction_code"))
    assert set(CODES["account_status"]) <= set(Codes().of_column("account_status"))
    with_rules('[codes]\nmoney_out = ["Card", "ATM"]\nwire_out = []\n')
    file = tmp_path / "umsaetze.csv"
    file.write_text(POSTINGS_DE + "B99;DE1;01.03.2026 10:00;Geldautomat;1,00;x\nB98;DE1;01.03.2026 10:00;UE;1,00;x\n")

    suggested = suggest(trial.sample_of(file, None), None)

    found = Mappings(parse(suggested.encode(), "m"))
    table = yaml.safe_load(suggested)["codes"]["transaction_code"]["values"]
    assert table == {"LASTSCHRIFT": "Card", "Kartenzahlung": "Card", "Geldautomat": "ATM"}
    tried = trial.check(found, file, None, utc_now())
    assert tried.codes["transaction_code"] == {"CARD": (40, "money_out"), "ATM": (1, "money_out")}
    assert trial.codes_without_meaning(found) == []
    wrong = mappings(
        postings({"transaction_code": {"sql": "kind", "codes": "kinds"}}), codes={"kinds": {"values": {"K": "CRAD"}}}
    )
    assert trial.codes_without_meaning(wrong) == [
        "codes.kinds: no rule knows CRAD, did you mean Card?; choose a code of [codes] in churn.toml, or name it there"
    ]


def test_a_trial_says_which_field_no_message_has(tmp_path: Path):
    file = tmp_path / "topic.ndjson"
    file.write_text('{"ref":"T1","account":"A","booked":"2026-01-01","kind":"atm","amount":1}\n{"ref":\n')

    tried = trial.check(mappings(postings()), file, None, utc_now())
    assert tried.rejects == {"not JSON: it ends too early": (1, 2)}

    with pytest.raises(MappingError, match="has the field acount"):
        trial.check(mappings(postings({"account_id": "acount"})), file, None, utc_now())
