//! Describes each field of a key once, in [`FIELDS`].
//!
//! All of these are derived from a row of [`FIELDS`]: how the four stores decode the field and the
//! editor writes it, the argument of `keys create` and `import`, what `keys list` and `show` print,
//! what the admin API accepts and shows, the OpenAPI document, and the table in docs/keys.md. A
//! field is added in three steps:
//!
//! 1. Add a member to [`super::terms::Terms`] (or to `KeyRecord`, if no request needs the field).
//! 2. Add a row to [`FIELDS`].
//! 3. Run `UPDATE_EXPECTED=1 cargo test key_reference`, which writes the two documents.

use crate::keys::field::{Field, Form, Member as _, Part, Presence, SetBy, Shown};

/// Makes the [`Part`] of a field that is a member of `KeyRecord` and of `ApiKey`.
macro_rules! own {
    ($member:ident, $of_key:expr) => {
        Part::Own {
            of_record: |record| record.$member.value(),
            of_key: $of_key,
            set: |record, value| record.$member.put(value),
        }
    };
}

/// Makes the [`Part`] of a field that is a member of `Terms`.
macro_rules! term {
    ($member:ident) => {
        Part::Term { get: |terms| terms.$member.value(), set: |terms, value| terms.$member.put(value) }
    };
}

/// Makes the [`Part`] of a field that is a member of `KeyRecord` only.
macro_rules! stored {
    ($member:ident) => {
        Part::Stored {
            of_record: |record| record.$member.value(),
            set: |record, value| record.$member.put(value),
        }
    };
}

/// All fields, in the order in which an entry is written.
pub(crate) const FIELDS: &[Field] = &[
    Field {
        name: "id",
        about: "The public id",
        default: "",
        form: Form::KeyId,
        presence: Presence::Required,
        set_by: SetBy::Bearward,
        shown: Shown::ByApi,
        part: own!(id, |key| key.id().to_owned().value()),
    },
    Field {
        name: "name",
        about: "A unique label for people",
        default: "no name",
        form: Form::Name,
        presence: Presence::Optional,
        set_by: SetBy::Api,
        shown: Shown::ByApi,
        part: own!(name, |key| key.name().map(str::to_owned).value()),
    },
    Field {
        name: "hash",
        about: "The SHA-256 of the token; `bearward keys hash` makes it of any token",
        default: "",
        form: Form::Hash,
        presence: Presence::Required,
        set_by: SetBy::Bearward,
        shown: Shown::Never,
        part: stored!(hash),
    },
    Field {
        name: "previous",
        about: "Secrets that were rotated out, and the end of each",
        default: "none",
        form: Form::Secrets,
        presence: Presence::NotNull,
        set_by: SetBy::Bearward,
        shown: Shown::Never,
        part: term!(previous),
    },
    Field {
        name: "permissions",
        about: "What the key may do",
        default: "",
        form: Form::Permissions,
        presence: Presence::Required,
        set_by: SetBy::Api,
        shown: Shown::ByApi,
        part: own!(permissions, |key| key.permissions.value()),
    },
    Field {
        name: "environment",
        about: "A free label; with `keys.environment` the configuration admits keys of one environment alone",
        default: "none",
        form: Form::Label,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("environment"),
        shown: Shown::ByApi,
        part: term!(environment),
    },
    Field {
        name: "group",
        about: "The group of the configuration whose limits, models and caps hold for the key, too",
        default: "none",
        form: Form::Group,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("group"),
        shown: Shown::ByApi,
        part: term!(group),
    },
    Field {
        name: "created_at",
        about: "When the current secret was made",
        default: "unknown: due for rotation",
        form: Form::Instant,
        presence: Presence::Optional,
        set_by: SetBy::Bearward,
        shown: Shown::ByApi,
        part: own!(created_at, |key| key.created_at().value()),
    },
    Field {
        name: "not_before",
        about: "When the key becomes valid",
        default: "at once",
        form: Form::Instant,
        presence: Presence::Narrows,
        set_by: SetBy::Api,
        shown: Shown::ByApi,
        part: term!(not_before),
    },
    Field {
        name: "expires_at",
        about: "When the key ends",
        default: "never",
        form: Form::Instant,
        presence: Presence::Narrows,
        set_by: SetBy::Api,
        shown: Shown::ByApi,
        part: own!(expires_at, |key| key.expires_at().value()),
    },
    Field {
        name: "disabled",
        about: "Whether the key is turned off",
        default: "false",
        form: Form::Flag,
        presence: Presence::Narrows,
        set_by: SetBy::Bearward,
        shown: Shown::ByCommands,
        part: own!(disabled, |key| key.disabled.value()),
    },
    Field {
        name: "rate_limits",
        about: "Rate limits, each over a window of its own; `none`: the configuration's default limits do not hold for the key",
        default: "the configuration's defaults",
        form: Form::RateLimits,
        presence: Presence::Narrows,
        set_by: SetBy::Api,
        shown: Shown::ByCommands,
        part: term!(rate_limits),
    },
    Field {
        name: "budgets",
        about: "Budgets by day, week or month, as in tokens=5M/month, or tokens=5M/month@Europe/Berlin",
        default: "none",
        form: Form::Budgets,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("budget"),
        shown: Shown::ByCommands,
        part: term!(budgets),
    },
    Field {
        name: "max_concurrent",
        about: "How many requests of the key may be in flight at once",
        default: "the configuration's default",
        form: Form::Count,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("max-concurrent"),
        shown: Shown::ByCommands,
        part: term!(max_concurrent),
    },
    Field {
        name: "allow_from",
        about: "Networks and addresses that the key may be used from, as in 10.0.0.0/8",
        default: "everywhere",
        form: Form::Networks,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("allow-from"),
        shown: Shown::ByApi,
        part: term!(allow_from),
    },
    Field {
        name: "routes",
        about: "Named routes that the key may use",
        default: "all",
        form: Form::Words,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("routes"),
        shown: Shown::ByApi,
        part: term!(routes),
    },
    Field {
        name: "models",
        about: "Patterns of the models that the key may use, as in llama-3*; `!` takes models out again",
        default: "all",
        form: Form::Models,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("models"),
        shown: Shown::ByApi,
        part: term!(models),
    },
    Field {
        name: "request",
        about: "The output tokens that a request may ask for, as in 4096 or 4096/lower",
        default: "any number",
        form: Form::OutputCap,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("max-output-tokens"),
        shown: Shown::ByApi,
        part: term!(request),
    },
    Field {
        name: "priority",
        about: "The class of the key's requests while they wait in a queue: interactive, standard or batch",
        default: "that of the group, or standard",
        form: Form::Priority,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("priority"),
        shown: Shown::ByApi,
        part: term!(priority),
    },
    Field {
        name: "weight",
        about: "The share of the key among the keys of its class that wait in a queue",
        default: "that of the group, or 1",
        form: Form::Count,
        presence: Presence::Narrows,
        set_by: SetBy::ApiAndArgument("weight"),
        shown: Shown::ByApi,
        part: term!(weight),
    },
    Field {
        name: "metadata",
        about: "Anything to remember about the key, as in team=payments",
        default: "nothing",
        form: Form::Pairs,
        presence: Presence::Optional,
        set_by: SetBy::ApiAndArgument("metadata"),
        shown: Shown::ByCommands,
        part: stored!(metadata),
    },
];
