//! Asks an issuer's server for the issuer's keys: by their URL, or by OpenID Connect Discovery.
//!
//! Invariants: no redirect is followed; a credential is sent only to the server that the configuration names; an
//! answer is bounded in size and in time.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use zeroize::Zeroizing;

use super::json::Object;
use super::jwks::{self, KeySet};
use super::source::{Answer, Place, Source};
use crate::config::fault::Fault;
use crate::config::{KeysPlace, is_trustworthy};
use crate::regular_file;

/// The path of an issuer's configuration (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// The number of characters of a value that messages show.
const SHOWN: usize = 200;

/// A request for a document.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) url: String,
    /// The authorities that may have signed the server's certificate; `None`: the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The value of `Authorization`.
    pub(crate) authorization: Option<Zeroizing<String>>,
    /// The ETag of the document that is known.
    pub(crate) tag: Option<String>,
    pub(crate) most_bytes: usize,
}

/// An answer to a request for a document.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) status: u16,
    pub(crate) tag: Option<String>,
    /// How long the document holds by `Cache-Control: max-age`.
    pub(crate) max_age: Option<Duration>,
    pub(crate) body: Bytes,
}

type Fetching = Pin<Box<dyn Future<Output = anyhow::Result<Document>> + Send>>;

/// An HTTPS client.
pub(crate) type Client = Arc<dyn Fn(Wanted) -> Fetching + Send + Sync>;

/// Asks for the keys of an issuer, with the issuer's time limit.
///
/// # Errors
///
/// Why there are none, in words for an operator.
pub(super) async fn keys_of(source: &Source, client: &Client) -> Result<Answer, String> {
    let limit = source.pace().timeout;
    match tokio::time::timeout(limit, ask(source, client)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(format!("no whole answer within {limit:?}")),
    }
}

async fn ask(source: &Source, client: &Client) -> Result<Answer, String> {
    let place = &source.place;
    let url = match &place.keys {
        KeysPlace::Url(url) => url.clone(),
        KeysPlace::Discovery => discovered(place, client).await?,
        KeysPlace::File(_) => return Err("the keys are in a file".to_owned()),
    };
    let tag = source.tag(&url);
    let wanted = Wanted { tag: tag.clone(), ..wanted(place, &url)? };
    let document = client(wanted).await.map_err(|error| format!("{error:#}"))?;
    let Document { status, tag: new_tag, max_age, body } = document;
    match status {
        304 if tag.is_some() => Ok(Answer::Same { interval: max_age }),
        200 => {
            let keys = KeySet::parse(&body).map_err(|fault| format!("{url} has no keys: {fault}"))?;
            Ok(Answer::New { keys, tag: new_tag.map(|tag| (url, tag)), interval: max_age })
        }
        other => Err(refusal(&url, other, &body)),
    }
}

/// Returns the URL of the keys by the issuer's configuration.
async fn discovered(place: &Place, client: &Client) -> Result<String, String> {
    let url = format!("{}{DISCOVERY}", place.issuer.trim_end_matches('/'));
    let document = client(wanted(place, &url)?).await.map_err(|error| format!("{error:#}"))?;
    if document.status != 200 {
        return Err(refusal(&url, document.status, &document.body));
    }
    let object = Object::parse(&document.body).ok_or_else(|| format!("{url} is no JSON object"))?;
    match object.text("issuer") {
        Ok(Some(issuer)) if issuer == place.issuer => {}
        Ok(Some(other)) => return Err(format!("{url} is of another issuer, `{}`", shown(other))),
        _ => return Err(format!("{url} names no issuer")),
    }
    match object.text("jwks_uri") {
        // An issuer with TLS may not lead to a server on this machine without.
        Ok(Some(keys))
            if is_trustworthy(keys) && (keys.starts_with("https:") || place.issuer.starts_with("http:")) =>
        {
            Ok(keys.to_owned())
        }
        Ok(Some(keys)) => Err(format!("{url} has its keys at `{}`, without TLS", shown(keys))),
        _ => Err(format!("{url} names no `jwks_uri`")),
    }
}

fn wanted(place: &Place, url: &str) -> Result<Wanted, String> {
    let configured = match &place.keys {
        KeysPlace::Url(url) => url,
        _ => &place.issuer,
    };
    let authorization = match &place.token_file {
        Some(path) if server_of(url).is_some() && server_of(url) == server_of(configured) => {
            let text = regular_file::read_text(path)
                .map_err(|error| Fault::unreadable(path, "the token file", &error).to_string())?;
            if text.trim().is_empty() {
                return Err(format!("the token file {} is empty", path.display()));
            }
            Some(Zeroizing::new(format!("Bearer {}", text.trim())))
        }
        _ => None,
    };
    Ok(Wanted {
        url: url.to_owned(),
        ca: place.ca.clone(),
        authorization,
        tag: None,
        most_bytes: jwks::MOST_BYTES,
    })
}

