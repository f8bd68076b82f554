//! The answer to one callout of nats-server (ADR-26).

use std::time::Duration;

use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::json;

use crate::grant::{Session, permissions};
use crate::jwt::{self, TokenError};

pub struct Login {
    /// The key that nats-server trusts as `issuer`.
    pub issuer: KeyPair,
    /// The key by which the app signs session tokens: its public half is enough.
    pub app: KeyPair,
    /// The account of users' clients.
    pub account: String,
    /// The maximum duration of a login; NATS then cuts the client, which logs in again.
    pub lifetime: Duration,
}

#[derive(Deserialize)]
struct Callout {
    nats: CalloutBody,
}

#[derive(Deserialize)]
struct CalloutBody {
    user_nkey: String,
    server_id: Server,
    connect_opts: ConnectOptions,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

#[derive(Deserialize)]
struct ConnectOptions {
    #[serde(default)]
    auth_token: String,
}

impl Login {
    /// Answers a callout with a user JWT, or with the reason of the refusal, for the server's log.
    pub fn answer(
        &self,
        request: &str,
        now: u64,
    ) -> anyhow::Result<(String, Result<String, TokenError>)> {
        // The server alone publishes in this account: its word needs no check of ours.
        let Callout { nats } = jwt::claims(request)?;
        let session = self.session(&nats.connect_opts.auth_token, now);
        let outcome = match &session {
            Ok(session) => json!({ "jwt": self.user_jwt(session, &nats.user_nkey, now)? }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        let mut body = outcome;
        body["type"] = "authorization_response".into();
        body["version"] = 2.into();
        let claims = json!({
            "iss": self.issuer.public_key(), "sub": nats.user_nkey, "aud": nats.server_id.id,
            "iat": now, "jti": nats.user_nkey, "nats": body,
        });
        Ok((jwt::sign(&claims, &self.issuer)?, session.map(|session| session.sub)))
    }

    fn session(&self, token: &str, now: u64) -> Result<Session, TokenError> {
        let session: Session = jwt::verify(token, &self.app)?;
        if session.exp <= now {
            return Err(TokenError::Expired);
        }
        if session.sub.is_empty() || session.sub.len() > 255 {
            return Err(TokenError::Malformed);
        }
        Ok(session)
    }

    fn user_jwt(&self, session: &Session, user_nkey: &str, now: u64) -> anyhow::Result<String> {
        let mut body = serde_json::to_value(permissions(session))?;
        for limit in ["subs", "data", "payload"] {
            body[limit] = (-1).into();
        }
        body["type"] = "user".into();
        body["version"] = 2.into();
        let claims = json!({
            "iss": self.issuer.public_key(), "sub": user_nkey, "aud": self.account,
            "name": session.sub, "iat": now, "jti": user_nkey,
            "exp": session.exp.min(now + self.lifetime.as_secs()), "nats": body,
        });
        jwt::sign(&claims, &self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_expired_and_foreign_tokens_are_told_apart() {
        let (app, foreign) = (KeyPair::new_account(), KeyPair::new_account());
        let issuer = KeyPair::new_account();
        let session = |exp| Session {
            sub: "john".into(),
            exp,
            sees: vec![],
            sees_all: false,
            counts: vec![],
        };
        let tokens = [
            jwt::sign(&session(100), &app).unwrap(),
            jwt::sign(&session(99), &app).unwrap(),
            jwt::sign(&session(100), &foreign).unwrap(),
            "wrong".to_owned(),
        ];
        let login =
            Login { issuer, app, account: "CLIENTS".into(), lifetime: Duration::from_secs(900) };
        let read = tokens.map(|token| login.session(&token, 99).map(|session| session.sub));
        let expected = [
            Ok("john".to_owned()),
            Err(TokenError::Expired),
            Err(TokenError::Foreign),
            Err(TokenError::Malformed),
        ];
        assert_eq!(read, expected);
    }
}
