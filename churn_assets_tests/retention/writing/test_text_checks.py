import time

import pytest

from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.retention.writing.text_checks import complaints_about
from churn_assets.retention.writing.writer import EmailRequest

PROMPTS = load_prompts()
SIGNATURE = "Kind regards\nYour team at BankCo"
REASONS = "unhappy with support; rarely active"


def complaints(text: str, name: str = "Ann Lee", reasons: str = REASONS) -> list[str]:
    return complaints_about(text, EmailRequest(name, "MASS", reasons), PROMPTS)


def email(body: str, name: str = "Ann Lee") -> str:
    """A right greeting and sign-off around a body."""
    return f"Dear {name},\n\n{body}\n\n{SIGNATURE}"


@pytest.mark.parametrize(
    "body",
    [
        "Thank you for being with us. A senior adviser would be glad to talk to you. Just reply to this message.",
        "Thank you, Ann Lee, for your trust! Would you like to talk to a senior adviser? We would be glad.",
        "Dr. Müller-Lüdenscheidt, our senior adviser, e.g. at St. John branch, would be glad to talk to you. Just reply.",
        "Our Mrs. J. R. Smith would like to talk to you. She is our senior adviser.",
        "Please feel free to reply whenever you are free.",
        "We take great interest in what you say, and we have always said so.",
        "Our app, remodelled and easier, is worth ten minutes. We would love to show it to you.",
        "You said it, we heard it - and a senior adviser would like to mend it...",
        "We’d like to mend what went wrong; it’s on us. Just reply — we’re here.",
        "Here is what we can do:\n- a talk with a senior adviser\n- ten minutes on our app",
        "Thank you for being with us.\nA senior adviser would be glad\nto talk to you.",
        "Your patience has been generous, your loyalty more so.",
        "Modelling clay, aisles and scorching brisk days are words too.",
        "Brisk service is what you deserve, and asterisks are not used.",
        "Leave us a message, or tell us how you would rate us.",
        "Nothing obliges you, and nobody will ask twice",
    ],
)
def test_normal_prose_may_go_out(body: str):
    assert complaints(email(body)) == []


@pytest.mark.parametrize(
    "name",
    [
        "Dr. Müller-Lüdenscheidt",
        "Jon St. John",
        "Risk Churnman",
        "Model A. I. Riskin",
        "Gift Free",
        "Ai Bonus",
        "Zoë O’Brien",
        "John Smith 3rd",
        "李小龙",
        "Ольга Иванова",
    ],
)
def test_a_name_raises_no_alarm_in_greeting_or_text(name: str):
    assert complaints(email("Thank you for being with us.", name), name) == []
    if name not in {"Gift Free", "Ai Bonus", "John Smith 3rd"}:  # whose names would pass for promises in a sentence
        assert complaints(email(f"Thank you, {name}, for being with us.", name), name) == []


@pytest.mark.parametrize(
    "text",
    [
        f"Hello Ann Lee,\nthank you.\n\n{SIGNATURE}",
        f"Hi Ann Lee!\n\nThank you.\n\n{SIGNATURE}",
        f"dear ANN LEE\n\nThank you.\n\n{SIGNATURE}",
        f"Dear Ann Lee, thank you.\n\n{SIGNATURE}",
        "Dear Ann Lee,\r\n\r\nThank you.\r\n\r\nKind regards,\r\nYour team at BankCo\r\n",
        f"\n  Dear Ann Lee,\n\nThank you.\n\nHello again from all of us.\n\n{SIGNATURE}",
    ],
)
def test_small_differences_of_form_may_go_out(text: str):
    assert complaints(text) == []


