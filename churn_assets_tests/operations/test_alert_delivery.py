"""Alerts reach their destinations once, whatever is down or dies in between. The destination is a real HTTP server."""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from churn_assets.clock import utc_now
from churn_assets.operations import alerts as alerts_module
from churn_assets.operations.alert_delivery import MESSAGES_PER_TURN, Position, deliver, destinations_of
from churn_assets.operations.alerts import Alert, State, alerts_since, send
from churn_assets.settings import Settings, SettingsError, load_settings
from churn_assets_tests.ports import free_port


class Pager:
    """An HTTP server that keeps what it is sent, on a port of its own, also while it is down."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refuses = False
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        return f"json://ann:s3cret@127.0.0.1:{self.port}/alerts"

    def start(self) -> None:
        pager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not pager.refuses:
                    pager.told.append(f"{body['type']}: {body['message'].splitlines()[0]}")
                self.send_response(500 if pager.refuses else 200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    pager.start()
    yield pager
    pager.stop()


@pytest.fixture
def settings(pager: Pager) -> Settings:
    return load_settings(CHURN_ALERTS=pager.address)


def report(settings: Settings, message: str, state: State = "begins") -> None:
    severity = "info" if state == "is over" else "error"
    send(settings, Alert(utc_now().isoformat(), "run", severity, "job", None, None, message, "/runs/1", state))


class Told:
    """What a sensor does: it keeps the positions from turn to turn, in JSON."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.positions: list[Position] = []
        self.now = utc_now()
        self.turn()

    def turn(self, after: float = 0.0) -> list[str]:
        """One turn, so many seconds later; returns the problems."""
        self.now += timedelta(seconds=after)
        self.positions, problems = deliver(self.settings, self.positions, self.now)
        return problems


def test_an_alert_is_told_once_when_it_begins_and_once_when_it_is_over(settings: Settings, pager: Pager):
    report(settings, "before anybody was named")
    told = Told(settings)
    report(settings, "it fails")
    assert told.turn() == []
    report(settings, "it fails again", "goes on")
    report(settings, "it works", "is over")
    told.turn()
    told.turn()

    assert pager.told == ["failure: it fails", "success: it works"]
    assert alerts_since(settings, utc_now() - timedelta(hours=1))[0].message == "it works"


def test_a_destination_that_is_down_is_told_in_order_once_it_is_back_and_keeps_no_other_waiting(
    settings: Settings, pager: Pager, caplog: pytest.LogCaptureFixture
):
    other = Pager()
    other.start()
    told = Told(load_settings(CHURN_ALERTS=f"{pager.address},{other.address}"))
    pager.stop()
    report(settings, "one")
    report(settings, "two")

    (problem,) = told.turn()
    assert told.turn(after=1.0), "it is not asked again before its time"
    assert "destination 1 of CHURN_ALERTS (JSON) did not take an alert" in problem
    assert other.told == ["failure: one", "failure: two"]
    assert told.positions[0].failures == 1
    assert "s3cret" not in problem + caplog.text

    pager.start()
    pager.refuses = True  # up again, but not well
    assert told.turn(after=31.0)
    assert told.positions[0].failures == 2
    pager.refuses = False
    report(settings, "three")
    assert told.turn(after=61.0) == []

    assert pager.told == other.told == ["failure: one", "failure: two", "failure: three"]
    other.stop()


def test_what_dies_between_sending_and_noting_sends_again_and_loses_nothing(settings: Settings, pager: Pager):
    told = Told(settings)
    report(settings, "one")
    deliver(settings, told.positions, told.now)  # whoever called this was killed before it could keep the positions

    told.turn()

    assert pager.told == ["failure: one", "failure: one"]


def test_nothing_is_lost_or_doubled_where_the_file_is_rotated_or_a_process_dies_within_a_line(
    settings: Settings, pager: Pager, monkeypatch: pytest.MonkeyPatch
):
    told = Told(settings)
    report(settings, "one")
    told.turn()
    report(settings, "two")
    with settings.alerts_file.open("a") as lines:
        lines.write('{"when": "2026')  # killed here
    told.turn()
    report(settings, "three")
    monkeypatch.setattr(alerts_module, "FILE_BYTES", 10)
    report(settings, "four")  # in a new file
    told.turn()

    assert pager.told == [f"failure: {number}" for number in ("one", "two", "three", "four")]


def test_a_turn_is_short_however_much_there_is_to_tell(settings: Settings, pager: Pager):
    told = Told(settings)
    for number in range(MESSAGES_PER_TURN + 5):
        report(settings, str(number))

    told.turn()
    assert len(pager.told) == MESSAGES_PER_TURN
    told.turn()
    assert len(pager.told) == MESSAGES_PER_TURN + 5


@pytest.mark.parametrize("address", ["slack://s3cret", "nothing://s3cret@x", "s3cret"])
def test_an_address_that_is_none_is_named_by_its_number_and_not_shown(
    pager: Pager, address: str, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(SettingsError, match=r"CHURN_ALERTS") as caught:
        destinations_of(load_settings(CHURN_ALERTS=f"{pager.address},{address}" if "://" in address else address))

    assert "s3cret" not in str(caught.value) + caplog.text
    assert logging.getLogger("apprise").level == logging.CRITICAL
