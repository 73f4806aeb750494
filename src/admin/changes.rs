//! Changes the key store through the admin API, like the command `bearward keys`. This needs a key
//! store that the process can write to.
//!
//! Invariant: a new secret appears only in the answer to the request that created it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Actor;
use super::answer::{AdminBody, data};
use super::keys;
use super::new_key::{NewKey, ahead, given, now};
use super::state::Admin;
use crate::config::{AgeAction, Position, StorePlace};
use crate::denial::Denial;
use crate::key_store::edit::{EditError, Editor, kubectl};
use crate::key_store::provisions::Provisions;
use crate::keys::KeyRecord;
use crate::keys::rotation::{NotRotated, Rotation, is_no_grace};
use crate::keys::token::Token;
use crate::net::body::IncomingBody;
use crate::observe::audit::{KeyChange, Subject, changed};
use crate::shell_word::shell_word;

const MAX_BODY: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// A change of a key, requested by an authorized caller.
pub(super) struct Change {
    pub(super) admin: Arc<Admin>,
    pub(super) actor: Actor,
    /// The id of the key to change; empty for a new key.
    pub(super) key: String,
    pub(super) peer: Option<IpAddr>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) request_id: HeaderValue,
}

/// The JSON body of a request to rotate a key. All fields are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotationRequest {
    #[serde(default, deserialize_with = "given")]
    grace: Option<String>,
    #[serde(default, deserialize_with = "given")]
    expires_in: Option<String>,
}

/// Default time for which a key's old secret stays valid after a rotation, as on the command line.
const DEFAULT_GRACE: &str = "7d";

/// The result of a change that was made to the key store.
struct Done {
    key_id: String,
    /// The new token of a key that was created or rotated.
    token: Option<Token>,
}

impl Change {
    pub(super) async fn create(
        self,
        body: IncomingBody,
        headers: &HeaderMap,
    ) -> Result<Response<AdminBody>, Denial> {
        let wanted: NewKey =
            content(body, headers).await?.ok_or_else(|| Denial::bad_content("A body is needed"))?;
        let mut response =
            self.edit(KeyChange::Created, move |place, _, admin| create(place, wanted, admin)).await?;
        *response.status_mut() = StatusCode::CREATED;
        Ok(response)
    }

    pub(super) async fn rotate(
        self,
        body: IncomingBody,
        headers: &HeaderMap,
    ) -> Result<Response<AdminBody>, Denial> {
        let asked: RotationRequest = content(body, headers).await?.unwrap_or_default();
        self.edit(KeyChange::Rotated, move |place, id, admin| rotate(place, id, &asked, admin)).await
    }

    pub(super) async fn revoke(self) -> Result<Response<AdminBody>, Denial> {
        self.edit(KeyChange::Revoked, revoke).await
    }

    pub(super) async fn delete(self) -> Result<Response<AdminBody>, Denial> {
        self.edit(KeyChange::Deleted, delete).await
    }

    /// Changes the store, writes an audit line, and reloads the store. All three are done even if
    /// the client disconnects meanwhile.
    async fn edit(
        self,
        change: KeyChange,
        edit: impl FnOnce(&StorePlace, &str, &Admin) -> Result<Done, Denial> + Send + 'static,
    ) -> Result<Response<AdminBody>, Denial> {
        let task = tokio::spawn(async move {
            let (admin, key) = (self.admin.clone(), self.key.clone());
            let edited = tokio::task::spawn_blocking(move || {
                let place = admin.gateway.snapshot.load().keys_place.clone();
                edit(&place, &key, &admin)
            });
            let done = edited.await.unwrap_or_else(|_panic| Err(Denial::internal()))?;
            self.audit(change, &done.key_id);
            // If the reload fails, the store still contains the change. The field `is_live` of the
            // answer shows whether the running server has applied the change.
            let _reported_below = self.admin.reload.reload().await;
            let shown = tokio::task::spawn_blocking(move || shown(&self.admin, change, done)).await;
            shown.map_err(|_panic| Denial::internal())
        });
        task.await.unwrap_or_else(|_panic| Err(Denial::internal()))
    }

    fn audit(&self, change: KeyChange, key_id: &str) {
        let Some(writer) = self.admin.gateway.observers.logs().audit.as_ref() else { return };
        let subject = Subject {
            request_id: self.request_id.to_str().unwrap_or_default(),
            client: self.peer,
            method: &self.method,
            path: &self.path,
            key_id: Some(key_id),
            key_name: None,
            claimed_key_id: None,
            credential_id: None,
            route: Some("bearward:admin"),
            model: None,
            door: None,
        };
        changed(writer, change, subject, self.actor.name());
    }
}

/// Returns the answer to a change: the key in service, its new secret, and whether the running
/// server has applied the change.
fn shown(admin: &Admin, change: KeyChange, done: Done) -> Response<AdminBody> {
    let Done { key_id, token } = done;
    let key = keys::find(admin, &key_id);
    let is_live = match (&token, change) {
        (Some(token), _) => admin.gateway.keys.find(&token.hash()).is_some(),
        (None, KeyChange::Deleted) => key.is_none(),
        (None, _) => key.as_ref().is_some_and(|key| key.get("state") == Some(&json!("disabled"))),
    };
    let mut shown = json!({"id": key_id, "key": key, "is_live": is_live});
    if let (Some(token), Value::Object(fields)) = (token, &mut shown) {
        fields.insert("secret".to_owned(), Value::String(token.reveal().to_string()));
    }
    data(&shown)
}

fn open(place: &StorePlace, admin: &Admin) -> Result<Editor, EditError> {
    Ok(Editor::open(place, admin.gateway.snapshot.load().ids.clone())?.of_running_server())
}