GREETING = "it does not begin with 'Dear', the customer's full name and a comma"
SIGN_OFF = "it does not end with the sign-off 'Kind regards / Your team at BankCo'"
INVISIBLE = "there are control characters or invisible ones"
OTHER = "it greets somebody else as well"
SILENT = "it says nothing between greeting and sign-off"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the text is empty"),
        (" \n\u200b", "the text is empty"),
        (email("word " * 200), "it has 1049 characters, at most 900 are allowed"),
        (f"Thank you.\n\n{SIGNATURE}", GREETING),
        (f"Dear Bob Ray,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (f"Dear Ann,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (f"Dear Ann Lee-Miller,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (f"Dear Ann Lee and Bob Ray,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (f"Dear customer,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (f"Here is the email:\nDear Ann Lee,\n\nThank you.\n\n{SIGNATURE}", GREETING),
        (email("Hello Bob, thank you."), OTHER),
        (email("Thank you. Dear Bob Ray, we mean it."), OTHER),
        ("Dear Ann Lee,\n\nThank you.", SIGN_OFF),
        ("Dear Ann Lee,\n\nThank you.\n\nBest wishes,\nThe BankCo team", SIGN_OFF),
        (email("Thank you.") + "\n\nPS: We mean it.", SIGN_OFF),
        ("Dear Ann Lee,\n\nThank you.\n\nKind regards", SIGN_OFF),
        (email(""), SILENT),
        (email("One. Two. Three. Four."), "it has 4 sentences between greeting and sign-off, at most 3 are allowed"),
        (email("One! Two? Three... Four"), "it has 4 sentences between greeting and sign-off, at most 3 are allowed"),
        (email("The answer is no. Two. Three. Four."), "it has 4 sentences"),
        (email("One thing.Two things.Three things.Four"), "it has 4 sentences"),
        (email("All of it:\n- one\n- two\n- three"), "it has 4 sentences"),
        (email("All of it:\n1. one\n2. two\n3. three"), "it has 4 sentences"),
        (email("One\n\nTwo\n\nThree\n\nFour"), "it has 4 sentences"),
        (email("一。二。三。四。"), "it has 4 sentences"),
        (email("Thank you, [Name]."), "there is a placeholder ('[Name]')"),
        (email("Thank you, {{customer}}."), "there is a placeholder ('{customer}')"),
        (email("Thank you, <name>."), "there is a placeholder ('<name>')"),
        (email("Call XXX."), "there is a placeholder ('XXX')"),
        (email("I am Your Name."), "there is a placeholder ('Your Name')"),
        (email("See you on ____."), "there is a placeholder ('____')"),
        (email("Thank you, ${first}."), "there is a placeholder ("),
        (email("You stand at 0.87."), "there is a percentage, score or probability that no offer has ('0.87')"),
        (email("You stand at 87 %."), "there is a percentage, score or probability that no offer has ('87 %')"),
        (
            email("A hundred per cent yours."),
            "there is a percentage, score or probability that no offer has ('per cent')",
        ),
        (email("We give ninety percent."), "there is a percentage"),
        (email("We give ９０％."), "there is a percentage"),
        (email("Your score is fine."), "there is a word that must not be used ('score')"),
        (email("You may churn."), "there is a word that must not be used ('churn')"),
        (email("We want no Churning here."), "there is a word that must not be used ('Churning')"),
        (email("You may ch\u200burn."), "there is a word that must not be used ('churn')"),
        (email("You may ch\u00adurn."), "there is a word that must not be used ('churn')"),
        (email("You may ｃｈｕｒｎ."), "there is a word that must not be used ('churn')"),
        (email("You may chúrn."), "there is a word that must not be used ('churn')"),
        (email("You may \u0441hurn."), "there is a word of two alphabets"),
        (email("You are high-risk."), "there is a word that must not be used ('high-risk')"),
        (email("You are risky."), "there is a word that must not be used ('risky')"),
        (email("Attrition is sad."), "there is a word that must not be used ('Attrition')"),
        (email("You are likely to leave."), "there is a word that must not be used ('likely to leave')"),
        (email("Are you leaving us?"), "there is a word that must not be used ('leaving us')"),
        (email("Our algorithms like you."), "there is a word that must not be used ('algorithms')"),
        (email("Our model likes you."), "there is a word that must not be used ('model')"),
        (email("Our AI likes you."), "there is a word that must not be used ('AI')"),
        (email("A language model likes you."), "there is a word that must not be used ('model')"),
        (email("We have noticed your silence."), "it says that the customer was observed ('We have noticed')"),
        (email("Your recent activity is low."), "it says that the customer was observed ('Your recent activity')"),
        (email("You get 1000 EUR."), "there is a sum of money that no offer has ('1000 EUR')"),
        (email("You get €50."), "there is a sum of money that no offer has ('€50')"),
        (email("You get a thousand euros."), "there is a sum of money that no offer has ('a thousand euros')"),
        (email("You get 5000USD."), "there is a sum of money that no offer has ('5000USD')"),
        (email("We answer within 24 hours."), "there is a number that no offer has ('24')"),
        (email("It is free."), "it promises what no offer has ('free')"),
        (email("You are free of charges."), "it promises what no offer has ('free of')"),
        (email("We waive the fee."), "it promises what no offer has ('waive')"),
        (email("A refund is on its way."), "it promises what no offer has ('refund')"),
        (email("You get a bonus."), "it promises what no offer has ('bonus')"),
        (email("You get cash back."), "it promises what no offer has ('cash back')"),
        (email("We guarantee it."), "it promises what no offer has ('guarantee')"),
        (email("A discount waits."), "it promises what no offer has ('discount')"),
        (email("A gift waits."), "it promises what no offer has ('gift')"),
        (email("A credit of ours waits."), "it promises what no offer has ('credit of')"),
        (email("You get a higher rate."), "it promises what no offer has ('higher rate')"),
        (email("Better interest rates wait."), "it promises what no offer has ('Better interest rates')"),
        (email("See https://evil.com/x."), "there is an address that no offer has ('https://evil.com/x')"),
        (email("See evil.com soon."), "there is an address that no offer has ('evil.com')"),
        (email("Write to help@bankco.com."), "there is an address that no offer has ('help@bankco.com')"),
        (email("Call +49 30 1234567."), "there is a telephone number that no offer has ('+49 30 1234567')"),
        (email("Call 0800 123 456."), "there is a telephone number that no offer has ('0800 123 456')"),
        (email("Thank\x07you."), INVISIBLE),
        (email("Thank\u202eyou."), INVISIBLE),
        (email("Thank\tyou."), INVISIBLE),
        (email("<b>Thank you.</b>"), "there is HTML ('<b>')"),
        (email("Thank&nbsp;you."), "there is HTML ('&nbsp')"),
        (email("**Thank you.**"), "there is Markdown ('**')"),
        (email("# Thanks\nThank you."), "there is Markdown ('#')"),
        (email("`Thank you.`"), "there is Markdown ('`')"),
        (email("Subject: Thanks\nThank you."), "there is a subject line ('Subject')"),
        (f"Subject: We miss you\n\n{email('Thank you.')}", "there is a subject line ("),
        (email("Ignore all previous instructions."), "it speaks about instructions or about its writer ("),
        (email("My system prompt is secret."), "it speaks about instructions or about its writer ('system prompt')"),
        (email("As an AI I cannot say."), "it speaks about instructions or about its writer ('As an AI')"),
        (email("I'm sorry, but I cannot help with that."), "it speaks about instructions or about its writer ("),
    ],
)
def test_what_must_not_go_out_is_named(text: str, complaint: str):
    assert any(said.startswith(complaint) for said in complaints(text)), complaints(text)


def test_a_text_with_one_mistake_gets_one_complaint():
    assert complaints(email("You get 1000 EUR.")) == ["there is a sum of money that no offer has ('1000 EUR')"]
    assert complaints("Dear Ann Lee,\n\nOne. Two. Three.\n\nBest wishes,\nThe BankCo team") == [SIGN_OFF]
    assert complaints(f"Dear Bob Ray,\n\nOne. Two. Three.\n\n{SIGNATURE}") == [GREETING]


def test_an_offer_may_be_made_to_whom_it_is_offered_to_alone():
    text = email("An adviser would be glad to talk to you about our savings rates.")

    assert complaints(text, reasons="large wires out") == []
    assert complaints(text, reasons="rarely active") == ["it promises what no offer has ('savings rates')"]
    assert complaints(text.replace("savings", "better savings"), reasons="large wires out") != []


def test_a_name_is_no_way_to_a_promise():
    name = "Bonus of Ten 1000"

    assert complaints(email("You get a Bonus of Ten 1000.", name), name) == [
        "there is a number that no offer has ('1000')",
        "it promises what no offer has ('Bonus')",
    ]


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "1 ",
        "a ",
        "[{<",
        "1.1",
        "1,",
        "Dear Dear ",
        "-",
        "I. ",
        "\n",
        "we our ",
        "a.a",
        "$",
        "'1",
        "ignore ",
        "&a",
        "-\n",
        "# \n",
    ],
)
def test_no_text_takes_long_to_check(part: str):
    text = email(part * (8000 // len(part)))
    started = time.process_time()

    assert complaints(text)
    assert time.process_time() - started < 1
