//! Fuzzes tokens of issuers, and sets of keys: a second implementation checks what is let in.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::Value;

use crate::clock::Clock;
use crate::config::Config;
use crate::identity::{Identities, KeySet, Rules};
use crate::keys::Credential;
use crate::keys::id_secret::IdSecret;

/// The instant at which tokens are judged.
const NOW: i64 = 1_800_000_000;

/// Presents the bytes as a token; as the header and the claims, with a line end between them, of a token that the
/// issuer has signed; and as a change of such a token.
pub fn jwt(bytes: &[u8]) {
    let stage = stage();
    assert!(!stage.accepts(bytes), "nobody has signed this");
    let (header, claims) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&br#"{"alg":"ES256","kid":"one"}"#[..], bytes),
    };
    let token = stage.signed(header, claims);
    if stage.accepts(token.as_bytes()) {
        check(header, claims);
    }
    if let (Some((&at, rest)), good) = (bytes.split_first(), &stage.good) {
        let mut near = good.clone().into_bytes();
        let start = usize::from(at) * near.len() / 256;
        near.iter_mut().skip(start).zip(rest).for_each(|(byte, new)| *byte = *new);
        // Anybody can make a second signature of a signature, so only what is signed has to be the same.
        let is_same = near.rsplit(|byte| *byte == b'.').nth(1).is_some()
            && near
                .iter()
                .rposition(|byte| *byte == b'.')
                .is_some_and(|dot| near[..dot] == good.as_bytes()[..dot]);
        assert!(!stage.accepts(&near) || is_same, "a changed token is let in");
    }
}

/// Parses the bytes as a set of keys.
pub fn jwks(bytes: &[u8]) {
    let Ok(set) = KeySet::parse(bytes) else { return };
    let document: Value = serde_json::from_slice(bytes).unwrap();
    let listed = document["keys"].as_array().unwrap();
    assert_eq!(listed.len(), set.len() + set.unusable.len());
    let is_public = |key: &&Value| matches!(key["kty"].as_str(), Some("RSA" | "EC" | "OKP"));
    assert!(set.len() <= listed.iter().filter(is_public).count());
    assert!(set.is_same(&KeySet::parse(document.to_string().as_bytes()).unwrap()));
}

/// Checks a token that was let in, by other parsers.
fn check(header: &[u8], claims: &[u8]) {
    let (header, claims): (Value, Value) =
        (serde_json::from_slice(header).unwrap(), serde_json::from_slice(claims).unwrap());
    assert_eq!(header["alg"], "ES256");
    for name in ["crit", "jku", "jwk", "x5u", "x5c", "enc", "cty"] {
        assert!(header.get(name).is_none(), "{name}");
    }
    assert_eq!(claims["iss"], "https://a.example");
    assert!(claims["aud"] == "model" || claims["aud"].as_array().unwrap().contains(&"model".into()));
    assert!(claims["sub"].as_str().unwrap().starts_with("evals:"));
    let seconds = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap());
    assert!(seconds("exp").unwrap() > (NOW - 31) as f64);
    for name in ["nbf", "iat"] {
        assert!(seconds(name).is_none_or(|at| at < (NOW + 31) as f64), "{name}");
    }
}

/// An issuer with one key, and bearward's rules for it.
struct Stage {
    identities: Identities,
    rules: Rules,
    key: EcdsaKeyPair,
    good: String,
}

impl Stage {
    fn accepts(&self, token: &[u8]) -> bool {
        let (token, now) = (Credential::new(token), Timestamp::from_second(NOW).unwrap());
        self.identities.verify((&token, &token.hash()), &self.rules, now).is_ok()
    }

    fn signed(&self, header: &[u8], claims: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jwks.json");
        let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"one","x":"{x}","y":"{y}"}}]}}"#);
        std::fs::write(&file, set).unwrap();
        let source = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\n\
             keys: {{path: k.yaml}}\nauth: {{jwt: [{{issuer: 'https://a.example', audience: model, jwks: {{file: {}}}, \
             identities: [{{when: {{sub: 'evals:*'}}, permissions: [read]}}]}}]}}\n",
            file.display()
        );
        let config = Config::parse("b.yaml".as_ref(), &source, &|_| None).unwrap();
        let identities = Identities::new(Clock::system());
        let rules = identities.compile(&config.auth, &Arc::new(IdSecret::random())).unwrap();
        let mut stage = Stage { identities, rules, key, good: String::new() };
        let claims = format!(r#"{{"iss":"https://a.example","aud":"model","sub":"evals:a","exp":{}}}"#, NOW + 60);
        stage.good = stage.signed(br#"{"alg":"ES256","kid":"one"}"#, claims.as_bytes());
        assert!(stage.accepts(stage.good.as_bytes()));
        stage
    })
}
