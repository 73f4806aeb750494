//! Random names for what many processes name at the same time, such as replicas.

/// Number of random bytes in a name.
const BYTES: usize = 12;

/// Returns a name that nobody else has, in hexadecimal digits. It is no secret.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; BYTES];
    if getrandom::fill(&mut bytes).is_err() {
        bytes.fill_with(|| fastrand::u8(..));
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
