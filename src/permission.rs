//! The permissions of keys, and their names in files, answers and headers.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A permission. `Admin` implies all other permissions; no other permission implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Permission {
    /// Permission to read data and generate content.
    Read,
    /// Permission to create and update resources.
    Write,
    /// All permissions.
    Admin,
    /// Permission to manage webhooks.
    Webhook,
}

impl Permission {
    /// All permissions, each with its name.
    pub(crate) const ALL: [(&'static str, Permission); 4] = [
        ("read", Permission::Read),
        ("write", Permission::Write),
        ("admin", Permission::Admin),
        ("webhook", Permission::Webhook),
    ];

    /// Returns the permission's name in files, answers and headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Admin => "admin",
            Permission::Webhook => "webhook",
        }
    }

    /// Returns the permission with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Permission::ALL.iter().find(|(known, _)| *known == name).map(|(_, permission)| *permission)
    }
}

/// A key's permissions, in the order in which the key's file lists them, without duplicates. They
/// fit in four bytes, because there may be a million keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Permissions([Option<Permission>; Permission::ALL.len()]);

impl Permissions {
    /// Appends `permission` if it is not in the list yet.
    pub(crate) fn add(&mut self, permission: Permission) {
        let free = self.0.iter_mut().find(|slot| slot.is_none() || **slot == Some(permission));
        debug_assert!(free.is_some(), "there are as many slots as permissions");
        if let Some(slot) = free {
            *slot = Some(permission);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Permission> + '_ {
        self.0.iter().flatten().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether `permission` is among these permissions. The permission `admin` implies all others.
    pub(crate) fn grant(&self, permission: Permission) -> bool {
        self.iter().any(|granted| granted == permission || granted == Permission::Admin)
    }

    /// Returns the names of the permissions, joined by commas for a header. The text of each
    /// distinct set is made once and never freed, because there are few distinct sets.
    pub(crate) fn joined(&self) -> &'static str {
        static KNOWN: LazyLock<Mutex<HashMap<Permissions, &'static str>>> = LazyLock::new(Mutex::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(*self).or_insert_with(|| self.names().join(",").leak())
    }

    /// Returns the names of the permissions, in order.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.iter().map(Permission::name).collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let mut all = Permissions::default();
        permissions.into_iter().for_each(|permission| all.add(permission));
        all
    }
}
