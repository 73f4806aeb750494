//! Changes a store in a Redis server. Every change is one script, which compares the old entry with
//! what the editor has read.
//!
//! Invariant: of two edits at once, each is made on what the other has left, or is refused.

use std::sync::PoisonError;

use super::link::{Link, LinkError};
use super::scripts::{list, number, word};
use super::version::{Edited, Version};
use super::{RedisStore, apart};
use crate::config::fault::Faults;
use crate::key_store::edit::entry_text::line;
use crate::key_store::edit::error::EditError;
use crate::key_store::jsonl::{self, MAX_LINE};
use crate::keys::KeyRecord;
use crate::keys::token::is_key_id;
use crate::random_id::random_id;
use crate::redis_link::{RedisResult, Value};

/// How many of the last changes are noted in the server. A reader that knows only an older version
/// reads all entries.
const NOTED_CHANGES: usize = 10_000;
/// The highest number of keys that one edit adds. The server does nothing else meanwhile.
const MOST_ADDED: usize = 10_000;
/// How many entries are sent at a time to a store that is not in service yet.
const STAGED: usize = 500;
/// The life of a store that is not completed, in milliseconds.
const STAGE_LIFE: &str = "600000";

/// The change of one entry. An absent entry has an empty text.
struct Edit {
    id: String,
    old: Vec<u8>,
    new: Vec<u8>,
    old_labels: Vec<String>,
    new_labels: Vec<String>,
}

impl RedisStore {
    /// Adds keys. `may_begin`: whether the edit may begin a store, if the server has none.
    ///
    /// # Errors
    ///
    /// The server has no store, or a key with the same id, name or hash, or can't be reached.
    pub(crate) fn add(&self, records: &[KeyRecord], may_begin: bool) -> Result<(), EditError> {
        if records.len() > MOST_ADDED {
            return Err(EditError::Refused(format!(
                "more than {MOST_ADDED} keys at once; `bearward keys copy` brings a whole store"
            )));
        }
        let edits = records.iter().map(|record| Edit::of(&record.id, None, Some(record)));
        apart(|| self.edit(&edits.collect::<Result<Vec<_>, _>>()?, may_begin))
    }

    /// Replaces a key, or removes it if there is no `after`.
    ///
    /// # Errors
    ///
    /// The entry is no longer `before`, or is the last one, or the server can't be reached.
    pub(crate) fn replace(&self, before: &KeyRecord, after: Option<&KeyRecord>) -> Result<(), EditError> {
        apart(|| {
            let (version, texts) =
                self.link().get(&self.names, &[&before.id]).map_err(|error| self.fault(error))?;
            version.ok_or_else(|| self.no_store())?;
            let old = texts.into_iter().next().unwrap_or_default();
            if !self.decode(before.id.as_bytes(), &old).is_ok_and(|record| record == *before) {
                return Err(self.changed(&before.id));
            }
            self.edit(&[Edit::of(&before.id, Some((&old, before)), after)?], false)
        })
    }

    /// Returns the keys with this id or name. The key with the id comes first.
    ///
    /// # Errors
    ///
    /// The server can't be reached or has no store. Or there is no such key, and entries are at
    /// fault.
    pub(crate) fn find(&self, key: &str) -> Result<Vec<KeyRecord>, EditError> {
        apart(|| {
            if is_key_id(key) {
                let (version, texts) =
                    self.link().get(&self.names, &[key]).map_err(|error| self.fault(error))?;
                version.ok_or_else(|| self.no_store())?;
                let text = texts.first().filter(|text| !text.is_empty());
                if let Some(text) = text {
                    let record = self.decode(key.as_bytes(), text);
                    return Ok(vec![record.map_err(|unread| Faults(unread.faults))?]);
                }
            }
            let (mut found, mut faults) = (Vec::new(), Vec::new());
            let version = self.scan(|id, text| {
                if jsonl::is_of(text, key) {
                    match self.decode(id, text) {
                        Ok(record) => found.push(record),
                        Err(unread) => faults.extend(unread.faults),
                    }
                }
            })?;
            version.ok_or_else(|| self.no_store())?;
            if found.is_empty() && !faults.is_empty() {
                Err(EditError::Faults(Faults(faults)))
            } else {
                Ok(found)
            }
        })
    }

    /// Puts these keys in the place of all keys of the store. `overwrites`: whether there may be a
    /// store already.
    ///
    /// # Errors
    ///
    /// The server has a store and `overwrites` is not set, or the server can't be reached.
    pub(crate) fn replace_all(&self, records: &[KeyRecord], overwrites: bool) -> Result<(), EditError> {
        apart(|| {
            let name = random_id();
            let staged = [self.names.of_own("new", &name), self.names.of_own("new-taken", &name)];
            let staged = staged.each_ref().map(String::as_str);
            let mut link = self.link();
            for chunk in records.chunks(STAGED) {
                let mut arguments =
                    vec![STAGE_LIFE.as_bytes().to_vec(), chunk.len().to_string().into_bytes()];
                for record in chunk {
                    let Edit { id, new, new_labels, .. } = Edit::of(&record.id, None, Some(record))?;
                    arguments.extend([id.into_bytes(), new, new_labels.len().to_string().into_bytes()]);
                    arguments.extend(new_labels.into_iter().map(String::into_bytes));
                }
                let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                link.run(&self.names, |scripts| &scripts.stage, &staged, &arguments)
                    .map_err(|error| self.fault(error))?;
            }
            let names = &self.names;
            let keys = [names.entries.as_str(), &names.state, &names.changes, &names.taken];
            let keys: Vec<&str> = keys.into_iter().chain(staged).collect();
            let (count, overwrites) = (records.len().to_string(), if overwrites { "1" } else { "0" });
            let arguments = [name.as_bytes(), count.as_bytes(), overwrites.as_bytes()];
            let answer = link.run(names, |scripts| &scripts.complete, &keys, &arguments);
            self.outcome(
                answer,
                |link| Ok(link.get(names, &[])?.0.filter(|now| now.store == name)),
                &mut link,
            )
        })
    }

