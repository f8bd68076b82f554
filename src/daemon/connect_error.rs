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
        "certificate not valid for name",
        "the server's certificate is for another name than the host in `nats.url`",
    ),
    (
        "CertificateRequired",
        "the server asks for a certificate of its clients; name one in `nats.tls_cert`, and its key \
         in `nats.tls_key`",
    ),
    (
        "could not load platform certs",
        "this machine has no certificates of authorities; name that of the server in `nats.tls_ca`",
    ),
];

/// The first message of a server that does not begin with TLS, as TLS sees it.
const NO_TLS: &str = "InvalidContentType";

/// A server that waits for TLS, as a client sees it that waits for the first message.
const NO_INFO: &str = "expected INFO, got nothing";

/// The text of a failure, with what to do about it where that is known.
pub fn explain(failure: &str, settings: &Nats, now: Time) -> String {
    if let Auth::Creds(path) = &settings.auth
        && failure.to_lowercase().contains("auth")
        && let Some(expired) = expired_since(&settings.auth, now)
    {
        return format!("the login in {} has expired (at {expired}); renew it", path.display());
    }
    let advice = TLS_ADVICE.iter().find(|(text, _)| failure.contains(text));
    match advice
        .map(|(_, advice)| (*advice).to_owned())
        .or_else(|| begins_otherwise(failure, settings))
    {
        Some(advice) => format!("{failure}: {advice}"),
        None => failure.to_owned(),
    }
}

/// The advice where one side begins with TLS, and the other does not.
fn begins_otherwise(failure: &str, settings: &Nats) -> Option<String> {
    if failure.contains(NO_TLS) {
        let wanted = if settings.tls_first {
            "`nats.tls_first`"
        } else if settings.tls_ca.is_some() {
            "`nats.tls_ca`"
        } else if settings.tls_identity.is_some() {
            "`nats.tls_cert`"
        } else {
            return Some(
                "the server has no TLS, and `nats.url` asks for it: write nats:// instead of \
                 tls://, or give the server a `tls` block"
                    .to_owned(),
            );
        };
        let block = if settings.tls_first { "`handshake_first` in its" } else { "a" };
        return Some(format!(
            "the server does not begin with TLS, and {wanted} asks for it: take that away, or give \
             the server {block} `tls` block"
        ));
    }
    (failure.contains(NO_INFO) && !settings.tls_first).then(|| {
        "if the server begins with TLS (`handshake_first`), set `nats.tls_first`".to_owned()
    })
}

/// Returns whether a person has to act on a login, a certificate or TLS. Decided by the text of the
/// client library: a server that refuses a certificate reports it only after the handshake.
pub fn is_refusal(failure: &str) -> bool {
    const SIGNS: [&str; 6] =
        ["authorization", "authentication", "certificate", "tls", "expired", NO_TLS];
    let failure = failure.to_lowercase();
    SIGNS.iter().any(|sign| failure.contains(&sign.to_lowercase()))
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
        assert!(is_refusal("IO error: received corrupt message of type InvalidContentType"));
        assert!(!is_refusal("IO error: Connection refused (os error 111)"));
        assert!(!is_refusal("IO error: expected INFO, got nothing"), "a server may be stopping");
    }
}
