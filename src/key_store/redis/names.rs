//! The names of a store in its server.

/// The names of the keys, in Redis' sense, that a store consists of.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The part that all names have in common. The braces make it the hash tag.
    base: String,
    /// A hash: the JSON of each key, by its id.
    pub(super) entries: String,
    /// A hash: the name of the store, its generation, and the generation before which changes are
    /// no longer noted.
    pub(super) state: String,
    /// A sorted set: ids of changed entries, by the generation of their last change.
    pub(super) changes: String,
    /// A hash: the id of the key that has a name or a hash.
    pub(super) taken: String,
    /// A hash: the end of the registration of each replica, and what the replica has applied.
    pub(super) replicas: String,
    /// A hash: the secret that makes ids of credentials.
    pub(super) secrets: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        let base = format!("{{{prefix}:keys}}");
        let name = |part: &str| format!("{base}:{part}");
        Names {
            entries: name("entries"),
            state: name("state"),
            changes: name("changes"),
            taken: name("taken"),
            replicas: name("replicas"),
            secrets: name("secrets"),
            base,
        }
    }

    /// Returns the names that the script of a registration gets.
    pub(super) fn of_registration(&self) -> [&str; 3] {
        [&self.entries, &self.state, &self.replicas]
    }

    /// Returns a name that nothing else uses.
    pub(super) fn of_own(&self, part: &str, unique: &str) -> String {
        format!("{}:{part}:{unique}", self.base)
    }
}
