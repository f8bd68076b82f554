//! The login of the daemon at each attempt to connect.
//!
//! Files are read at every attempt, as another program may renew them: a JSON web token of short
//! life is replaced before it expires.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_nats::{Auth as Answer, AuthError};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::Deserialize;
use thiserror::Error;

use crate::config::Auth;
use crate::presence::time::Time;

const JWT: &str = "NATS USER JWT";
const SEED: &str = "USER NKEY SEED";

/// The reason why a file holds no login that can be used. No message shows the content.
#[derive(Debug, Error)]
pub enum LoginError {
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} holds no {what} that can be used", path.display())]
    Incomplete { path: PathBuf, what: &'static str },
}

/// The content of a credentials file.
struct Credentials {
    jwt: String,
    key: KeyPair,
}

/// The answer to the challenge `nonce` of a server.
pub fn answer(auth: &Auth, nonce: &[u8]) -> Result<Answer, LoginError> {
    let mut answer = Answer::new();
    match auth {
        Auth::None => {}
        Auth::Creds(path) => {
            let Credentials { jwt, key } = read_credentials(path)?;
            answer.signature = key.sign(nonce).ok();
            answer.jwt = Some(jwt);
        }
        Auth::NkeySeed(seed) => {
            if let Ok(key) = KeyPair::from_seed(seed.reveal()) {
                sign(&mut answer, &key, nonce);
            }
        }
        Auth::NkeyFile(path) => sign(&mut answer, &read_seed(path)?, nonce),
        Auth::Password { user, password } => {
            answer.username = Some(user.clone());
            answer.password = Some(password.reveal().to_owned());
        }
        Auth::Token(token) => answer.token = Some(token.reveal().to_owned()),
        Auth::TokenFile(path) => answer.token = Some(read_token(path)?),
    }
    Ok(answer)
}

/// The same for the client library.
pub fn answer_client(auth: &Auth, nonce: &[u8]) -> Result<Answer, AuthError> {
    answer(auth, nonce).map_err(AuthError::new)
}

/// Since when the login has been expired, if it has. Only a JSON web token can.
pub fn expired_since(auth: &Auth, now: Time) -> Option<Time> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        exp: i64,
    }
    let Auth::Creds(path) = auth else { return None };
    let credentials = read_credentials(path).ok()?;
    let claims = credentials.jwt.split('.').nth(1)?;
    let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    // 0: it does not expire.
    let expires = Time(exp.checked_mul(1000)?);
    (exp > 0 && expires <= now).then_some(expires)
}

fn sign(answer: &mut Answer, key: &KeyPair, nonce: &[u8]) {
    answer.nkey = Some(key.public_key());
    answer.signature = key.sign(nonce).ok();
}

fn read_credentials(path: &Path) -> Result<Credentials, LoginError> {
    let text = read(path)?;
    let missing = |what| LoginError::Incomplete { path: path.to_owned(), what };
    let jwt = section(&text, JWT).ok_or_else(|| missing(JWT))?.to_owned();
    let seed = section(&text, SEED).ok_or_else(|| missing(SEED))?;
    let key = KeyPair::from_seed(seed).map_err(|_| missing(SEED))?;
    Ok(Credentials { jwt, key })
}

fn read_seed(path: &Path) -> Result<KeyPair, LoginError> {
    KeyPair::from_seed(read(path)?.trim())
        .map_err(|_| LoginError::Incomplete { path: path.to_owned(), what: "nkey seed" })
}

fn read_token(path: &Path) -> Result<String, LoginError> {
    let text = read(path)?;
    let token = text.trim();
    let missing = || LoginError::Incomplete { path: path.to_owned(), what: "token" };
    (!token.is_empty()).then(|| token.to_owned()).ok_or_else(missing)
}

fn read(path: &Path) -> Result<String, LoginError> {
    fs::read_to_string(path)
        .map_err(|error| LoginError::Unreadable { path: path.to_owned(), error })
}

/// The line between `-----BEGIN <name>-----` and its end.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}-");
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(&begin)).skip(1);
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
