"""Signatures are those of Standard Webhooks 1.0."""

import base64
from datetime import UTC, datetime

from app.webhooks import signing
from tests.webhooks.receiver import Message, verified

# The example that the specification's own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
MOMENT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))


def test_the_known_example_is_signed_so() -> None:
    assert signing.headers(MESSAGE_ID, MOMENT, BODY, [KEY]) == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_a_secret_is_spelled_as_libraries_take_it() -> None:
    assert signing.spell(KEY) == SECRET
    assert len(base64.b64decode(signing.spell(bytes(signing.SECRET_BYTES)).removeprefix("whsec_"))) == 32


def test_every_secret_in_force_signs_and_each_verifies_alone() -> None:
    keys = [bytes([number]) * 32 for number in (1, 2, 3)]
    headers = signing.headers(MESSAGE_ID, MOMENT, BODY, keys)
    assert headers["webhook-signature"].count("v1,") == 3
    message = Message("/", headers, BODY)
    assert all(verified(message, signing.spell(key)) for key in keys)
    assert not verified(message, signing.spell(bytes(32)))


def test_a_changed_body_id_or_time_does_not_verify() -> None:
    headers = dict(signing.headers(MESSAGE_ID, MOMENT, BODY, [KEY]))
    assert verified(Message("/", headers, BODY), SECRET, now=1614265330)
    assert not verified(Message("/", headers, BODY + b" "), SECRET)
    assert not verified(Message("/", headers | {"webhook-id": "msg_x"}, BODY), SECRET)
    assert not verified(Message("/", headers | {"webhook-timestamp": "1614265331"}, BODY), SECRET)
    assert not verified(Message("/", headers, BODY), SECRET, now=1614265330 + 301)
