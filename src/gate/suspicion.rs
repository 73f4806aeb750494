//! Records that a key was used, and finds what is suspicious about that use.

use std::net::IpAddr;

use super::context::Context;
use super::principal::Principal;
use crate::clock::Clock;
use crate::observe::audit::Suspicion;
use crate::observe::usage::UsageBook;

/// Records that a principal's request was admitted. Returns the suspicions that belong in the audit
/// log.
pub(crate) fn note_use(
    principal: &Principal,
    address: Option<IpAddr>,
    context: Context<'_>,
    book: &UsageBook,
    clock: &Clock,
) -> impl Iterator<Item = Suspicion> {
    let (live, is_rotated_out, now) = (principal.key(), principal.is_rotated_out(), context.now);
    let usage = live.usage(book);
    let is_new = usage.note(now, address);
    let is_old_secret = is_rotated_out && usage.tells_old_secret(clock.monotonic_nanos());
    let max_age = context.snapshot.max_age.filter(|_| !is_rotated_out);
    let end_of_age = max_age.and_then(|max_age| live.key.end_of_age(max_age.age));
    let is_old = end_of_age.is_some_and(|end| now >= end) && usage.tells_old_age(clock.monotonic_nanos());
    let found = [
        is_new.then_some(Suspicion::NewAddress),
        is_old_secret.then_some(Suspicion::RotatedSecret),
        is_old.then_some(Suspicion::PastMaxAge),
    ];
    found.into_iter().flatten()
}
