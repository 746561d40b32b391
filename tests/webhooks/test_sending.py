"""One attempt: to the address that was checked, within bounds of time and size, whatever the receiver does."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.webhooks import sending, targets
from app.webhooks.model import Outcome
from app.webhooks.sending import Pinned, Resolver, Sender
from tests.webhooks.receiver import Message, Receiver, Reply, receiving

NAME = "hooks.example.test"


@dataclass
class Names(Resolver):
    """A name server that says what it is told to, another thing each time it is asked."""

    answers: list[Sequence[str]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None:
        pass


async def post(sender: Sender, url: str, body: bytes = b"{}", **headers: str) -> Outcome:
    client = sender.client()
    try:
        return await sender.post(client, url, headers, body)
    finally:
        await client.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A certificate of NAME, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(pem))
    return file


def serving(certificate: Path, seen: list[str | None]) -> ssl.SSLContext:
    """The receiver's side; `seen` gets the name that each client asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)  # type: ignore[assignment]
    return context


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for an address of the Internet; every other rule stays."""
    real = targets.is_public
    monkeypatch.setattr(targets, "is_public", lambda text: text == "127.0.0.1" or real(text))


@pytest.mark.usefixtures("loopback_is_public")
async def test_the_checked_address_is_connected_to_under_the_name_of_the_url(certificate: Path) -> None:
    """A name that leads elsewhere when it is asked again gains nothing: it is asked once, and never by the socket."""
    seen: list[str | None] = []
    async with receiving(tls=serving(certificate, seen)) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        names = Names(answers=[["127.0.0.1"], ["169.254.169.254"]])
        sender = Sender(names, private=False, trust=trusting(certificate))
        outcome = await post(sender, f"https://{NAME}:{port}/hook")
        assert outcome == Outcome(status=204)
        assert names.asked == [(NAME, port)]
        assert seen == [NAME]
        assert receiver.messages[0].headers["host"] == f"{NAME}:{port}"
        # And the next time it is checked anew.
        again = await post(sender, f"https://{NAME}:{port}/hook")
        assert again.error == "the name leads to an address that nothing is sent to"
        assert receiver.connections == 1


@pytest.mark.usefixtures("loopback_is_public")
async def test_the_certificate_must_be_that_of_the_name(certificate: Path) -> None:
    async with receiving(tls=serving(certificate, [])) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        sender = Sender(Names(answers=[["127.0.0.1"]]), private=False, trust=trusting(certificate))
        outcome = await post(sender, f"https://another.example.test:{port}/hook")
        assert outcome.status is None
        assert "certificate" in (outcome.error or "").lower()
        unknown = Sender(Names(answers=[["127.0.0.1"]]), private=False)
        assert "certificate" in ((await post(unknown, f"https://{NAME}:{port}/hook")).error or "").lower()
        assert not receiver.messages


LEADS_INSIDE = [
    ["127.0.0.1"],
    ["10.1.2.3"],
    ["169.254.169.254"],
    ["::1"],
    ["::ffff:169.254.169.254"],
    ["fd00:ec2::254"],
    ["93.184.216.34", "10.0.0.1"],
    ["10.0.0.1", "93.184.216.34"],
    ["224.0.0.1"],
    ["not an address"],
]


@pytest.mark.parametrize("addresses", LEADS_INSIDE, ids=" ".join)
async def test_a_name_that_leads_inside_is_never_connected_to(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"connected to {request.url}")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", connect)
    outcome = await post(Sender(Names(answers=[addresses]), private=False), "https://example.test/hook")
    assert outcome == Outcome(error="the name leads to an address that nothing is sent to")


@pytest.mark.parametrize(
    "url",
    ["http://example.test/", "https://example.test:22/", "https://127.0.0.1/", "https://[::1]/", "https://2130706433/",
     "https://127.1/", "https://0x7f000001/", "https://017700000001/"],
)  # fmt: skip
async def test_what_got_past_the_first_check_is_refused_when_it_is_sent(url: str) -> None:
    """The real resolver takes numbers for addresses; their answers are checked like any."""
    resolver = Resolver()
    outcome = await post(Sender(resolver, private=False), url)
    resolver.close()
    assert outcome.status is None
    assert "ConnectError" not in (outcome.error or "")


async def test_a_second_address_is_tried_when_the_first_does_not_answer(unused_tcp_port: int) -> None:
    async with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        sender = Sender(Names(answers=[["127.0.0.2", "127.0.0.1"]]), private=True)
        assert (await post(sender, f"http://example.test:{port}/")).status == 204


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    async def elsewhere(_message: Message) -> Reply:
        return Reply(302, {"location": receiver.url + "/other"})

    receiver.answer = elsewhere
    assert (await post(Sender(Resolver(), private=True), receiver.url)).status == 302
    assert [message.path for message in receiver.messages] == ["/hook"]


async def test_of_a_long_answer_the_beginning_is_kept(receiver: Receiver) -> None:
    async def much(_message: Message) -> Reply:
        return Reply(500, {}, b"\x00\xff" + b"x" * 5_000_000)

    receiver.answer = much
    outcome = await post(Sender(Resolver(), private=True), receiver.url)
    assert outcome.status == 500
    assert outcome.response == "\ufffd" + "x" * 498


async def test_an_answer_that_never_ends_is_not_waited_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "BODY_SECONDS", 0.2)

    async def drip(_message: Message) -> Reply:
        return Reply(200, {"content-length": "9"}, b"ok")

    receiver.answer = drip
    # The header that comes first says 2, the second 9: a receiver that contradicts itself.
    outcome = await post(Sender(Resolver(), private=True), receiver.url)
    assert outcome.status in (200, None)


async def test_a_receiver_that_says_nothing_is_given_up(receiver: Receiver) -> None:
    async def silent(_message: Message) -> Reply:
        await asyncio.sleep(60)
        return Reply()

    receiver.answer = silent
    outcome = await post(Sender(Resolver(), private=True, timeout=0.3), receiver.url)
    assert outcome == Outcome(error="there was no answer within 0.3 seconds")


async def test_nobody_listening_is_an_outcome_not_an_error(unused_tcp_port: int) -> None:
    outcome = await post(Sender(Resolver(), private=True), f"http://127.0.0.1:{unused_tcp_port}/")
    assert outcome.status is None
    assert (outcome.error or "").startswith("ConnectError")


async def test_a_name_that_is_not_known_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def unknown(*_arguments: object, **_more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    resolver = Resolver()
    outcome = await post(Sender(resolver, private=True), "http://nowhere.test/")
    resolver.close()
    assert outcome == Outcome(error="the name cannot be resolved: Name or service not known")


async def test_cookies_proxies_and_encodings_are_left_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1/")

    async def sticky(_message: Message) -> Reply:
        return Reply(204, {"set-cookie": "a=b; Path=/"})

    receiver.answer = sticky
    sender = Sender(Resolver(), private=True)
    client = sender.client()
    for _ in range(2):
        assert (await sender.post(client, receiver.url, {"webhook-id": "x"}, b"{}")).status == 204
    await client.aclose()
    assert receiver.connections == 1, "a connection is used again while its client is open"
    headers = receiver.messages[1].headers
    assert "cookie" not in headers
    assert headers["accept-encoding"] == "identity"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("said", "heard"),
    [("120", timedelta(minutes=2)), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("9" * 30, None)],
)
async def test_retry_after_is_heard_in_seconds(
    receiver: Receiver, said: str, heard: timedelta | None
) -> None:
    async def later(_message: Message) -> Reply:
        return Reply(503, {"retry-after": said})

    receiver.answer = later
    assert (await post(Sender(Resolver(), private=True), receiver.url)).retry_after == heard


async def test_the_transport_refuses_by_itself(certificate: Path) -> None:
    """Also where somebody else makes the client: the guard is in the transport."""
    names = Names(answers=[["127.0.0.1"]])
    async with httpx.AsyncClient(transport=Pinned(names, trusting(certificate), private=False)) as client:
        with pytest.raises(targets.BadTarget):
            await client.get("https://example.test/")
        with pytest.raises(targets.BadTarget):
            await client.get("http://example.test/")
