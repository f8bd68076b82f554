//! The reason why a connection to NATS failed, in words that name what to change.

use crate::config::{Auth, Nats};
use crate::presence::time::Time;

use super::login::expired_since;

/// The advice for a failure of TLS, by a part of the client library's text. That text is all that
/// it keeps of the cause.
const TLS_ADVICE: &[(&str, &str)] = &[
    (
        "UnknownIssuer",
        "the server's certificate is from an authority that is not trusted here; name it in \
         `nats.tls_ca`",
    ),
    (
        "BadSignature",
        "the server's certificate is not from the authority in `nats.tls_ca`, which is not trusted \
         for it; name the one that issued it",
    ),
    (
        "CaUsedAsEndEntity",
        "the server's certificate is itself an authority; let that authority issue another one for \
         the server",
    ),
    (
        "could not load private key",
        "`nats.tls_key` holds no private key that can be used: PKCS#8, PKCS#1 or SEC1 in PEM, not \
         encrypted (`openssl pkey -in encrypted.pem -out key.pem` takes the password off)",
    ),
    (
        "could not add certificate or key",
        "the key in `nats.tls_key` does not belong to `nats.tls_cert`, or is of a kind that is not \
         supported: RSA, ECDSA P-256, ECDSA P-384 and Ed25519 are",
    ),
    (
        "invalid message: InvalidContentType",
        "the server does not begin with TLS: take `nats.tls_first` away, or set \
         `handshake_first` in its `tls` block",
    ),
];

/// The text of a failure, with what to do about it where that is known.
pub fn explain(failure: &str, settings: &Nats, now: Time) -> String {
    if let Auth::Creds(path) = &settings.auth
        && failure.to_lowercase().contains("auth")
        && let Some(expired) = expired_since(&settings.auth, now)
    {
        return format!("the login in {} has expired (at {expired}); renew it", path.display());
    }
    let advice = TLS_ADVICE.iter().find(|(text, _)| failure.contains(text));
    match advice {
        Some((_, advice)) => format!("{failure}: {advice}"),
        None => failure.to_owned(),
    }
}

/// Returns whether a person has to act on a login or a certificate. Decided by the text: a server
/// that refuses a certificate reports it only after the handshake.
pub fn is_refusal(failure: &str) -> bool {
    const SIGNS: [&str; 5] = ["authorization", "authentication", "certificate", "tls", "expired"];
    let failure = failure.to_lowercase();
    SIGNS.iter().any(|sign| failure.contains(sign))
}

/// Returns whether the server ended the connection because the login expired.
pub fn is_expiry(error: &str) -> bool {
    error.to_lowercase().contains("authentication expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_other_failures() {
        assert!(is_refusal("authorization violation: nats: authorization violation"));
        assert!(is_refusal("IO error: received fatal alert: CertificateExpired"));
        assert!(is_refusal("IO error: invalid peer certificate: certificate expired: …"));
        assert!(!is_refusal("IO error: Connection refused (os error 111)"));
    }
}
