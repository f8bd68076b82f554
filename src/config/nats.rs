//! The `[nats]` section: the addresses of the servers, the login, TLS.

use std::fs;
use std::path::PathBuf;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

use super::error::ConfigError;
use super::keys::LOGIN;
use super::read::Reader;
use super::secret::Secret;
use super::subjects;

/// The address of NATS and the options of the connection. The login is in `auth`; the addresses
/// carry none.
#[derive(Clone, Debug)]
pub struct Nats {
    pub urls: Vec<ServerAddr>,
    pub auth: Auth,
    /// Certificates of authorities to trust. With this or `tls_identity` set, TLS is required.
    pub tls_ca: Option<PathBuf>,
    pub tls_identity: Option<TlsIdentity>,
    /// Whether TLS begins before the server's first message. TLS is then required.
    pub tls_first: bool,
    /// The prefix of JetStream's API.
    pub js_api: String,
    /// The prefix of reply subjects.
    pub inbox_prefix: String,
}

/// The login of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    None,
    Creds(PathBuf),
    NkeySeed(Secret),
    NkeyFile(PathBuf),
    Password { user: String, password: Secret },
    Token(Secret),
    TokenFile(PathBuf),
}

/// The certificate that the daemon shows to the server, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

const URL_MUST: &str = "one or more addresses of NATS servers, such as \"nats://host:4222\" or \
     \"tls://host:4222\", all with the same login or none";
const NKEY_MUST: &str = "an nkey seed of a user (58 characters that begin with SU) or the path of \
     a file that holds one";

/// The beginning and the length of a seed. Text of that form is never taken for a path.
const SEED_PREFIX: &str = "SU";
const SEED_BYTES: usize = 58;

impl Nats {
    pub(super) fn read(reader: &Reader) -> Result<Self, ConfigError> {
        let (urls, by_url) = read_urls(reader)?;
        Ok(Self {
            urls,
            auth: read_auth(reader, by_url)?,
            tls_first: reader.flag("nats.tls_first")?,
            js_api: subjects::read_js_api(reader)?,
            tls_ca: reader.path("nats.tls_ca")?,
            tls_identity: read_tls_identity(reader)?,
            inbox_prefix: subjects::read(reader, "nats.inbox_prefix")?,
        })
    }

    /// The addresses, fit for a log.
    pub fn servers(&self) -> String {
        self.urls.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>().join(", ")
    }

    /// Refuses files that cannot be used, so that a check finds them before a start does.
    pub(super) fn check_files(&self, reader: &Reader) -> Result<(), ConfigError> {
        let mut files = Vec::new();
        match &self.auth {
            Auth::Creds(path) => files.push(("nats.creds", path)),
            Auth::NkeyFile(path) => files.push(("nats.nkey", path)),
            Auth::TokenFile(path) => files.push(("nats.token_file", path)),
            _ => {}
        }
        files.extend(self.tls_ca.iter().map(|path| ("nats.tls_ca", path)));
        if let Some(TlsIdentity { cert, key }) = &self.tls_identity {
            files.extend([("nats.tls_cert", cert), ("nats.tls_key", key)]);
        }
        for (key, path) in files {
            let what = if key == "nats.nkey" { NKEY_MUST } else { "a file" };
            let text = fs::read(path).map_err(|error| {
                reader.refusal(key, format!("{what} that can be read: {error}"))
            })?;
            let begins = match key {
                "nats.tls_ca" | "nats.tls_cert" => "-----BEGIN CERTIFICATE-----",
                _ => continue,
            };
            if !String::from_utf8_lossy(&text).contains(begins) {
                return Err(reader.refusal(key, format!("a file with a certificate ({begins})")));
            }
        }
        Ok(())
    }
}

