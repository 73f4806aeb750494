"""gRPC end to end: a stock grpcio client over TLS, through bearward, to a stock grpcio server."""

import queue

import grpc
import pytest
import trustme
from gateway import Gateway
from grpc_service import SERVICE, Echo, serve

MESSAGES = 1000
KEYS = {
    "caller": ["--permissions", "write"],
    "reader": ["--permissions", "read"],
    "limited": ["--permissions", "write", "--rate", "1/1h/1"],
}
ROUTES = "routes: [{name: grpc, paths: [/bearward.test.Echo/*], methods: [POST], permission: write}]\n"


@pytest.fixture(scope="module", params=["h2c", "https"])
def service(request):
    """Gateway and service, connected by plain HTTP/2 or by TLS with a client certificate."""
    echo, authority = Echo(), trustme.CA()
    if request.param == "https":
        pair = authority.issue_cert("model.internal")
        trusted = authority.cert_pem.bytes()
        chain = [(pair.private_key_pem.bytes(), pair.cert_chain_pems[0].bytes())]
        server, port = serve(echo, grpc.ssl_server_credentials(chain, trusted, require_client_auth=True))
    else:
        server, port = serve(echo)
    with authority.cert_pem.tempfile() as ca, authority.issue_cert("bearward").private_key_and_cert_chain_pem.tempfile() as own:
        fields = f", tls: {{ca: {ca}, server_name: model.internal, client_certificate: {own}, client_key: {own}}}"
        fields = fields if request.param == "https" else ""
        with Gateway(f"{request.param}://127.0.0.1:{port}", KEYS, tls=True, config=ROUTES, fields=fields) as gateway:
            yield gateway, echo
    server.stop(0)


@pytest.fixture
def channel(service):
    gateway, _ = service
    with open(gateway.ca, "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    with grpc.secure_channel(f"localhost:{gateway.port}", credentials) as channel:
        yield channel


@pytest.fixture
def call(service, channel):
    """Method of the service, called with a key: call("unary_unary", "Unary", key="caller")."""

    def method(kind, name, key="caller"):
        stub = getattr(channel, kind)(f"/{SERVICE}/{name}")
        metadata = [("authorization", f"Bearer {service[0].tokens.get(key, key)}")] if key else []
        return lambda request, variant=None, **options: (getattr(stub, variant) if variant else stub)(
            request, metadata=metadata, **options
        )

    return method


def test_a_thousand_unary_calls(call, service):
    unary = call("unary_unary", "Unary")
    assert all(unary(b"%d" % number) == b"%d" % number for number in range(MESSAGES))
    metadata = service[1].metadata
    assert "authorization" not in metadata and metadata["x-bearward-key-name"] == "caller"


def test_a_thousand_messages_per_direction(call):
    numbers = [b"%d" % number for number in range(MESSAGES)]
    assert list(call("unary_stream", "ServerStream")(b"%d" % MESSAGES)) == numbers
    assert call("stream_unary", "ClientStream")(iter(numbers)) == b"%d" % sum(range(MESSAGES))
    assert list(call("stream_stream", "Both")(iter(numbers))) == numbers


def test_bidirectional_messages_one_by_one(call):
    """Each message waits for the answer to the previous one, so nothing may buffer a message."""
    asked = queue.SimpleQueue()
    answers = call("stream_stream", "Both")(iter(asked.get, None))
    for number in range(MESSAGES):
        asked.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    asked.put(None)
    assert list(answers) == []


def test_trailing_metadata_passes(call):
    _, answered = call("unary_unary", "Unary")(b"x", variant="with_call")
    trailing = dict(answered.trailing_metadata())
    assert (trailing["x-cost"], trailing["total_tokens"]) == ("7", "9")


def test_upstreams_own_status_passes(call):
    with pytest.raises(grpc.RpcError) as caught:
        call("unary_unary", "Fails")(b"")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: 100%")


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, "UNAUTHENTICATED", "MISSING_API_KEY"),
        ("nobody", "UNAUTHENTICATED", "INVALID_API_KEY"),
        ("reader", "PERMISSION_DENIED", "INSUFFICIENT_PERMISSIONS"),
    ],
)
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_refusals_are_statuses(call, kind, key, status, code):
    with pytest.raises(grpc.RpcError) as caught:
        if kind == "unary_unary":
            call(kind, "Unary", key)(b"x")
        else:
            list(call(kind, "Both", key)(iter([b"x"] * 50)))
    assert caught.value.code() == grpc.StatusCode[status]
    assert caught.value.details().startswith(code)


def test_a_limit_is_resource_exhausted(call):
    unary = call("unary_unary", "Unary", "limited")
    unary(b"x")
    with pytest.raises(grpc.RpcError) as caught:
        unary(b"x")
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_is_forwarded_and_cancels_upstream(call, service):
    echo = service[1]
    echo.cancelled.clear()
    with pytest.raises(grpc.RpcError) as caught:
        call("unary_unary", "Slow")(b"", timeout=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < echo.seconds_left <= 1
    assert echo.cancelled.wait(5)


def test_a_caller_that_gives_up_cancels_upstream(call, service):
    echo = service[1]
    echo.begun.clear()
    echo.cancelled.clear()
    asked = call("unary_unary", "Slow")(b"", variant="future")
    assert echo.begun.wait(5) and not asked.done()
    asked.cancel()
    assert echo.cancelled.wait(5)