fn create(place: &StorePlace, wanted: NewKey, admin: &Admin) -> Result<Done, Denial> {
    let token = new_token(None)?;
    let record = wanted.record(&token, now())?;
    let snapshot = admin.gateway.snapshot.load();
    let provisions = Provisions::Of(&snapshot.provided);
    if let Some(fault) = provisions.fault(&record, Path::new("body"), Position::default()) {
        // The next reload would refuse the store.
        return Err(Denial::key_conflict(format!("The configuration does not allow it: {}", fault.message)));
    }
    let refused = |error| refused(error, place.path(), "create --permissions …");
    open(place, admin).map_err(refused)?.add(std::slice::from_ref(&record)).map_err(refused)?;
    Ok(Done { key_id: record.id, token: Some(token) })
}

fn rotate(place: &StorePlace, id: &str, asked: &RotationRequest, admin: &Admin) -> Result<Done, Denial> {
    let now = now();
    let grace = asked.grace.as_deref().unwrap_or(DEFAULT_GRACE);
    let grace_end = match is_no_grace(grace) {
        true => None,
        false => Some(ahead("grace", grace, now)?),
    };
    let expires_at =
        asked.expires_in.as_deref().map(|lifetime| ahead("expires_in", lifetime, now)).transpose()?;
    let max_age = admin.gateway.snapshot.load().max_age;
    let refused_age =
        max_age.filter(|max_age| max_age.action == AgeAction::Refuse).map(|max_age| max_age.age);
    let refused = |error| refused(error, place.path(), &format!("rotate {id}"));
    let editor = open(place, admin).map_err(refused)?;
    let found = find(&editor, id)?;
    let token = new_token(Some(&found.record.id))?;
    let rotation = Rotation { now, grace_end, expires_at, refused_age };
    let after = rotation.of(&found.record, &token).map_err(|reason| {
        Denial::key_conflict(match reason {
            NotRotated::Disabled => "The key is turned off, which a new secret would not change",
            NotRotated::Expired => "The key has expired; `expires_in` gives it a new end",
        })
    })?;
    editor.replace(&found, &after).map_err(refused)?;
    Ok(Done { key_id: after.id, token: Some(token) })
}

fn revoke(place: &StorePlace, id: &str, admin: &Admin) -> Result<Done, Denial> {
    let refused = |error| refused(error, place.path(), &format!("revoke {id}"));
    let editor = open(place, admin).map_err(refused)?;
    let found = find(&editor, id)?;
    if !found.record.disabled {
        let after = KeyRecord { disabled: true, ..found.record.clone() };
        editor.replace(&found, &after).map_err(refused)?;
    }
    Ok(Done { key_id: found.record.id, token: None })
}

fn delete(place: &StorePlace, id: &str, admin: &Admin) -> Result<Done, Denial> {
    let refused = |error| refused(error, place.path(), &format!("delete {id}"));
    let editor = open(place, admin).map_err(refused)?;
    let found = find(&editor, id)?;
    editor.delete(&found).map_err(refused)?;
    Ok(Done { key_id: found.record.id, token: None })
}

/// Returns the entry of the key store with this key id. A key's name is not accepted instead of its
/// id.
fn find(editor: &Editor, id: &str) -> Result<crate::key_store::edit::Found, Denial> {
    let found = editor.find(id).map_err(|error| refused(error, editor.path(), "list"))?;
    if found.record.id == id { Ok(found) } else { Err(Denial::key_not_found()) }
}

fn new_token(id: Option<&str>) -> Result<Token, Denial> {
    let made = match id {
        Some(id) => Token::generate_for(id),
        None => Token::generate(),
    };
    made.map_err(|error| Denial::internal().caused_by(error.to_string()))
}

/// Returns the denial for a change that the key store did not accept. If the store can't be
/// written, the denial contains the command that changes the store's original file. The denial does
/// not contain the entry of a new key: the new key's secret is lost, so nobody could use the key.
fn refused(error: EditError, store: &Path, command: &str) -> Denial {
    match error {
        EditError::NoSuchKey(_) => Denial::key_not_found(),
        EditError::Refused(message) => Denial::key_conflict(message),
        EditError::Unwritable { reason, .. } => {
            let file = shell_word(Path::new(store.file_name().unwrap_or_default()));
            let command = format!("bearward keys {command} --keys {file}");
            let hint = format!(
                "Run the command on the file that the store is made of, and bring it here anew: of a mounted Secret, by `{}`",
                kubectl::replacing("FILE")
            );
            Denial::store_read_only(&reason, &hint, &command)
        }
        EditError::Faults(faults) => {
            Denial::key_conflict("The key store has faults, which the status reports").caused_by(faults)
        }
    }
}

/// Reads the JSON body of a request; `None` if the body is empty.
async fn content<T: for<'de> Deserialize<'de>>(
    body: IncomingBody,
    headers: &HeaderMap,
) -> Result<Option<T>, Denial> {
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
    let bytes: Bytes = match collected {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Denial::body_too_large(MAX_BODY as u64));
        }
        Ok(Err(_)) => return Err(Denial::bad_content("The body is incomplete")),
        Err(_elapsed) => return Err(Denial::body_stalled(BODY_TIME)),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Denial::bad_content("The body must be application/json"));
    }
    // serde also decodes a struct from a list of its fields' values.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Denial::bad_content("The body must be a JSON object"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        // The error message of serde is not returned, because the message quotes values of the
        // body, and a value may be a misplaced secret.
        let (line, column) = (error.line(), error.column());
        Denial::bad_content(match error.classify() {
            serde_json::error::Category::Data => {
                format!("The body is not what /api/openapi.json describes, at line {line}, column {column}")
            }
            _ => format!("The body is not valid JSON, at line {line}, column {column}"),
        })
    })
}
