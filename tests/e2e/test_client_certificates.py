"""Client certificates as identities: names, ends, revocations, and keys beside them."""

import contextlib
import datetime
import http.client
import json
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import Gateway, wait_for
from issuer import Issuer
from scripted import Scripted
from test_jwt import ROUTES, echo

NOW = datetime.datetime.now(datetime.timezone.utc)
SPIFFE = "spiffe://cluster/ns/evals/sa/runner"


class Authority:
    """A certificate authority that signs client certificates and lists of revoked ones."""

    def __init__(self, directory):
        self.directory, self.key, self.revoked, self.serial = directory, ec.generate_private_key(ec.SECP256R1()), [], 0
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clients")])
        builder = self.builder(name, self.key, NOW + datetime.timedelta(days=30))
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.issuer_name(name).add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage, True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        (directory / "clients.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def builder(self, name, key, ends):
        builder = x509.CertificateBuilder().subject_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(NOW - datetime.timedelta(days=60)).not_valid_after(ends)

    def issue(self, names, *others, ends=None):
        """A client certificate with its key in one file. `names`: pairs of the subject; `others`: its other names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in names])
        builder = self.builder(subject, key, ends or NOW + datetime.timedelta(days=1)).issuer_name(self.certificate.subject)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(others)), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        self.serial += 1
        file = self.directory / f"client-{self.serial}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return certificate, file

    def list_revoked(self, *certificates, ends=None):
        """Writes the list of revoked certificates."""
        ends = ends or NOW + datetime.timedelta(days=1)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(NOW - datetime.timedelta(days=2)).next_update(ends)
        builder = builder.add_extension(x509.CRLNumber(1), False)
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(NOW)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self.key, hashes.SHA256())
        (self.directory / "revoked.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


class Connection:
    """A connection with a client certificate, which stays open."""

    def __init__(self, gateway, file):
        context = ssl.create_default_context(cafile=gateway.ca)
        context.load_cert_chain(file)
        self.connection = http.client.HTTPSConnection("localhost", gateway.port, context=context, timeout=20)

    def get(self, **headers):
        """Status and body of a request."""
        self.connection.request("GET", "/v1/models", headers=headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def once(gateway, file, **headers):
    """Status and body of a request on a connection of its own; `None` if the handshake fails."""
    try:
        connection = Connection(gateway, file)
        answer = connection.get(**headers)
        connection.connection.close()
        return answer
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        return None, {}


def heads(body):
    """The identity headers that the model server got."""
    lines = body["head"].lower().split("\r\n")
    return dict(line.split(": ", 1) for line in lines if line.startswith("x-bearward-key"))


@contextlib.contextmanager
def served(authority, identities, more="", crl=False):
    """bearward with a listener that asks for client certificates."""
    with Scripted(echo) as model:
        config = f"{ROUTES}auth: {{certificates: {identities}}}\n{more}"
        fields = f", client_ca: {authority.directory / 'clients.pem'}"
        fields += f", client_crl: {authority.directory / 'revoked.pem'}" if crl else ""
        keys = {"reader": ["--permissions", "read"]}
        with Gateway(model.port, keys, tls=True, tls_fields=fields, config=config, admin=True) as gateway:
            yield gateway


IDENTITIES = """[
  {when: {uri: "spiffe://cluster/ns/evals/*"}, permissions: [read], rate_limits: [{requests: 3, per: 1h, burst: 3}]},
  {when: {dns: "*.Workers.example", email: "ops@example.com"}, permissions: [read]},
  {when: {subject: "CN=runner,O=Evals*"}, permissions: [write]}]"""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def test_the_names_of_a_certificate_identify_its_holder(authority):
    common, organisation = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME
    by_uri = authority.issue([(common, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    renewed = authority.issue([(common, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    dns = [x509.DNSName("a.example"), x509.DNSName("One.WORKERS.example"), x509.RFC822Name("ops@example.com")]
    by_names, half = authority.issue([(common, "y")], *dns)[1], authority.issue([(common, "y")], *dns[:2])[1]
    by_subject = authority.issue([(organisation, "Evals Ltd"), (common, "runner")])[1]
    forged = authority.issue([(organisation, "Other"), (common, "runner,O=Evals Ltd")])[1]
    other = authority.issue([(common, "z")], x509.UniformResourceIdentifier("spiffe://cluster/ns/other/sa/x"))[1]
    nameless = authority.issue([], x509.DNSName("b.example"))[1]
    with served(authority, IDENTITIES) as gateway:
        status, body = once(gateway, by_uri)
        identity = heads(body)
        assert status == 200 and identity["x-bearward-key-id"].startswith("crt_") and len(identity["x-bearward-key-id"]) == 14
        assert identity["x-bearward-key-name"] == SPIFFE
        # A renewed certificate with the same names is the same holder, with the same limits.
        status, body = once(gateway, renewed)
        assert status == 200 and heads(body) == identity
        assert [once(gateway, file)[0] for file in (by_uri, renewed)] == [200, 429]
        assert once(gateway, by_names)[0] == 200 and once(gateway, half)[0] == 401
        status, body = once(gateway, by_subject)
        assert (status, body["error"]["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
        for file in (forged, other, nameless):
            status, body = once(gateway, file)
            assert (status, body["error"]["code"]) == (401, "INVALID_API_KEY")
            assert body["error"]["details"]["key_id"].startswith("crt_")
        # With a key on the request, the key counts, whatever the certificate says.
        status, body = once(gateway, other, Authorization=f"Bearer {gateway.tokens['reader']}")
        assert status == 200 and heads(body)["x-bearward-key-name"] == "reader"
        status, body = once(gateway, by_names, Authorization="Bearer sk-wrong")
        assert status == 401 and body["error"]["details"]["key_id"].startswith("key_")
        status, body = once(gateway, by_names, Authorization=f"Bearer {gateway.tokens['reader']}")
        assert heads(body)["x-bearward-key-name"] == "reader"
        shown = gateway.admin_status()["identities"]
        assert shown["holders"] == 3 and shown["issuers"] == []


def test_a_handshake_without_an_accepted_certificate_fails(authority, tmp_path):
    ended = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE), ends=NOW - datetime.timedelta(hours=1))[1]
    other = tmp_path / "other"
    other.mkdir()
    stranger = Authority(other).issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    with served(authority, IDENTITIES) as gateway:
        assert once(gateway, ended)[0] is None and once(gateway, stranger)[0] is None


def test_revocations_are_reloaded_and_hold_for_open_connections_too(authority):
    one, file = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))
    another = authority.issue([(NameOID.COMMON_NAME, "y")], x509.UniformResourceIdentifier(SPIFFE + "2"))[1]
    authority.list_revoked()
    with served(authority, '[{when: {uri: "spiffe://*"}, permissions: [read]}]', crl=True) as gateway:
        open_one, open_other = Connection(gateway, file), Connection(gateway, another)
        assert [open_one.get()[0], open_other.get()[0]] == [200, 200]
        authority.list_revoked(one)
        assert gateway.reload()["data"]["certificates"] == "applied"
        status, body = open_one.get()
        assert (status, body["error"]["code"]) == (401, "INVALID_API_KEY")
        assert open_other.get()[0] == 200
        assert once(gateway, file)[0] is None and once(gateway, another)[0] == 200
        # A file without a list, or one that is cut, is refused, and the last one holds.
        for text in ("", (authority.directory / "revoked.pem").read_text()[:200]):
            (authority.directory / "revoked.pem").write_text(text)
            assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
            assert once(gateway, file)[0] is None and once(gateway, another)[0] == 200
        # A list past its end says nothing of what was revoked since.
        authority.list_revoked(one, ends=NOW - datetime.timedelta(hours=1))
        assert gateway.reload()["data"]["certificates"] == "applied"
        assert once(gateway, another)[0] is None and open_other.get()[0] == 401


BROKEN = {
    "certificate": lambda gateway, authority: gateway.path / "tls.crt",
    "private key": lambda gateway, authority: gateway.path / "tls.key",
    "authorities": lambda gateway, authority: authority.directory / "clients.pem",
}


@pytest.mark.parametrize("kind", ["garbage", "directory"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_revocation_holds_although_another_file_of_the_listener_is_broken(authority, broken, kind):
    one, file = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))
    another = authority.issue([(NameOID.COMMON_NAME, "y")], x509.UniformResourceIdentifier(SPIFFE + "2"))[1]
    authority.list_revoked()
    with served(authority, '[{when: {uri: "spiffe://*"}, permissions: [read]}]', crl=True) as gateway:
        open_one = Connection(gateway, file)
        assert open_one.get()[0] == 200
        path = BROKEN[broken](gateway, authority)
        text = path.read_bytes()
        path.unlink()
        path.mkdir() if kind == "directory" else path.write_text("garbage")
        authority.list_revoked(one)
        refused = gateway.reload()["error"]
        assert refused["code"] == "RELOAD_REFUSED" and str(path) in json.dumps(refused)
        assert open_one.get()[0] == 401 and once(gateway, file)[0] is None
        assert once(gateway, another)[0] == 200
        # The file at fault is looked at again.
        assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
        path.rmdir() if kind == "directory" else path.unlink()
        path.write_bytes(text)
        assert gateway.reload()["data"]["certificates"] == "applied"
        assert once(gateway, file)[0] is None and once(gateway, another)[0] == 200


@pytest.mark.parametrize("lists", ["no list", "not DER", "empty"])
def test_an_authority_is_removed_although_the_lists_of_revocations_are_broken(authority, tmp_path, lists):
    file = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    authority.list_revoked()
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    with served(authority, '[{when: {uri: "spiffe://*"}, permissions: [read]}]', crl=True) as gateway:
        open_one = Connection(gateway, file)
        assert open_one.get()[0] == 200
        not_der = "-----BEGIN X509 CRL-----\nZ2FyYmFnZQ==\n-----END X509 CRL-----\n"
        (tmp_path / "revoked.pem").write_text({"no list": "garbage", "not DER": not_der, "empty": ""}[lists])
        (tmp_path / "clients.pem").write_bytes((other.directory / "clients.pem").read_bytes())
        assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
        assert open_one.get()[0] == 401 and once(gateway, file)[0] is None


def test_pages_of_other_origins_have_no_identity_by_the_certificate_of_their_user(authority):
    file = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    identities = '[{when: {uri: "spiffe://*"}, permissions: [read]}]'
    cors = "cors: {origins: ['https://app.example'], credentials: true}\n"
    with served(authority, identities, more=cors) as gateway:
        own = f"https://localhost:{gateway.port}"
        cases = [
            ({"Origin": own}, 200),
            ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Origin": "https://app.example"}, 200),
            ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200),
            ({"Origin": "https://evil.example"}, 401),
            ({"Origin": "https://localhost"}, 401),
            ({"Origin": own.replace("https", "http")}, 401),
            ({"Origin": "null"}, 401),
            ({"Origin": ""}, 401),
            ({"Sec-Fetch-Site": "cross-site"}, 401),
            ({"Sec-Fetch-Site": "same-site"}, 401),
            ({"Sec-Fetch-Site": ""}, 401),
            ({"Origin": own, "Sec-Fetch-Site": "cross-site"}, 401),
            ({"Origin": "https://evil.example", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 401),
        ]
        for headers, wanted in cases:
            status, body = once(gateway, file, **headers)
            assert status == wanted, headers
            assert status == 200 or body["error"]["code"] == "MISSING_API_KEY"
        # A key is sent on purpose, from whichever page.
        key = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        assert once(gateway, file, **key, Origin="https://evil.example")[0] == 200


def test_a_session_is_never_resumed_past_a_revocation(authority):
    one, file = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))
    authority.list_revoked()
    with served(authority, IDENTITIES, crl=True) as gateway:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=gateway.ca)
            context.load_cert_chain(file)
            context.maximum_version = version
            session = None
            for _ in range(2):
                connection = http.client.HTTPSConnection("localhost", gateway.port, context=context, timeout=20)
                connection.connect()
                connection.request("GET", "/v1/models")
                assert connection.getresponse().status in (200, 429)
                assert not connection.sock.session_reused
                session = connection.sock.session
                connection.close()
            assert session is None or not session.has_ticket, version


def test_certificates_and_tokens_at_one_gate(authority):
    by_uri = authority.issue([(NameOID.COMMON_NAME, "x")], x509.UniformResourceIdentifier(SPIFFE))[1]
    with Issuer() as issuer:
        identities = IDENTITIES + ", " + issuer.config().removeprefix("auth: {").removesuffix("}")
        with served(authority, identities) as gateway:
            assert heads(once(gateway, by_uri)[1])["x-bearward-key-id"].startswith("crt_")
            status, body = once(gateway, by_uri, Authorization=f"Bearer {issuer.token()}")
            assert status == 200 and heads(body)["x-bearward-key-id"].startswith("jwt_")
            assert once(gateway, by_uri, Authorization=f"Bearer {issuer.token(aud='billing')}")[0] == 401
            wait_for("both are shown", lambda: gateway.admin_status()["identities"]["holders"] == 2)
