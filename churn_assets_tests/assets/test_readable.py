import dagster as dg

from churn_assets.assets.readable import FAILING_ROWS, failing, rounded, table


def test_floats_keep_four_digits_that_count_and_nothing_else_is_touched():
    assert rounded(
        {"seconds": 0.5631171400000312, "bytes": 123456.789, "rows": 12345678, "none": None, "yes": True}
    ) == {
        "seconds": 0.5631,
        "bytes": 123456.8,
        "rows": 12345678,
        "none": None,
        "yes": True,
    }


def test_a_table_has_named_columns_with_the_types_of_their_values():
    shown = table(
        [{"topic": "events", "to": 7, "share": None}, {"topic": "scores", "to": 9, "share": 1 / 3}],
        ["topic", "to", "share"],
    )

    assert [dict(record.data) for record in shown.records] == [
        {"topic": "events", "to": 7, "share": None},
        {"topic": "scores", "to": 9, "share": 0.3333},
    ]
    assert [(column.name, column.type) for column in shown.schema.columns] == [
        ("topic", "string"),
        ("to", "int"),
        ("share", "float"),
    ]


def test_of_many_failing_rows_the_first_ten_are_shown_and_of_none_no_table():
    (shown,) = failing([{"customer_id": f"C{number}"} for number in range(99)], ["customer_id"]).values()

    assert isinstance(shown, dg.TableMetadataValue)
    assert len(shown.records) == FAILING_ROWS
    assert failing([], ["customer_id"]) == {}
