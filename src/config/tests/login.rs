//! The login of the daemon, and that it stays secret.

use super::super::*;
use super::Given;

const SEED: &str = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";

fn auth(text: &str) -> Auth {
    Given::file(text).load().unwrap().nats.auth
}

#[test]
fn each_way_to_log_in_is_read() {
    let john = Auth::Password { user: "john".to_owned(), password: Secret::new("p@ss") };
    assert_eq!(auth(""), Auth::None);
    assert_eq!(auth("nats.creds = '/a'"), Auth::Creds("/a".into()));
    assert_eq!(auth("nats.nkey = '/a'"), Auth::NkeyFile("/a".into()));
    assert_eq!(auth(&format!("nats.nkey = '{SEED}'")), Auth::NkeySeed(Secret::new(SEED)));
    assert_eq!(auth("nats.user = 'john'\nnats.password = 'p@ss'"), john);
    assert_eq!(auth("nats.url = 'nats://john:p%40ss@host'"), john);
    assert_eq!(auth("nats.token_file = '/a'"), Auth::TokenFile("/a".into()));
    assert_eq!(auth("nats.url = 'nats://t@host'"), Auth::Token(Secret::new("t")));
}

#[test]
fn two_ways_to_log_in_exclude_each_other() {
    assert_eq!(
        Given::file("nats.creds = '/a'").env("PRESENCED_NATS__TOKEN", "t").error(),
        "nats.creds (p.toml) and nats.token (PRESENCED_NATS__TOKEN) are both set, but only one \
         of them may be: the daemon logs in one way"
    );
    let by_url = Given::file("nats.url = 'nats://a:b@h'\nnats.token = 't'").load();
    assert!(matches!(by_url, Err(ConfigError::Exclusive { .. })));
}

#[test]
fn the_customary_login_counts_only_if_there_is_none_of_ours() {
    let customary = |file: &str| {
        let given = Given::file(file).env("NATS_TOKEN", "theirs").env("NATS_CREDS", "");
        given.load().unwrap().nats.auth
    };
    assert_eq!(customary(""), Auth::Token(Secret::new("theirs")));
    assert_eq!(customary("nats.creds = '/a'"), Auth::Creds("/a".into()));
    assert_eq!(customary("nats.url = 'nats://ours@h'"), Auth::Token(Secret::new("ours")));
}

#[test]
fn what_goes_together_is_not_given_alone() {
    for (text, error) in [
        ("nats.user = 'a'", "nats.user (p.toml) is set, but nats.password is not"),
        ("nats.password = 'a'", "nats.password (p.toml) is set, but nats.user is not"),
        ("nats.tls_cert = 'a'", "nats.tls_cert (p.toml) is set, but nats.tls_key is not"),
        ("nats.tls_key = 'a'", "nats.tls_key (p.toml) is set, but nats.tls_cert is not"),
    ] {
        assert_eq!(Given::file(text).error(), format!("{error}: the two go together"));
    }
}

#[test]
fn a_file_of_the_login_that_cannot_be_opened_is_refused() {
    for key in ["creds", "nkey", "token_file", "tls_ca"] {
        let reader = Given::file(&format!("nats.{key} = '/nonexistent/f'")).read().unwrap();
        let nats = Settings::read(&reader).unwrap().nats;
        let error = nats.check_files(&reader).unwrap_err().to_string();
        assert!(error.contains("that can be read: "), "{error}");
        assert!(error.contains("/nonexistent/f"), "{error}");
    }
}

#[test]
fn a_file_without_any_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let path = file.to_str().unwrap();
    let check = |key: &str| {
        let text = format!("nats.{key} = '{path}'\nnats.tls_key = '{path}'\n");
        let text = if key == "tls_ca" { format!("nats.tls_ca = '{path}'") } else { text };
        let reader = Given::file(&text).read().unwrap();
        Settings::read(&reader).unwrap().nats.check_files(&reader)
    };
    for key in ["tls_ca", "tls_cert"] {
        for empty in ["", "no certificate", "-----BEGIN PRIVATE KEY-----"] {
            std::fs::write(&file, empty).unwrap();
            let error = check(key).unwrap_err().to_string();
            assert!(error.starts_with(&format!("nats.{key} ")), "{error}");
            assert!(error.contains("-----BEGIN CERTIFICATE-----"), "{error}");
        }
        std::fs::write(&file, "a comment\n-----BEGIN CERTIFICATE-----").unwrap();
        assert!(check(key).is_ok(), "{key}");
    }
}

#[test]
fn no_secret_shows_in_debug_in_the_listing_or_in_errors() {
    let given = [
        "nats.url = 'nats://john:hunter2@h'".to_owned(),
        "nats.user = 'a'\nnats.password = 'hunter2'".to_owned(),
        "nats.token = 'hunter2'".to_owned(),
        format!("nats.nkey = '{SEED}'"),
    ];
    for text in given {
        let given = Given::file(&text);
        let shown = format!("{:?} {}", given.load().unwrap(), given.read().unwrap().listing());
        assert!(!shown.contains("hunter2") && !shown.contains(SEED), "{shown}");
    }
    for text in [
        "nats.token = ['hunter2']",
        "nats.password = ['hunter2']",
        "nats.nkey = ['hunter2']",
        "nats.url = 'http://john:hunter2@h'",
        "nats.url = ['john:hunter2@h', 'h']",
        "nats.url = 'http://h,nats://john:hunter2@h'",
    ] {
        let error = Given::file(text).error();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