/// Returns the scheme, host and port of a URL.
fn server_of(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn refusal(url: &str, status: u16, body: &[u8]) -> String {
    match status {
        300..=399 => {
            format!("{url} answers {status}, and no redirect is followed: `jwks` takes the last URL")
        }
        401 | 403 => format!("{url} answers {status}: `token_file` may be needed"),
        _ => format!("{url} answers {status}: {}", shown(&String::from_utf8_lossy(body))),
    }
}

/// Returns text that somebody else has written, as a message may show it.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN).collect();
    start.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::clock::Clock;
    use crate::identity::source::Pace;

    /// The URL of a request, whether it had a credential, and its ETag.
    type Asked = (String, bool, Option<String>);

    /// Asks with a client that gives these answers, in order, and notes what it is asked.
    fn asked(place: Place, answers: Vec<(u16, &'static str)>) -> (Result<Answer, String>, Vec<Asked>) {
        let pace = Pace { timeout: Duration::from_secs(1), refresh: Duration::from_secs(300) };
        let source = Source::new(place, pace, Arc::default(), Clock::system());
        let (left, seen) = (Arc::new(Mutex::new(answers)), Arc::new(Mutex::new(Vec::new())));
        let of_client = seen.clone();
        let client: Client = Arc::new(move |wanted: Wanted| {
            of_client.lock().unwrap().push((wanted.url, wanted.authorization.is_some(), wanted.tag));
            let (status, body) = left.lock().unwrap().remove(0);
            Box::pin(
                async move { Ok(Document { status, tag: None, max_age: None, body: Bytes::from(body) }) },
            )
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(keys_of(&source, &client));
        let seen = seen.lock().unwrap().clone();
        (answer, seen)
    }

    fn place(keys: KeysPlace) -> Place {
        Place { issuer: "https://a.example/x".to_owned(), keys, ca: None, token_file: None }
    }

    #[test]
    fn discovery_leads_to_the_keys_of_the_same_issuer_alone() {
        let keys = r#"{"keys":[]}"#;
        let good = r#"{"issuer":"https://a.example/x","jwks_uri":"https://b.example/keys"}"#;
        let (answer, seen) = asked(place(KeysPlace::Discovery), vec![(200, good), (200, keys)]);
        assert!(answer.is_ok());
        let urls: Vec<&str> = seen.iter().map(|(url, ..)| url.as_str()).collect();
        assert_eq!(urls, ["https://a.example/x/.well-known/openid-configuration", "https://b.example/keys"]);
        for (bad, says) in [
            (r#"{"issuer":"https://a.example/y","jwks_uri":"https://b.example/keys"}"#, "another issuer"),
            (r#"{"jwks_uri":"https://b.example/keys"}"#, "names no issuer"),
            (r#"{"issuer":"https://a.example/x","jwks_uri":"http://b.example/keys"}"#, "without TLS"),
            (r#"{"issuer":"https://a.example/x","jwks_uri":"http://127.0.0.1/keys"}"#, "without TLS"),
            (r#"{"issuer":"https://a.example/x"}"#, "names no `jwks_uri`"),
            ("<html>", "no JSON"),
        ] {
            let (answer, seen) = asked(place(KeysPlace::Discovery), vec![(200, bad)]);
            assert!(answer.as_ref().is_err_and(|fault| fault.contains(says)), "{answer:?}");
            assert_eq!(seen.len(), 1);
        }
    }

    #[test]
    fn a_credential_goes_to_the_named_server_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let with_token = |keys| Place { token_file: Some(file.path().to_owned()), ..place(keys) };
        let keys = r#"{"keys":[]}"#;
        let elsewhere = r#"{"issuer":"https://a.example/x","jwks_uri":"https://b.example/keys"}"#;
        let (_, seen) = asked(with_token(KeysPlace::Discovery), vec![(200, elsewhere), (200, keys)]);
        assert_eq!(seen.iter().map(|(_, sent, _)| *sent).collect::<Vec<_>>(), [true, false]);
        let (_, seen) = asked(with_token(KeysPlace::Url("https://k/keys".to_owned())), vec![(200, keys)]);
        assert!(seen[0].1);
        let gone = Place { token_file: Some("/nonexistent".into()), ..place(KeysPlace::Discovery) };
        let (answer, seen) = asked(gone, Vec::new());
        assert!(answer.unwrap_err().contains("the token file can't be read") && seen.is_empty());
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for (status, body, says) in [
            (302, "", "no redirect"),
            (403, "", "token_file"),
            (500, "broken\n", "answers 500: broken"),
            (304, "", "answers 304"),
            (200, "<html>", "has no keys"),
        ] {
            let (answer, _) = asked(place(KeysPlace::Url("https://k/keys".to_owned())), vec![(status, body)]);
            assert!(answer.as_ref().is_err_and(|fault| fault.contains(says)), "{status}: {answer:?}");
        }
    }
}