    fn edit(&self, edits: &[Edit], may_begin: bool) -> Result<(), EditError> {
        let names = &self.names;
        let keys = [names.entries.as_str(), &names.state, &names.changes, &names.taken, &names.replicas];
        let (begins, name) = (if may_begin { "1" } else { "0" }, random_id());
        let mut arguments: Vec<Vec<u8>> =
            [begins, &name, &NOTED_CHANGES.to_string(), &edits.len().to_string()]
                .map(|text| text.as_bytes().to_vec())
                .into();
        for edit in edits {
            arguments.extend([edit.id.clone().into_bytes(), edit.old.clone(), edit.new.clone()]);
            for labels in [&edit.new_labels, &edit.old_labels] {
                arguments.push(labels.len().to_string().into_bytes());
                arguments.extend(labels.iter().map(|label| label.clone().into_bytes()));
            }
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let mut link = self.link();
        let answer = link.run(names, |scripts| &scripts.edit, &keys, &arguments);
        let is_made = |link: &mut Link| {
            let ids: Vec<&str> = edits.iter().map(|edit| edit.id.as_str()).collect();
            let (version, texts) = link.get(names, &ids)?;
            let are_same = texts.iter().zip(edits).all(|(text, edit)| *text == edit.new);
            Ok(version.filter(|_| are_same && texts.len() == edits.len()))
        };
        self.outcome(answer, is_made, &mut link)
    }

    /// Decodes the answer to an edit. If the answer was lost, `is_made` finds out whether the server
    /// has made the edit.
    fn outcome(
        &self,
        answer: Result<Value, LinkError>,
        is_made: impl FnOnce(&mut Link) -> Result<Option<Version>, LinkError>,
        link: &mut Link,
    ) -> Result<(), EditError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if !error.is_open => return Err(self.fault(error).into()),
            Err(error) => match is_made(link) {
                Ok(Some(Version { store, generation, .. })) => {
                    self.note_edit(Edited { store, generation });
                    return Ok(());
                }
                Ok(None) => return Err(self.fault(error).into()),
                Err(_) => {
                    return Err(self.fault(format!("{error}; the change may have been made or not")).into());
                }
            },
        };
        let decoded = || -> RedisResult<(String, String, Option<u64>)> {
            let mut values = list(answer)?.into_iter();
            let (outcome, about) = (word(values.next())?, word(values.next())?);
            let generation = values.next().map(|value| number(Some(value))).transpose()?;
            Ok((outcome, about, generation))
        };
        let (outcome, about, generation) = decoded().map_err(|error| self.fault(LinkError::from(error)))?;
        match (outcome.as_str(), generation) {
            ("done", Some(generation)) => {
                self.note_edit(Edited { store: about, generation });
                Ok(())
            }
            _ => Err(self.refusal(&outcome, &about)),
        }
    }

    fn note_edit(&self, edited: Edited) {
        *self.edited.lock().unwrap_or_else(PoisonError::into_inner) = Some(edited);
    }

    fn refusal(&self, outcome: &str, about: &str) -> EditError {
        let url = self.server.url.display();
        EditError::Refused(match outcome {
            "no store" => return EditError::Faults(self.no_store()),
            "changed" => return self.changed(about),
            "unmarked" => format!(
                "{url} has entries of a store whose state is gone; `bearward keys copy --overwrite` brings a store"
            ),
            "damaged" => format!(
                "{url} has a generation that is no number; `bearward keys copy --overwrite` brings a store"
            ),
            "in use" => format!(
                "{url} has lost its store, whose keys are still in service; `bearward keys copy` brings a store"
            ),
            "exists" if about.parse::<u64>().is_ok() => {
                format!("{url} has a store with {about} keys already; --overwrite replaces it")
            }
            "exists" => format!("the store has this key already: {about}"),
            "taken" => match about.strip_prefix("n:") {
                Some(name) => format!("the name {name} is taken"),
                None => "the store has a key with this hash already".to_owned(),
            },
            "last" => "this is the last key, and a store without keys admits no client; `bearward keys revoke` turns \
                       it off and keeps its record"
                .to_owned(),
            _ => format!("{url} answers with something else than an outcome"),
        })
    }

    fn changed(&self, id: &str) -> EditError {
        EditError::Refused(format!("{id} was changed or removed at the same time; nothing was changed"))
    }
}

impl Edit {
    /// Makes the edit from an old text and its key to a new key.
    fn of(id: &str, old: Option<(&[u8], &KeyRecord)>, new: Option<&KeyRecord>) -> Result<Self, EditError> {
        let text = new.map(line).unwrap_or_default().into_bytes();
        if text.len() > MAX_LINE {
            return Err(EditError::Refused(format!("the fields of {id} need more than 64 KiB")));
        }
        Ok(Edit {
            id: id.to_owned(),
            old: old.map(|(text, _)| text.to_vec()).unwrap_or_default(),
            new: text,
            old_labels: old.map(|(_, record)| labels(record)).unwrap_or_default(),
            new_labels: new.map(labels).unwrap_or_default(),
        })
    }
}

/// Returns what no other key may have: the hashes of a key, and its name.
fn labels(record: &KeyRecord) -> Vec<String> {
    let name = record.name.iter().map(|name| format!("n:{name}"));
    record.hashes().map(|hash| hash.to_stored()).chain(name).collect()
}
