//! What a key may be allowed, by the names that files and answers use.

/// A permission. `Admin` implies all others; no other implies any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Permission {
    /// Read data and generate content.
    Read,
    /// Create and update resources.
    Write,
    /// Everything.
    Admin,
    /// Manage webhooks.
    Webhook,
}

impl Permission {
    /// All of them, by name.
    pub(crate) const ALL: [(&'static str, Permission); 4] = [
        ("read", Permission::Read),
        ("write", Permission::Write),
        ("admin", Permission::Admin),
        ("webhook", Permission::Webhook),
    ];

    /// The name in files, answers and headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Admin => "admin",
            Permission::Webhook => "webhook",
        }
    }
}
