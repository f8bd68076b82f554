//! Contexts of the `nats` command: files of settings that it and other programs share.
//!
//! Below the folder of settings lie `nats/context/<name>.json`, and `nats/context.txt` with the
//! name of the selected one.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::flags::settings_folder;
use crate::failure::Failure;

/// The content of a context file, under the names in it.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Context {
    pub url: String,
    pub socks_proxy: String,
    pub token: String,
    pub user: String,
    pub password: String,
    pub creds: String,
    pub nkey: String,
    pub cert: String,
    pub key: String,
    pub ca: String,
    pub nsc: String,
    pub inbox_prefix: String,
    pub user_jwt: String,
    pub user_seed: String,
    pub tls_first: bool,
    pub color_scheme: String,
}

/// The output of `nsc generate profile`.
#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    user_creds: String,
    #[serde(default)]
    operator: Operator,
}

#[derive(Default, Deserialize)]
struct Operator {
    #[serde(default)]
    service: Vec<String>,
}

impl Context {
    /// The named context, or the selected one; none where nothing is named and nothing selected.
    pub fn load(name: Option<&str>) -> Result<Self, Failure> {
        let Some(path) = path(name)? else { return Ok(Self::default()) };
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| match name {
            Some(name) if error.kind() == std::io::ErrorKind::NotFound => {
                Failure::context(format!("unknown context {name:?}: there is no {shown}"))
            }
            _ => Failure::context(format!("cannot read the context {shown}: {error}")),
        })?;
        Self::parse(&text)
            .map_err(|error| Failure::context(format!("the context {shown}: {error}")))
    }

    /// Names count in any case, and `null` as nothing, as for the `nats` command.
    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let members: Map<String, Value> = serde_json::from_str(text)?;
        let given = members.into_iter().filter(|(_, value)| !value.is_null());
        let members = given.map(|(name, value)| (name.to_lowercase(), value)).collect();
        serde_json::from_value(Value::Object(members))
    }

    /// Refuses what cannot be done.
    pub fn check(&self) -> Result<(), Failure> {
        if self.socks_proxy.is_empty() {
            return Ok(());
        }
        Err(Failure::context("a SOCKS proxy is named, which is not supported"))
    }

    /// With what `nsc` knows, if the login refers to it.
    pub fn looked_up(mut self) -> Result<Self, Failure> {
        let mut reference = match self.creds.strip_prefix("nsc://") {
            Some(_) => std::mem::take(&mut self.creds),
            None => std::mem::take(&mut self.nsc),
        };
        if reference.is_empty() {
            return Ok(self);
        }
        if !reference.starts_with("nsc://") {
            reference.insert_str(0, "nsc://");
        }
        let output = Command::new("nsc").args(["generate", "profile", &reference]).output();
        let output = output.map_err(|error| {
            Failure::context(format!("the login refers to {reference}; cannot run nsc: {error}"))
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::context(format!("nsc knows no {reference}: {}", said.trim())));
        }
        let profile: Profile = serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::context(format!("cannot read what nsc prints: {error}")))?;
        if self.creds.is_empty() {
            self.creds = profile.user_creds;
        }
        if self.url.is_empty() {
            self.url = profile.operator.service.join(",");
        }
        Ok(self)
    }
}

/// The file of a context.
fn path(name: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    if let Some(name) = name
        && name.ends_with(".json")
        && (name.contains('/') || Path::new(name).is_file())
    {
        return Ok(Some(name.into()));
    }
    let Some(folder) = settings_folder().map(|folder| folder.join("nats")) else {
        return Ok(None);
    };
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let selected = std::fs::read_to_string(folder.join("context.txt")).unwrap_or_default();
            selected.trim().to_owned()
        }
    };
    if name.is_empty() {
        return Ok(None);
    }
    if name.contains("..") || name.contains('/') {
        return Err(Failure::context(format!("{name:?} is no name of a context")));
    }
    Ok(Some(folder.join("context").join(format!("{name}.json"))))
}

