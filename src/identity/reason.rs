//! The reasons why a token or a certificate identifies nobody, as the audit log has them. A caller learns none
//! of them but the end of a token that was its own.

/// Why a token or a certificate identifies nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    TooLong,
    Malformed,
    HeaderMalformed,
    CriticalHeader,
    KeyInHeader,
    TypeNotAccepted,
    Nested,
    AlgorithmNotAccepted,
    ClaimsMalformed,
    IssuerMissing,
    IssuerUnknown,
    /// The issuer's keys are not known, or were known too long ago.
    KeysUnknown,
    KeyIdMissing,
    KeyUnknown,
    SignatureInvalid,
    SubjectMissing,
    ExpiryMissing,
    TimesMalformed,
    ExpiryTooFar,
    NotYetValid,
    IssuedInFuture,
    AudienceMissing,
    AudienceOther,
    IdMalformed,
    Denied,
    /// The conditions of no identity hold.
    NoIdentity,
    Expired,
    /// There are too many identities whose limits still hold something back.
    NoRoom,
    CertificateExpired,
    CertificateRevoked,
}

impl Reason {
    /// Returns the reason's name in the audit log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::TooLong => "token_too_long",
            Reason::Malformed => "token_malformed",
            Reason::HeaderMalformed => "token_header_malformed",
            Reason::CriticalHeader => "token_critical_header",
            Reason::KeyInHeader => "token_key_in_header",
            Reason::TypeNotAccepted => "token_type_not_accepted",
            Reason::Nested => "token_nested",
            Reason::AlgorithmNotAccepted => "token_algorithm_not_accepted",
            Reason::ClaimsMalformed => "token_claims_malformed",
            Reason::IssuerMissing => "token_issuer_missing",
            Reason::IssuerUnknown => "token_issuer_unknown",
            Reason::KeysUnknown => "issuer_keys_unknown",
            Reason::KeyIdMissing => "token_key_id_missing",
            Reason::KeyUnknown => "token_key_unknown",
            Reason::SignatureInvalid => "token_signature_invalid",
            Reason::SubjectMissing => "token_subject_missing",
            Reason::ExpiryMissing => "token_expiry_missing",
            Reason::TimesMalformed => "token_times_malformed",
            Reason::ExpiryTooFar => "token_expiry_too_far",
            Reason::NotYetValid => "token_not_yet_valid",
            Reason::IssuedInFuture => "token_issued_in_future",
            Reason::AudienceMissing => "token_audience_missing",
            Reason::AudienceOther => "token_audience_other",
            Reason::IdMalformed => "token_id_malformed",
            Reason::Denied => "token_denied",
            Reason::NoIdentity => "no_identity_matches",
            Reason::Expired => "token_expired",
            Reason::NoRoom => "too_many_identities",
            Reason::CertificateExpired => "certificate_expired",
            Reason::CertificateRevoked => "certificate_no_longer_accepted",
        }
    }

    /// Whether anybody could have made the credential, so that it counts as a guess. A token with an unknown key
    /// does not: after an issuer has changed its keys, holders may still have tokens of the old ones.
    pub(crate) fn is_guess(self) -> bool {
        use Reason::{
            AlgorithmNotAccepted, ClaimsMalformed, CriticalHeader, HeaderMalformed, IssuerMissing,
            IssuerUnknown, KeyIdMissing, KeyInHeader, Malformed, Nested, SignatureInvalid, TooLong,
            TypeNotAccepted,
        };
        matches!(
            self,
            TooLong
                | Malformed
                | HeaderMalformed
                | CriticalHeader
                | KeyInHeader
                | TypeNotAccepted
                | Nested
                | AlgorithmNotAccepted
                | ClaimsMalformed
                | IssuerMissing
                | IssuerUnknown
                | KeyIdMissing
                | SignatureInvalid
        )
    }
}
