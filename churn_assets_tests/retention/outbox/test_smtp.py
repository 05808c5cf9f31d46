import ssl
import subprocess
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from aiosmtpd.smtp import AuthResult

from churn_assets.retention.outbox.smtp import Line, Smtp, is_address, message, smtp_of
from churn_assets.settings import SettingsError, load_settings
from churn_assets_tests.retention.bank import NOW
from churn_assets_tests.retention.post import Mailbox, mail_server


def smtp_at(url: str, sender: str = "care@bank.example") -> Smtp:
    return smtp_of(load_settings(CHURN_SMTP_URL=url, CHURN_EMAIL_FROM=sender))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, with its key."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", f"{file}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a server has that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def let_in(server: object, session: object, envelope: object, mechanism: str, data: object) -> AuthResult:
    is_ann = (getattr(data, "login", b""), getattr(data, "password", b"")) == (b"ann@bank", b"s3:cret")
    return AuthResult(success=is_ann, handled=is_ann)


def deliver(smtp: Smtp) -> str | None:
    """Send one message; why that was not possible."""
    with Line(smtp) as line:
        return line.open() or line.deliver("eve@bank.example", message(smtp, "1", "eve@bank.example", "Hi", NOW)).note


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the server does not see that smtps is encrypted
@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
def test_an_encrypted_server_is_logged_in_to_if_its_certificate_is_trusted(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
):
    box = Mailbox()
    encryption = {"tls": tls} if scheme == "smtps" else {"tls_context": tls, "require_starttls": True}
    with mail_server(
        box, **encryption, authenticator=let_in, auth_required=True, auth_require_tls=scheme != "smtps"
    ) as port:
        right, wrong = (smtp_at(f"{scheme}://ann%40bank:{word}@127.0.0.1:{port}") for word in ("s3%3Acret", "secretly"))
        assert "certificate verify failed" in (deliver(right) or "")
        assert box.delivered == []

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert deliver(right) is None
        assert box.count() == {"Eve": 1}
        assert box.is_encrypted
        refused = deliver(wrong) or ""
        assert "cannot be reached: 535" in refused
        assert "secretly" not in refused


def test_nothing_goes_unencrypted_to_a_server_that_should_encrypt_and_does_not():
    box = Mailbox()
    with mail_server(box) as port:
        assert "STARTTLS" in (deliver(smtp_at(f"smtp+starttls://127.0.0.1:{port}")) or "")
    assert box.delivered == []


@pytest.mark.parametrize(("scheme", "port"), [("smtp", 25), ("smtp+starttls", 587), ("smtps", 465)])
def test_each_scheme_has_its_usual_port(scheme: str, port: int):
    assert (smtp_at(f"{scheme}://mail.example").host, smtp_at(f"{scheme}://mail.example").port) == (
        "mail.example",
        port,
    )


@pytest.mark.parametrize(
    "url",
    ["mail.example:25", "http://u:s3cret@h", "smtp://", "smtp://u:s3cret@h:x", "smtp://u:s3/cret@h", "smtp://u@h"],
)
def test_a_wrong_url_says_how_it_should_be_and_shows_no_password(url: str):
    with pytest.raises(SettingsError, match="CHURN_SMTP_URL must be") as error:
        smtp_at(url)
    assert "s3" not in str(error.value)


def test_the_password_is_not_shown():
    assert "s3cret" not in repr(smtp_at("smtp://u:s3cret@h"))


def test_without_a_server_or_a_sender_the_error_says_what_to_set():
    for values in ({}, {"CHURN_SMTP_URL": "smtp://h"}, {"CHURN_EMAIL_FROM": "care@bank.example"}):
        with pytest.raises(SettingsError, match="until CHURN_SMTP_URL and CHURN_EMAIL_FROM are set"):
            smtp_of(load_settings(**values))
    with pytest.raises(SettingsError, match="CHURN_EMAIL_FROM must be"):
        smtp_at("smtp://h", "the bank")


def test_a_long_address_is_written_as_it_is_and_lines_of_text_stay_short():
    address = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.example"
    smtp = smtp_at("smtp://h", f"care@{'b' * 60}.example")

    sent = message(smtp, "28e39860-edd0-5e83-919d-6090843d235c", address, "ü" * 300, NOW)

    assert is_address(address)
    assert f"To: {address}\r\n".encode() in sent
    assert f"Message-ID: <28e39860-edd0-5e83-919d-6090843d235c@{'b' * 60}.example>\r\n".encode() in sent
    assert sent.isascii()
    assert max(len(line) for line in sent.partition(b"\r\n\r\n")[2].splitlines()) <= 76
    assert message_from_bytes(sent, policy=policy.default).get_content().strip() == "ü" * 300
