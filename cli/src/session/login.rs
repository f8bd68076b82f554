//! Turns a login into options of the connection.

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::{ConnectOptions, ServerAddr};
use nkeys::KeyPair;

use super::context::{Context, expand, is_reference, secret, unreadable};
use super::flags::Flags;
use crate::failure::Failure;

/// Flags over a context. A login that flags give takes the place of the context's, as a whole.
pub fn merge(flags: &Flags, mut context: Context) -> Context {
    let given = |flag: &Option<String>| flag.clone().filter(|value| !value.is_empty());
    let (user, password) = (given(&flags.user), given(&flags.password));
    let logins = [&flags.user, &flags.token, &flags.creds, &flags.nkey, &flags.jwt];
    if logins.into_iter().any(|flag| given(flag).is_some()) {
        let none = Context::default();
        context = Context {
            url: context.url,
            cert: context.cert,
            key: context.key,
            ca: context.ca,
            inbox_prefix: context.inbox_prefix,
            socks_proxy: context.socks_proxy,
            tls_first: context.tls_first,
            color_scheme: context.color_scheme,
            ..none
        };
    }
    match (user, password) {
        (Some(token), None) => context.token = token,
        (user, password) => {
            set(&mut context.user, user);
            set(&mut context.password, password);
        }
    }
    for (setting, flag) in [
        (&mut context.url, &flags.server),
        (&mut context.token, &flags.token),
        (&mut context.creds, &flags.creds),
        (&mut context.nkey, &flags.nkey),
        (&mut context.user_jwt, &flags.jwt),
        (&mut context.user_seed, &flags.seed),
        (&mut context.cert, &flags.tlscert),
        (&mut context.key, &flags.tlskey),
        (&mut context.ca, &flags.tlsca),
        (&mut context.inbox_prefix, &flags.inbox_prefix),
    ] {
        set(setting, given(flag));
    }
    context.tls_first |= flags.tlsfirst;
    context
}

fn set(setting: &mut String, value: Option<String>) {
    if let Some(value) = value {
        *setting = value;
    }
}

/// The options of a connection with this login.
pub fn options(context: &Context, servers: &[ServerAddr]) -> Result<ConnectOptions, Failure> {
    let mut options = with_login(context)?;
    if !has_login(context)
        && let Some(server) = servers.iter().find(|server| server.username().is_some())
    {
        let user = server.username().unwrap_or_default().to_owned();
        options = match server.password() {
            Some(password) => options.user_and_password(user, password.to_owned()),
            None => options.token(user),
        };
    }
    // A file of TLS asks for TLS: the login must not go out in clear text.
    if !context.cert.is_empty() {
        let (cert, key) = (pem(&context.cert)?, pem(&context.key)?);
        options = options.add_client_certificate(cert, key).require_tls(true);
    }
    if !context.ca.is_empty() {
        options = options.add_root_certificates(pem(&context.ca)?).require_tls(true);
    }
    if !context.inbox_prefix.is_empty() {
        options = options.custom_inbox_prefix(&context.inbox_prefix);
    }
    if context.tls_first {
        options = options.tls_first();
    }
    Ok(options)
}

fn has_login(context: &Context) -> bool {
    let logins = [&context.user, &context.creds, &context.nkey, &context.user_jwt, &context.token];
    logins.into_iter().any(|login| !login.is_empty())
}

fn with_login(context: &Context) -> Result<ConnectOptions, Failure> {
    let mut options = ConnectOptions::new();
    if !context.user.is_empty() {
        options = options.user_and_password(context.user.clone(), secret(&context.password)?);
    } else if !context.creds.is_empty() {
        let creds = read(&context.creds)?;
        options = options
            .credentials(&creds)
            .map_err(|error| Failure::context(format!("{}: {error}", named(&context.creds))))?;
    } else if !context.nkey.is_empty() {
        let seed = read(&context.nkey)?;
        options = options.nkey(seed_in(&seed, named(&context.nkey))?);
    } else if !context.user_jwt.is_empty() && context.user_seed.is_empty() {
        // A bearer token: the server wants no signature.
        options = options.jwt(secret(&context.user_jwt)?, |_| async { Ok(Vec::new()) });
    } else if !context.user_jwt.is_empty() {
        let seed = secret(&context.user_seed)?;
        let pair = KeyPair::from_seed(&seed_in(&seed, "the seed of the JWT")?)
            .map_err(|error| Failure::context(format!("the seed of the JWT: {error}")))?;
        let pair = Arc::new(pair);
        options = options.jwt(secret(&context.user_jwt)?, move |nonce| {
            let pair = Arc::clone(&pair);
            async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
        });
    }
    if !context.token.is_empty() {
        options = options.token(secret(&context.token)?);
    }
    Ok(options)
}

/// A reference as messages name it: without the secret that it may hold.
fn named(reference: &str) -> &str {
    if reference.starts_with("data:") { "data:…" } else { reference }
}

/// A file of TLS that is there and holds what such files hold.
fn pem(reference: &str) -> Result<PathBuf, Failure> {
    let path = expand(reference);
    if reference.is_empty() {
        return Err(Failure::context(
            "a certificate of the client needs its key, and a key its file",
        ));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
    if !text.contains("-----BEGIN ") {
        return Err(Failure::context(format!("{} is no PEM file", path.display())));
    }
    Ok(path)
}

/// Reads a file, or the secret that a reference names.
fn read(reference: &str) -> Result<String, Failure> {
    if is_reference(reference) {
        return secret(reference);
    }
    let path = expand(reference);
    std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))
}

/// The seed in a file: the line that begins with `S`.
fn seed_in(text: &str, origin: &str) -> Result<String, Failure> {
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S'));
    let seed = seed.filter(|seed| KeyPair::from_seed(seed).is_ok());
    seed.map(str::to_owned).ok_or_else(|| Failure::context(format!("{origin}: no seed of an nkey")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let text = |text: &str| text.to_owned();
        Context {
            url: text("nats://there"),
            user: text("ann"),
            creds: text("c"),
            ..Context::default()
        }
    }

    #[test]
    fn a_login_of_flags_replaces_that_of_the_context() {
        let flags = Flags { nkey: Some("n".to_owned()), ..Flags::default() };
        let merged = merge(&flags, context());
        assert_eq!(
            (merged.nkey.as_str(), merged.user.as_str(), merged.creds.as_str()),
            ("n", "", "")
        );
        assert_eq!(merged.url, "nats://there");
        let merged = merge(&Flags::default(), context());
        assert_eq!((merged.user.as_str(), merged.creds.as_str()), ("ann", "c"));
    }

    #[test]
    fn a_user_without_a_password_is_a_token() {
        let flags = Flags { user: Some("secret".to_owned()), ..Flags::default() };
        let merged = merge(&flags, Context::default());
        assert_eq!((merged.token.as_str(), merged.user.as_str()), ("secret", ""));
    }
}