/// The path that a setting names: `file://` is dropped, `$NAME` and a leading `~` are replaced.
pub fn expand(path: &str) -> PathBuf {
    let path = variables(path.strip_prefix("file://").unwrap_or(path));
    match (path.strip_prefix('~'), std::env::home_dir()) {
        (Some(rest), Some(home)) => format!("{}{rest}", home.display()).into(),
        _ => path.into(),
    }
}

/// `$NAME` and `${NAME}` replaced; a variable that is not set is empty.
fn variables(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let plain = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
                after.split_at(after.find(plain).unwrap_or(after.len()))
            }
        };
        if name.is_empty() {
            expanded.push('$');
        }
        expanded.push_str(&std::env::var(name).unwrap_or_default());
        rest = behind;
    }
    expanded + rest
}

/// Returns whether a text says where a secret is, other than in a file.
pub fn is_reference(text: &str) -> bool {
    ["env://", "data:", "op://"].iter().any(|scheme| text.starts_with(scheme))
}

/// A secret as it stands, or from where it is: `env://NAME`, `file://PATH`, `op://VAULT/ITEM/FIELD`
/// or `data:;base64,TEXT`.
pub fn secret(text: &str) -> Result<String, Failure> {
    if let Some(data) = text.strip_prefix("data:") {
        return decoded(data).ok_or_else(|| Failure::context("data:… holds no text in base64"));
    }
    if text.starts_with("op://") {
        return from_one_password(text);
    }
    if let Some(name) = text.strip_prefix("env://") {
        return std::env::var(name)
            .map_err(|_| Failure::context(format!("the variable {name} is not set")));
    }
    if text.starts_with("file://") {
        let path = expand(text);
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(text.to_owned())
}

/// The text of a `data:` reference.
fn decoded(data: &str) -> Option<String> {
    let (kind, content) = data.split_once(',')?;
    if !kind.ends_with(";base64") {
        return Some(content.to_owned());
    }
    String::from_utf8(BASE64_STANDARD.decode(content).ok()?).ok()
}

/// Reads a secret with the program of 1Password.
fn from_one_password(reference: &str) -> Result<String, Failure> {
    let output = Command::new("op").args(["read", "--no-newline", reference]).output();
    let output = output.map_err(|error| {
        Failure::context(format!("the login refers to {reference}; cannot run op: {error}"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::context(format!("op knows no {reference}: {}", said.trim())));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| Failure::context(format!("op reads no text from {reference}")))
}

pub fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::context(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_as_the_nats_command_reads_it() {
        let context = Context::parse(r#"{"URL":"nats://x","token":null,"color_scheme":"red"}"#);
        let context = context.unwrap();
        assert_eq!((context.url.as_str(), context.color_scheme.as_str()), ("nats://x", "red"));
        assert!(Context::parse(r#"{"url":7}"#).is_err());
    }

    #[test]
    fn a_secret_may_be_held_by_the_reference_and_is_in_no_message() {
        assert_eq!(secret("data:;base64,aGVsbG8=").unwrap(), "hello");
        assert_eq!(secret("data:,hello").unwrap(), "hello");
        assert_eq!(secret("plain").unwrap(), "plain");
        let error = secret("data:;base64,SUAsecret!").unwrap_err().to_string();
        assert!(!error.contains("SUA"), "{error}");
    }

    #[test]
    fn paths_are_expanded_as_the_nats_command_does() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(expand("~/a.creds"), home.join("a.creds"));
        let cargo = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        assert_eq!(expand("$CARGO_MANIFEST_DIR/a"), PathBuf::from(format!("{cargo}/a")));
        assert_eq!(expand("file://${CARGO_MANIFEST_DIR}a"), PathBuf::from(format!("{cargo}a")));
        assert_eq!(expand("/a/$/b"), PathBuf::from("/a/$/b"));
    }
}
