"""An issuer of tokens: its keys, its server with a set of keys (JWKS), and tokens that PyJWT signs."""

import base64
import contextlib
import http.server
import json
import ssl
import threading
import time
import uuid

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "model"


def b64(data):
    """Bytes or a JSON value in base64 for URLs, without padding."""
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A private key with its id. `kind`: the algorithm for which it is made."""

    def __init__(self, kid, kind="ES256", bits=2048):
        self.kid, self.kind = kid, kind
        self.private = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }.get(kind, lambda: rsa.generate_private_key(65537, bits))()

    def jwk(self, **more):
        """The public key as a member of a set."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            number = lambda value: b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
            fields = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        elif isinstance(public, ed25519.Ed25519PublicKey):
            fields = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}
        else:
            size = (public.curve.key_size + 7) // 8
            numbers = public.public_numbers()
            fields = {"kty": "EC", "crv": f"P-{public.curve.key_size}"}
            fields |= {"x": b64(numbers.x.to_bytes(size, "big")), "y": b64(numbers.y.to_bytes(size, "big"))}
        return {"kid": self.kid, "use": "sig", **fields, **more}

    def pem(self):
        """The public key in PEM."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, header, payload):
        """A token of these very parts, which may be anything: text or bytes are taken as they are."""
        parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
        signed = ".".join(b64(part) for part in parts)
        algorithm = jwt.get_algorithm_by_name(self.kind)
        return f"{signed}.{b64(algorithm.sign(signed.encode(), self.private))}"


class Issuer:
    """An issuer with a server on loopback. `answer` may be replaced by a function that is given the handler."""

    def __init__(self, *keys, tls=False):
        self.keys = list(keys) or [Key("one")]
        self.authority, self.requests, self.answer, self.open, self.most = trustme.CA(), [], None, 0, 0
        issuer, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with lock:
                    issuer.requests.append((self.path, dict(self.headers)))
                    issuer.open += 1
                    issuer.most = max(issuer.most, issuer.open)
                try:
                    with contextlib.suppress(OSError):
                        (issuer.answer or issuer.serve)(self)
                finally:
                    with lock:
                        issuer.open -= 1

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.jwks = f"{self.url}/keys"

    def document(self):
        """The set of keys."""
        return json.dumps({"keys": [key.jwk() for key in self.keys]}).encode()

    def serve(self, handler):
        """Answers as an issuer does: its configuration, and its keys with an ETag."""
        if handler.path == "/.well-known/openid-configuration":
            return send(handler, json.dumps({"issuer": self.url, "jwks_uri": self.jwks}).encode())
        body = self.document()
        tag = f'"{hash(body)}"'
        if handler.headers.get("if-none-match") == tag:
            return send(handler, b"", 304)
        send(handler, body, 200, {"etag": tag})

    def fetched(self):
        """How often the keys were asked for."""
        return sum(path == "/keys" for path, _ in self.requests)

    def claims(self, subject="system:serviceaccount:evals:runner", **more):
        """Claims of a token that ends in five minutes. A claim that is None is left out."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 300, "jti": str(uuid.uuid4())}
        return {name: value for name, value in (claims | more).items() if value is not None}

    def token(self, subject="system:serviceaccount:evals:runner", key=None, headers=None, **more):
        """A token that PyJWT signs."""
        key = key or self.keys[0]
        claims = self.claims(subject, **more)
        return jwt.encode(claims, key.private, algorithm=key.kind, headers={"kid": key.kid, **(headers or {})})

    def config(self, identities='[{when: {sub: "system:serviceaccount:evals:*"}, permissions: [read]}]', **more):
        """The section `auth` of a configuration that trusts this issuer. `more`: fields of the issuer."""
        fields = {"issuer": self.url, "audience": AUDIENCE, "jwks": self.jwks, **more, "identities": identities}
        return "auth: {jwt: [{" + ", ".join(f"{name}: {value}" for name, value in fields.items() if value is not None) + "}]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def send(handler, body, status=200, headers=None):
    """Answers a request of a handler."""
    handler.send_response(status)
    for name, value in {"content-length": len(body), "content-type": "application/json", **(headers or {})}.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(body)