/// The addresses, and the login that they carry.
fn read_urls(reader: &Reader) -> Result<(Vec<ServerAddr>, Auth), ConfigError> {
    let wrong = || reader.refusal("nats.url", URL_MUST);
    let mut urls = Vec::new();
    let mut logins = Vec::new();
    for text in reader.texts("nats.url", URL_MUST)? {
        let (url, login) = parse_url(&text).ok_or_else(wrong)?;
        urls.push(url);
        logins.push(login);
    }
    let login = logins.pop().ok_or_else(wrong)?;
    if logins.iter().any(|other| *other != login) {
        return Err(wrong());
    }
    Ok((urls, login))
}

/// Takes the login out of an address, so that it does not appear in logs and `Debug`.
fn parse_url(text: &str) -> Option<(ServerAddr, Auth)> {
    let address: ServerAddr = text.parse().ok()?;
    let host = address.host();
    let plain = matches!(address.scheme(), "nats" | "tls")
        && !host.is_empty()
        // Anything else stands escaped in the host of a parsed address.
        && host.chars().all(|c| c.is_ascii_graphic() && c != '%');
    let login = match (address.username(), address.password()) {
        (None, None) => Auth::None,
        (Some(user), Some(password)) => {
            Auth::Password { user: decode(user)?, password: Secret::new(decode(password)?) }
        }
        (Some(token), None) => Auth::Token(Secret::new(decode(token)?)),
        (None, Some(_)) => return None,
    };
    let mut url = address.into_inner();
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    let address = ServerAddr::from_url(url).ok()?;
    plain.then_some((address, login))
}

fn decode(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

fn read_auth(reader: &Reader, by_url: Auth) -> Result<Auth, ConfigError> {
    const WHY: &str = "the daemon logs in one way";
    let mut found = Vec::new();
    if by_url != Auth::None {
        found.push(("nats.url", by_url));
    }
    let [creds, nkey, user, password, token, token_file] = LOGIN;
    if let Some(path) = reader.path(creds)? {
        found.push((creds, Auth::Creds(path)));
    }
    if let Some(text) = reader.text(nkey, NKEY_MUST)? {
        found.push((nkey, read_nkey(reader, nkey, text.trim())?));
    }
    match (reader.text(user, "text")?, reader.text(password, "text")?) {
        (None, None) => {}
        (Some(user_name), Some(text)) => {
            found.push((user, Auth::Password { user: user_name, password: Secret::new(text) }));
        }
        (Some(_), None) => return Err(incomplete(reader, user, password)),
        (None, Some(_)) => return Err(incomplete(reader, password, user)),
    }
    if let Some(text) = reader.text(token, "text")? {
        found.push((token, Auth::Token(Secret::new(text))));
    }
    if let Some(path) = reader.path(token_file)? {
        found.push((token_file, Auth::TokenFile(path)));
    }
    match (found.pop(), found.pop()) {
        (Some((second, _)), Some((first, _))) => Err(ConfigError::Exclusive {
            first: reader.place(first),
            second: reader.place(second),
            why: WHY,
        }),
        (Some((_, auth)), None) => Ok(auth),
        _ => Ok(Auth::None),
    }
}

fn read_nkey(reader: &Reader, key: &str, text: &str) -> Result<Auth, ConfigError> {
    if text.len() != SEED_BYTES || !text.starts_with(SEED_PREFIX) {
        return Ok(Auth::NkeyFile(reader.file(key, text)?));
    }
    match nkeys::KeyPair::from_seed(text) {
        Ok(_) => Ok(Auth::NkeySeed(Secret::new(text))),
        Err(_) => Err(reader.refusal(key, NKEY_MUST)),
    }
}

fn read_tls_identity(reader: &Reader) -> Result<Option<TlsIdentity>, ConfigError> {
    let (cert, key) = ("nats.tls_cert", "nats.tls_key");
    match (reader.path(cert)?, reader.path(key)?) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(TlsIdentity { cert, key })),
        (Some(_), None) => Err(incomplete(reader, cert, key)),
        (None, Some(_)) => Err(incomplete(reader, key, cert)),
    }
}

fn incomplete(reader: &Reader, present: &str, missing: &'static str) -> ConfigError {
    ConfigError::Incomplete { present: reader.place(present), missing, why: "the two go together" }
}
