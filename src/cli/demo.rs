//! `bearward demo`: starts bearward with an embedded upstream, keys and certificate, and prints
//! curl commands to try.

mod model;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::self_signed::SelfSigned;
use super::signals::stop_signal;
use super::terminal::{print, say};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::hooks::Hooks;
use crate::keys::token::Token;
use crate::net::local::Local;
use crate::shell_word::shell_word;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The address to listen at; if its port is in use, the demo uses a free port instead
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: String,
}

/// The demo's keys: each key's name, and its other fields as they are written in a key file.
const KEYS: [(&str, &str); 6] = [
    ("reader", "permissions: [read]"),
    ("writer", "permissions: [read, write]"),
    ("limited", "permissions: [read], rate_limits: [{requests: 3, per: 1m, burst: 3}]"),
    ("tokens", "permissions: [read], rate_limits: [{tokens: 60, per: 1m}]"),
    ("models", "permissions: [read], models: ['llama-*']"),
    ("expired", "permissions: [read], expires_at: 2024-01-01T00:00:00Z"),
];

impl Demo {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let directory = tempfile::Builder::new().prefix("bearward-demo-").tempdir()?;
        let tokens = write_keys(&directory.path().join("keys.yaml"))?;
        write_certificate(directory.path())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let model = model::start().await?;
            let config = configuration(directory.path(), &free_address(&self.listen), model)?;
            let app = App::bind(&config, Clock::system(), Hooks::default())?;
            let address = match app.addresses().into_iter().next() {
                Some(Local::Tcp(address)) => address.to_string(),
                _ => self.listen.clone(),
            };
            print(&lines_to_try(&address, &directory.path().join("certificate.pem"), &tokens))?;
            say("bearward: the demo runs until Ctrl-C");
            let stop = stop_signal()?;
            app.run(stop).await?;
            Ok(())
        })
    }
}

fn write_keys(path: &Path) -> Result<Vec<Token>, Failure> {
    let mut source = String::from("keys:\n");
    let mut tokens = Vec::new();
    for (name, rest) in KEYS {
        let token = Token::generate().map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let (id, hash) = (token.key_id(), token.hash().to_stored());
        source.push_str(&format!("  - {{id: {id}, name: {name}, hash: \"{hash}\", {rest}}}\n"));
        tokens.push(token);
    }
    fs::write(path, source)?;
    Ok(tokens)
}

fn write_certificate(directory: &Path) -> Result<(), Failure> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = SelfSigned::new(names)?;
    fs::write(directory.join("certificate.pem"), made.certificate)?;
    fs::write(directory.join("private_key.pem"), made.private_key)?;
    Ok(())
}

/// Returns the address `wanted`. If this address can't be bound, returns port 0 of the same host,
/// for which the system chooses a free port.
fn free_address(wanted: &str) -> String {
    match TcpListener::bind(wanted) {
        Ok(_free) => wanted.to_owned(),
        Err(error) => {
            say(&format!("bearward: {wanted}: {error}; taking a free port"));
            let host = wanted.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            format!("{host}:0")
        }
    }
}

fn configuration(directory: &Path, listen: &str, model: std::net::SocketAddr) -> Result<Config, Failure> {
    let source = json!({
        "listeners": [{
            "address": listen,
            "tls": {
                "certificate": directory.join("certificate.pem"),
                "private_key": directory.join("private_key.pem"),
            },
        }],
        "admin": "off",
        "upstreams": [{"name": "demo-model", "endpoints": [format!("http://{model}")]}],
        "keys": {"path": directory.join("keys.yaml")},
    });
    Ok(Config::parse(Path::new("demo"), &source.to_string(), &|_| None)?)
}

fn lines_to_try(address: &str, certificate: &Path, tokens: &[Token]) -> String {
    let token = |name: &str| {
        let index = KEYS.iter().position(|(known, _)| *known == name);
        debug_assert!(index.is_some(), "{name} is no key of the demo");
        let index = index.unwrap_or(0);
        tokens.get(index).map(Token::reveal).unwrap_or_default()
    };
    let url = |path: &str| format!("https://{address}{path}");
    let curl = format!("curl -sS --cacert {}", shell_word(certificate));
    let bearer = |name: &str| format!("-H 'Authorization: Bearer {}'", token(name));
    let chat = r#"-d '{"model": "demo", "messages": [{"role": "user", "content": "Who goes there?"}]}'"#;
    let stream = chat.replace("\"messages\"", "\"stream\": true, \"messages\"");
    let steps = [
        ("no key: 401 MISSING_API_KEY", format!("{curl} -i {}", url("/v1/models"))),
        (
            "a key that expired: 401 EXPIRED_API_KEY",
            format!("{curl} -i {} {}", bearer("expired"), url("/v1/models")),
        ),
        ("a key with `read`: 200", format!("{curl} -i {} {}", bearer("reader"), url("/v1/models"))),
        (
            "the same key generates: 200",
            format!("{curl} -i {} {JSON} {chat} {}", bearer("reader"), url("/v1/chat/completions")),
        ),
        (
            "and streams, word by word: 200",
            format!("{curl} -iN {} {JSON} {stream} {}", bearer("reader"), url("/v1/chat/completions")),
        ),
        (
            "it may not create a resource: 403 INSUFFICIENT_PERMISSIONS",
            format!("{curl} -i {} {JSON} -d '{{}}' {}", bearer("reader"), url("/v1/files")),
        ),
        (
            "a key with `write` may: 200",
            format!("{curl} -i {} {JSON} -d '{{}}' {}", bearer("writer"), url("/v1/files")),
        ),
        (
            "three requests at once, then one every 20 s: 200 200 200 429",
            format!("{curl} {STATUS} {} '{}'", bearer("limited"), url("/v1/models?try=[1-4]")),
        ),
        (
            "the answer to the fourth: 429 RATE_LIMIT_EXCEEDED, with Retry-After",
            format!("{curl} -i {} {}", bearer("limited"), url("/v1/models")),
        ),
    ];
    let mut text = format!("bearward guards an embedded model server at https://{address}\n");
    let of_models = model_steps(&curl, chat, &url, &bearer);
    for (what, line) in steps.into_iter().chain(of_models) {
        text.push_str(&format!("\n# {what}\n{line}\n"));
    }
    text
}

const JSON: &str = "-H 'Content-Type: application/json'";
const STATUS: &str = r"-o /dev/null -w '%{http_code}\n'";

/// Returns the commands about tokens and models, each with its result.
fn model_steps(
    curl: &str,
    chat: &str,
    url: &impl Fn(&str) -> String,
    bearer: &impl Fn(&str) -> String,
) -> [(&'static str, String); 3] {
    let few = chat.replace("\"messages\"", "\"max_tokens\": 20, \"messages\"");
    [
        (
            "60 tokens a minute; each request reserves 25 of them and uses 13: 200 200 200 429",
            format!(
                "{curl} {STATUS} {} {JSON} {few} '{}'",
                bearer("tokens"),
                url("/v1/chat/completions?try=[1-4]")
            ),
        ),
        (
            "a key for other models: 403 MODEL_NOT_ALLOWED",
            format!("{curl} -i {} {JSON} {chat} {}", bearer("models"), url("/v1/chat/completions")),
        ),
        (
            "and its list of models, which has none of them: 200",
            format!("{curl} -i {} {}", bearer("models"), url("/v1/models")),
        ),
    ]
}
