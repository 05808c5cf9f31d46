"""A wrong mapping is one clear line, before any message is read."""

import json

import jsonschema
import pytest
import yaml

from churn_assets.ingestion import contract
from churn_assets.ingestion.mapping import file as mapping_file
from churn_assets.ingestion.mapping.file import MappingError
from churn_assets_tests.ingestion.mapping.mapped import POSTINGS, mappings, postings

CODES = {"kinds": {"values": {"K": "POS"}}}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        pytest.param({**POSTINGS, "ledger": "ledger"}, "there is no ledger ledger", id="ledger"),
        pytest.param({**POSTINGS, "topics": []}, "name topics or files", id="no source"),
        pytest.param(
            {**POSTINGS, "colums": {}}, "mappings.postings.colums: nothing reads it, did you mean columns?", id="member"
        ),
        pytest.param(postings({"acount": "a"}), "has no column acount", id="unknown column"),
        pytest.param({**POSTINGS, "columns": {"amount": "a"}}, "lacks transaction_ref, account_id", id="needed column"),
        pytest.param(
            postings({"amount": {"sql": "a", "field": "b"}}), "one of sql, field and constant", id="two origins"
        ),
        pytest.param(
            postings({"amount": {"sql": "a", "codes": "kinds"}}), "takes no codes", id="option of another type"
        ),
        pytest.param(postings({"merchant": {"sql": "a", "codes": "x"}}), "the code table x", id="code table"),
        pytest.param(postings(timezone="Berlin"), "Berlin is no time zone", id="zone"),
        pytest.param(postings(date_format="dd.mm.yyyy"), "dd.mm.yyyy is no date_format", id="pattern without signs"),
        pytest.param(postings(date_format="%d.%Q"), "%d.%Q is no date_format", id="unknown sign"),
        pytest.param(postings({"amount": "sum(a)"}), "columns.amount: “sum(a)” is over many rows", id="aggregate"),
        pytest.param(
            postings({"amount": "strptime(a, b)"}), "columns.amount: “strptime(a, b)”: ", id="wrong arguments"
        ),
        pytest.param(postings({"amount": "Betrag EUR"}), "needs double quotes", id="name with a blank"),
        pytest.param(postings(where="kind"), "where: “kind” is a VARCHAR, not a condition", id="condition"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(mapping: dict[str, object], said: str):
    with pytest.raises(MappingError) as error:
        mappings(mapping, codes=CODES)

    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("the mapping mapping.yaml is wrong")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"mappings: [", "no YAML: line 1", id="unfinished"),
        pytest.param(b"- a", "no list `mappings`", id="list"),
        pytest.param(b"", "no list `mappings`", id="empty"),
        pytest.param(
            b"codes:\n  a:\n    values:\n      X: POS\n      X: ATM\n", "line 5: the key X stands twice", id="twice"
        ),
        pytest.param("mappings: ü".encode("latin-1"), "not UTF-8", id="Latin-1"),
        pytest.param(b"[" * 600, "no YAML", id="deep"),
        pytest.param(b"mappings: !!python/object/apply:os.system ['false']\n", "mappings.number 1", id="a tag"),
    ],
)
def test_what_is_no_mapping_is_said_in_one_line(content: bytes, said: str):
    with pytest.raises(MappingError) as error:
        mapping_file.parse(content, "m.yaml")

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_codes_are_texts_whatever_yaml_makes_of_them():
    content = yaml.safe_dump(POSTINGS)
    text = f"mappings:\n- {content.replace(chr(10), chr(10) + '  ')}\ncodes: {{k: {{values: {{NO: A, 010: B, 1.0: C, ~: D}}}}}}"

    assert mapping_file.parse(text.encode(), "m").codes["k"].values == {"NO": "A", "010": "B", "1.0": "C", "~": "D"}


def test_the_json_schema_is_that_of_the_code_and_takes_what_is_taken():
    schema = json.loads(contract.MAPPING_SCHEMA.read_text())

    assert schema == mapping_file.json_schema(), "run `make event-docs`"
    jsonschema.validate({"mappings": [postings({"amount": {"sql": "a", "decimal": ","}}, topics="core")]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"mappings": [postings(ledger="x")]}, schema)
