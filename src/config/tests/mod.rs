//! The settings as a whole, from layers to errors.

mod again;
mod credentials;
mod documented;
mod login;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::layers::{Environment, gather};
use super::*;

/// Layers to load from, none of them the machine's own.
#[derive(Default)]
struct Given {
    file: String,
    environment: Environment,
    flags: Flags,
}

#[test]
fn an_invisible_character_is_shown() {
    let set = |key, value| Given::default().flag("--set", key, value).error();
    for (key, value, shown) in [
        ("store.bucket", "pre ", r#"store.bucket is "pre " in --set"#),
        ("store.bucket", "pre\u{a0}", r#"store.bucket is "pre\u{a0}" in --set"#),
        ("liveness.lease", "90s\u{200b}", r#"liveness.lease is "90s\u{200b}" in --set"#),
        ("liveness.lease\u{200b}", "90s", r"liveness.lease\u{200b} in --set is not a setting"),
        ("nats.url", "nats://a\u{a0}:4222", r#"nats.url is "nats://a\u{a0}:4222" in --set"#),
    ] {
        let error = set(key, value);
        assert!(error.starts_with(shown), "{error}");
    }
}

impl Given {
    fn file(text: &str) -> Self {
        Self { file: text.to_owned(), ..Self::default() }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags = self.flags.set(flag, key, value);
        self
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        Settings::read(&self.read()?)
    }

    fn read(&self) -> Result<Reader, ConfigError> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, &self.file).unwrap();
        gather(Some(&path), &self.environment, &self.flags)
    }

    /// The message of the error, with `p.toml` for the path of the file.
    fn error(&self) -> String {
        let message = self.load().expect_err("refused").to_string();
        let words = message.split_inclusive(' ').map(|word| match word.find("p.toml") {
            Some(at) if word.starts_with(['/', '(']) => {
                let bracket = if word.starts_with('(') { "(" } else { "" };
                format!("{bracket}{}", &word[at..])
            }
            _ => word.to_owned(),
        });
        words.collect()
    }
}

#[test]
fn the_higher_layer_wins_from_customary_variables_to_flags() {
    let customary = Given::default().env("NATS_URL", "nats://customary");
    assert_eq!(customary.load().unwrap().nats.servers(), "nats://customary");

    let mut given = Given { file: "nats.url = 'nats://file'".to_owned(), ..customary };
    assert_eq!(given.load().unwrap().nats.servers(), "nats://file");

    given = given.env("PRESENCED_NATS__URL", "nats://a, tls://b:99");
    assert_eq!(given.load().unwrap().nats.servers(), "nats://a, tls://b:99");

    given = given.flag("--nats-url", "nats.url", "nats://flag");
    assert_eq!(given.load().unwrap().nats.servers(), "nats://flag");
}

#[test]
fn the_environment_gives_numbers_lists_flags_and_text_of_digits() {
    let settings = Given::default()
        .env("PRESENCED_STORE__REPLICAS", "3")
        .env("PRESENCED_LIMITS__TRUSTED_FIELDS", "[role, team]")
        .env("PRESENCED_CHANNEL_TYPES__MESSAGING__CLIENT_CREATE", "true")
        .env("PRESENCED_NATS__TOKEN", "12345")
        .env("PRESENCED_PORT", "tcp://10.0.0.1:80")
        .load()
        .unwrap();
    assert_eq!(settings.store.replicas, 3);
    assert_eq!(settings.limits.trusted_fields, ["role", "team"].map(str::to_owned).into());
    assert!(settings.channel_type("messaging").client_create);
    assert_eq!(settings.channel_type("livestream"), ChannelType::default());
    assert_eq!(settings.nats.auth, Auth::Token(Secret::new("12345")));
}

#[test]
fn a_file_that_was_named_must_exist() {
    let path = PathBuf::from("/nonexistent/p.toml");
    let error = Settings::load(Some(&path), Flags::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().starts_with("/nonexistent/p.toml cannot be read: "), "{error}");
}

#[test]
fn broken_toml_is_named_by_line_without_quoting_it() {
    let error = Given::file("[nats]\npassword = hunter2\n").error();
    assert!(error.starts_with("p.toml is not valid TOML: line 2, column 12: "), "{error}");
    assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
}

#[test]
fn what_does_not_exist_is_refused_with_what_does() {
    assert_eq!(
        Given::file("[log]\nlevle = 'info'").error(),
        "log.levle in p.toml is not a setting; known here as a key: level, format"
    );
    assert_eq!(
        Given::file("[logs]").error(),
        "logs in p.toml is not a setting; known here as a section: nats, subjects, store, \
         liveness, users, limits, log, metrics, runtime, channel_types"
    );
    assert_eq!(
        Given::file("channel_types.x.y = 1").error(),
        "channel_types.x.y in p.toml is not a setting; known here as a key: presence, \
         client_create, occupancy_interval"
    );
    assert_eq!(
        Given::default().env("PRESENCED_NATS__ULR", "x").error(),
        "nats.ulr in PRESENCED_NATS__ULR is not a setting; known here as a key: url, creds, nkey, \
         user, password, token, token_file, tls_first, tls_ca, tls_cert, tls_key, inbox_prefix, \
         js_domain, js_api_prefix"
    );
    assert_eq!(
        Given::default().env("PRESENCED_LOG_LEVEL", "x").error(),
        "PRESENCED_LOG_LEVEL in the environment is not a setting; log.level is \
         PRESENCED_LOG__LEVEL"
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_is_accepted() {
    assert_eq!(
        Given::file("liveness.lease = '30s'").error(),
        "liveness.lease is \"30s\" in p.toml, but must be at least 2 × \
         liveness.heartbeat_interval (40s)"
    );
    assert_eq!(
        Given::file("").env("PRESENCED_STORE__REPLICAS", "many").error(),
        "store.replicas is \"many\" in PRESENCED_STORE__REPLICAS, but must be a whole number from \
         1 to 5"
    );
    assert_eq!(
        Given::default().flag("--log-format", "log.format", "yaml").error(),
        "log.format is \"yaml\" in --log-format, but must be \"text\" or \"json\""
    );
    assert_eq!(
        Given::file("nats = 5").error(),
        "nats is a single value in p.toml, but must be a section: [nats]"
    );
    let must = "a duration from \"200ms\" to \"1day\", such as \"20s\"";
    assert_eq!(
        Given::file("liveness.lease = 60").error(),
        format!("liveness.lease is 60 in p.toml, but must be {must}")
    );
}

#[test]
fn each_impossible_value_is_refused() {
    for (text, key) in [
        ("nats.url = []", "nats.url"),
        ("nats.url = ''", "nats.url"),
        ("nats.url = 'http://host'", "nats.url"),
        ("nats.url = ['nats://a', 5]", "nats.url"),
        ("nats.url = ['nats://a:b@h', 'nats://c:d@h']", "nats.url"),
        ("nats.inbox_prefix = '_INBOX.>'", "nats.inbox_prefix"),
        ("nats.inbox_prefix = 'presence.v1.inbox'", "nats.inbox_prefix"),
        ("nats.nkey = 'SUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'", "nats.nkey"),
        ("subjects.prefix = '$SYS'", "subjects.prefix"),
        ("subjects.prefix = 'a..b'", "subjects.prefix"),
        ("subjects.prefix = 'a.*'", "subjects.prefix"),
        ("subjects.prefix = 'presence.internal'", "subjects.prefix"),
        ("subjects.events = 'presence'", "subjects.events"),
        ("subjects.events = 'presence.v1.changed'", "subjects.events"),
        ("subjects.events = 'presence.internal.v1'", "subjects.events"),
        ("subjects.channel_events = 'user'", "subjects.channel_events"),
        ("users.forget_after = 'never'", "users.forget_after"),
        ("users.forget_after = '10ms'", "users.forget_after"),
        ("store.bucket = 'a.b'", "store.bucket"),
        ("store.replicas = 0", "store.replicas"),
        ("store.replicas = 1.5", "store.replicas"),
        ("store.storage = 'disk'", "store.storage"),
        ("liveness.heartbeat_interval = '1ms'", "liveness.heartbeat_interval"),
        ("liveness.offline_grace = '2h'", "liveness.offline_grace"),
        ("liveness.last_active_refresh = 'often'", "liveness.last_active_refresh"),
        ("limits.request_timeout = '0s'", "limits.request_timeout"),
        ("limits.connections_per_user = -1", "limits.connections_per_user"),
        ("limits.trusted_fields = ['online']", "limits.trusted_fields"),
        ("limits.trusted_fields = ['$x']", "limits.trusted_fields"),
        ("limits.trusted_fields = [1]", "limits.trusted_fields"),
        ("limits.pending_requests = 0", "limits.pending_requests"),
        ("limits.concurrent_scans = 0", "limits.concurrent_scans"),
        ("limits.pending_scans = 0", "limits.pending_scans"),
        ("channel_types.'a:b'.presence = true", "channel_types"),
        ("channel_types.a.presence = 'yes'", "channel_types.\"a\".presence"),
        ("channel_types.a.occupancy_interval = '1ms'", "channel_types.\"a\".occupancy_interval"),
        (
            "channel_types.a = { presence = false, occupancy_interval = '1s' }",
            "channel_types.\"a\".occupancy_interval",
        ),
        ("log.level = 'verbose'", "log.level"),
        ("log.level = 'info,presenced=loud'", "log.level"),
        ("log.format = 'xml'", "log.format"),
        ("metrics.listen = '9464'", "metrics.listen"),
    ] {
        let error = Given::file(text).error();
        assert!(error.starts_with(&format!("{key} is ")), "{text}: {error}");
    }
}

#[test]
fn a_prefix_of_subjects_with_a_typo_is_refused_with_what_is_accepted() {
    for key in ["nats.inbox_prefix", "subjects.prefix", "subjects.events"] {
        for typo in ["_INBOX.", ".a", "a.>", "a.*", "a b", "a ", " a", "a\t", "a\u{a0}", "a..b"] {
            let expected = format!(
                "{key} is {typo:?} in --set, but must be a subject of tokens in [A-Za-z0-9_-] \
                 between dots, without blanks, wildcards or a dot at either end, at most 128 bytes"
            );
            assert_eq!(Given::default().flag("--set", key, typo).error(), expected);
        }
    }
}

#[test]
fn a_time_after_which_users_are_forgotten_is_refused_with_the_least_one() {
    for wrong in ["'never'", "'10ms'", "'90 fortnights'", "90", "''", "'1000years'"] {
        assert_eq!(
            Given::file(&format!("users.forget_after = {wrong}")).error(),
            format!(
                "users.forget_after is {} in p.toml, but must be a duration from \"1s\" to \
                 \"100years\", such as \"90days\"",
                wrong.replace('\'', "\"")
            )
        );
    }
}

#[test]
fn a_grace_of_zero_is_accepted() {
    let settings = Given::file("liveness.offline_grace = '0s'").load().unwrap();
    assert_eq!(settings.liveness.offline_grace, Duration::ZERO);
}
