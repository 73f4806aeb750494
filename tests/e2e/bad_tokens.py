"""Tokens that identify nobody, each with its name, the code of the answer and the reason in the audit log.

RFC 8725 (best practices for tokens) is the source of many of them.
"""

import base64
import hashlib
import hmac
import json

from issuer import Key, b64

INVALID, EXPIRED = "INVALID_API_KEY", "EXPIRED_API_KEY"


def symmetric(token_parts, secret):
    """A token that is signed with HMAC."""
    signed = ".".join(b64(part) for part in token_parts)
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def bad_tokens(issuer, rsa, weak):
    """The list. `issuer` has the keys "one" (ES256) and `rsa` (RS256), and lists the weak RSA key `weak` too."""
    good, stranger = issuer.keys[0], Key("one")
    claims, header = issuer.claims(), {"alg": "ES256", "kid": "one", "typ": "JWT"}
    parts = issuer.token().split(".")
    cases = []

    def bad(name, token, reason, code=INVALID):
        cases.append((name, token, code, reason))

    def by_header(name, reason, raw=None, **more):
        bad(name, good.sign(raw or {**header, **more}, claims), reason)

    def by_claims(name, reason, raw=None, code=INVALID, **more):
        bad(name, good.sign(header, raw or issuer.claims(**more)), reason, code)

    now = claims["iat"]
    # The algorithm.
    for alg in ("none", "None", "NONE", "nOnE", "", "HS256", "HS512", "ES512", "PS256", "es256", "RS1", "ES256K"):
        by_header(f"alg {alg!r} over a sound signature", "token_algorithm_not_accepted", alg=alg)
    bad("alg none without a signature", f"{b64({'alg': 'none'})}.{b64(claims)}.", "token_malformed")
    bad("a sound token without its signature", f"{parts[0]}.{parts[1]}.", "token_malformed")
    by_header("no alg", "token_algorithm_not_accepted", raw={"kid": "one", "typ": "JWT"})
    by_header("alg is a list", "token_header_malformed", alg=["ES256"])
    by_header("alg is null", "token_header_malformed", alg=None)
    bad("HS256 with the public key in PEM", symmetric([{"alg": "HS256", "kid": "rsa"}, claims], rsa.pem()), "token_algorithm_not_accepted")
    secret = base64.urlsafe_b64decode(rsa.jwk()["n"] + "==")
    bad("HS256 with the modulus", symmetric([{"alg": "HS256", "kid": "rsa"}, claims], secret), "token_algorithm_not_accepted")
    bad("ES256 by the id of an RSA key", good.sign({**header, "kid": "rsa"}, claims), "token_key_unknown")
    bad("RS256 by the id of an EC key", rsa.sign({"alg": "RS256", "kid": "one"}, claims), "token_key_unknown")
    bad("RS384 with RS256's signature", rsa.sign({"alg": "RS384", "kid": "rsa"}, claims), "token_algorithm_not_accepted")
    # The key.
    by_header("an unknown kid", "token_key_unknown", kid="two")
    by_header("a kid with a path", "token_key_unknown", kid="../../../../dev/null")
    by_header("a kid with SQL", "token_key_unknown", kid="one' OR '1'='1")
    by_header("an empty kid", "token_key_unknown", kid="")
    by_header("a kid in another case", "token_key_unknown", kid="ONE")
    by_header("a kid that is a number", "token_header_malformed", kid=1)
    by_header("a kid that is a list", "token_header_malformed", kid=["one"])
    by_header("a kid that is null", "token_header_malformed", kid=None)
    by_header("two kids", "token_header_malformed", raw=b'{"alg":"ES256","kid":"one","kid":"one"}')
    by_header("two kids, one of them escaped", "token_header_malformed", raw=b'{"alg":"ES256","kid":"two","\\u006bid":"one"}')
    by_header("two algs", "token_header_malformed", raw=b'{"alg":"none","alg":"ES256","kid":"one"}')
    bad("a stranger's key with the same kid", stranger.sign(header, claims), "token_signature_invalid")
    bad("a weak RSA key that the issuer lists", weak.sign({"alg": "RS256", "kid": "weak"}, claims), "token_key_unknown")
    for name, value in [
        ("jku", "https://attacker.example/keys"), ("jwk", stranger.jwk()), ("x5u", "https://attacker.example/cert"), ("x5c", ["MIIB"]),
    ]:
        by_header(f"{name} beside a sound signature", "token_key_in_header", **{name: value})
        bad(f"{name} of a stranger", stranger.sign({**header, name: value}, claims), "token_key_in_header")
    # The header.
    by_header("crit with an unknown extension", "token_critical_header", crit=["exp"], exp=now + 300)
    by_header("crit that is empty", "token_critical_header", crit=[])
    by_header("b64 is false", "token_nested", b64=False)
    by_header("a nested token", "token_nested", cty="JWT")
    by_header("an encrypted token", "token_nested", enc="A256GCM")
    for kind in ("logout+jwt", "dpop+jwt", "JWS", "", "JWT "):
        by_header(f"typ {kind!r}", "token_type_not_accepted", typ=kind)
    by_header("typ is a list", "token_type_not_accepted", typ=["JWT"])
    by_header("a header that is a list", "token_header_malformed", raw=b'["ES256"]')
    by_header("a header that is no JSON", "token_header_malformed", raw=b"ES256")
    by_header("a header with bytes behind it", "token_header_malformed", raw=json.dumps(header).encode() + b"{}")
    by_header("a header with a byte order mark", "token_header_malformed", raw=b"\xef\xbb\xbf" + json.dumps(header).encode())
    by_header("a header that is no UTF-8", "token_header_malformed", raw=b'{"alg":"ES256","kid":"one","x":"\xff"}')
    by_header("a deep header", "token_header_malformed", raw=b'{"alg":"ES256","kid":"one","x":' + b"[" * 400 + b"]" * 400 + b"}")
    # Times.
    by_claims("expired", "token_expired", code=EXPIRED, exp=now - 31)
    by_claims("expired long ago", "token_expired", code=EXPIRED, exp=1)
    by_claims("expired before 1970", "token_expired", code=EXPIRED, exp=-1)
    by_claims("no exp", "token_expiry_missing", exp=None)
    by_claims("exp is a text", "token_times_malformed", exp=str(now + 300))
    by_claims("exp is true", "token_times_malformed", exp=True)
    by_claims("exp is a list", "token_times_malformed", exp=[now + 300])
    by_claims("exp is null", "token_times_malformed", raw={**claims, "exp": None})
    by_claims("exp in the year 3000", "token_expiry_too_far", exp=32503680000)
    by_claims("exp in milliseconds", "token_times_malformed", exp=(now + 300) * 1000)
    by_claims("exp of 1e308", "token_times_malformed", exp=1e308)
    by_claims("exp of 2^63", "token_times_malformed", exp=2**63)
    by_claims("exp of 2^64 and more", "token_times_malformed", exp=2**64 + now + 300)
    whole = json.dumps(claims)
    by_claims("exp with a huge exponent", "token_claims_malformed", raw=whole.replace(f'"exp": {now + 300}', '"exp": 1e99999999').encode())
    by_claims("exp is not a number", "token_claims_malformed", raw=whole.replace(f'"exp": {now + 300}', '"exp": NaN').encode())
    by_claims("exp with a leading zero", "token_claims_malformed", raw=whole.replace(f'"exp": {now + 300}', f'"exp": 0{now + 300}').encode())
    by_claims("nbf in the far future", "token_not_yet_valid", nbf=now + 10**6, exp=now + 2 * 10**6)
    by_claims("nbf beyond the leeway", "token_not_yet_valid", nbf=now + 60)
    by_claims("nbf is a text", "token_times_malformed", nbf="now")
    by_claims("iat in the future", "token_issued_in_future", iat=now + 3600)
    by_claims("iat is an object", "token_times_malformed", iat={})
    # The audience.
    by_claims("no aud", "token_audience_missing", aud=None)
    by_claims("aud is null", "token_audience_missing", raw={**claims, "aud": None})
    by_claims("another aud", "token_audience_other", aud="billing")
    by_claims("aud in another case", "token_audience_other", aud="Model")
    by_claims("aud that begins like ours", "token_audience_other", aud="model-b")
    by_claims("aud as an empty list", "token_audience_other", aud=[])
    by_claims("aud as a list without ours", "token_audience_other", aud=["a", "b"])
    by_claims("aud as a list in a list", "token_audience_other", aud=[["model"]])
    by_claims("aud as a list of ours and a number", "token_audience_other", aud=["model", 7])
    by_claims("aud as an object", "token_audience_other", aud={"model": True})
    # The issuer and the subject.
    by_claims("another issuer", "token_issuer_unknown", iss="https://attacker.example")
    by_claims("the issuer with a slash", "token_issuer_unknown", iss=issuer.url + "/")
    by_claims("no iss", "token_issuer_missing", iss=None)
    by_claims("iss is a list", "token_issuer_missing", iss=[issuer.url])
    by_claims("no sub", "token_subject_missing", raw={name: value for name, value in claims.items() if name != "sub"})
    by_claims("an empty sub", "token_subject_missing", sub="")
    by_claims("sub is a number", "token_subject_missing", sub=7)
    by_claims("jti is a number", "token_id_malformed", jti=7)
    by_claims("a sub that no identity has", "no_identity_matches", sub="system:serviceaccount:other:runner")
    by_claims("a sub with a line break in front", "no_identity_matches", sub="\nsystem:serviceaccount:evals:runner")
    by_claims("a denied subject", "token_denied", sub="system:serviceaccount:evals:mallory")
    by_claims("a denied token", "token_denied", jti="the-denied-one")
    # The claims' form.
    by_claims("two subs", "token_claims_malformed", raw=(whole[:-1] + ', "sub": "system:serviceaccount:evals:admin"}').encode())
    by_claims("a repeated name deep inside", "token_claims_malformed", raw=(whole[:-1] + ', "a": [{"b": 1, "b": 2}]}').encode())
    by_claims("claims that are a text", "token_claims_malformed", raw=b'"claims"')
    by_claims("claims that are no JSON", "token_claims_malformed", raw=b"\x00\x01")
    by_claims("claims in UTF-16", "token_claims_malformed", raw=whole.encode("utf-16"))
    by_claims("a lone surrogate", "token_claims_malformed", raw=(whole[:-1] + ', "a": "\\ud800"}').encode())
    by_claims("a control character", "token_claims_malformed", raw=(whole[:-1] + ', "a": "\x01"}').encode())
    bad("a token in a token", good.sign(header, issuer.token().encode()), "token_claims_malformed")
    # Base64 and dots.
    bad("padding", f"{parts[0]}.{parts[1]}.{parts[2]}==", "token_malformed")
    bad("padding in the claims", f"{parts[0]}.{parts[1]}=.{parts[2]}", "token_claims_malformed")
    bad("the other base64", good.sign(header, {**claims, "x": "\xbf\xbf\xbf>>>???"}).replace("_", "/").replace("-", "+"), None)
    bad("a letter more in the signature", f"{parts[0]}.{parts[1]}.{parts[2]}A", "token_signature_invalid")
    flipped = parts[2][:-2] + ("A" if parts[2][-2] != "A" else "B") + parts[2][-1]
    bad("another signature", f"{parts[0]}.{parts[1]}.{flipped}", "token_signature_invalid")
    bad("zeros as signature", f"{parts[0]}.{parts[1]}.{b64(bytes(64))}", "token_signature_invalid")
    bad("a short signature", f"{parts[0]}.{parts[1]}.{b64(bytes(8))}", "token_signature_invalid")
    bad("claims of another token", f"{parts[0]}.{b64(issuer.claims(sub='system:serviceaccount:evals:admin'))}.{parts[2]}", "token_signature_invalid")
    bad("three empty parts", "..", None)
    bad("empty claims", f"{parts[0]}..{parts[2]}", "token_claims_malformed")
    bad("an empty header", f".{parts[1]}.{parts[2]}", "token_header_malformed")
    # Other sizes and numbers of parts.
    bad("more than 8 KiB", good.sign(header, {**claims, "x": "x" * 9000}), None)
    bad("four dots, as encrypted tokens have", f"{parts[0]}.{parts[1]}.{parts[2]}.x.x", "unknown")
    bad("one dot", f"{parts[0]}.{parts[1]}", "unknown")
    return cases
