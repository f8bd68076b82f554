//! JSON web tokens as NATS signs them: ed25519 by an nkey. Signing and checking, nothing else.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed by a key that is not trusted")]
    Foreign,
    #[error("the token has expired")]
    Expired,
}

pub fn sign(claims: &impl Serialize, key: &KeyPair) -> anyhow::Result<String> {
    let body = serde_json::to_vec(claims)?;
    let signed =
        format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&body));
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// Reads the claims of a token that `key` has signed.
pub fn verify<C: DeserializeOwned>(token: &str, key: &KeyPair) -> Result<C, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let signature = decode(signature)?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| TokenError::Foreign)?;
    let (header, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: serde_json::Value =
        serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
    if header["alg"] != "ed25519-nkey" {
        return Err(TokenError::Malformed);
    }
    serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed)
}

/// Reads claims that another check has vouched for.
pub fn claims<C: DeserializeOwned>(token: &str) -> Result<C, TokenError> {
    let body = token.split('.').nth(1).ok_or(TokenError::Malformed)?;
    serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_token_is_read_by_the_key_that_signed_it_and_by_no_other() {
        let (key, other) = (KeyPair::new_account(), KeyPair::new_account());
        let token = sign(&json!({ "sub": "john" }), &key).unwrap();
        assert_eq!(verify::<Value>(&token, &key), Ok(json!({ "sub": "john" })));
        assert_eq!(verify::<Value>(&token, &other), Err(TokenError::Foreign));
        let forged = token.replacen('.', ".e30", 1);
        assert_eq!(verify::<Value>(&forged, &key), Err(TokenError::Foreign));
        assert_eq!(verify::<Value>("nonsense", &key), Err(TokenError::Malformed));
    }
}
