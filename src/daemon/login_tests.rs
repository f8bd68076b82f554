use super::*;

const NOW: Time = Time(1_700_000_000_000);

/// A file of credentials whose token expires at `exp`, in seconds.
fn credentials(exp: i64) -> (tempfile::NamedTempFile, Auth) {
    let claims = BASE64URL_NOPAD.encode(format!(r#"{{"exp":{exp}}}"#).as_bytes());
    let seed = KeyPair::new_user().seed().unwrap();
    let text = format!(
        "-----BEGIN {JWT}-----\ne30.{claims}.c2ln\n------END {JWT}------\n\n\
         -----BEGIN {SEED}-----\n{seed}\n------END {SEED}------\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    let auth = Auth::Creds(file.path().to_owned());
    (file, auth)
}

#[test]
fn a_token_expires_at_its_time_and_one_without_a_time_does_not() {
    let seconds = NOW.0 / 1000;
    for (exp, expired) in [(seconds - 1, true), (seconds, true), (seconds + 1, false), (0, false)] {
        let (_file, auth) = credentials(exp);
        assert_eq!(expired_since(&auth, NOW).is_some(), expired, "{exp}");
    }
}

#[test]
fn credentials_are_read_at_each_answer() {
    let (file, auth) = credentials(0);
    let (other, _) = credentials(1);
    let before = answer(&auth, b"nonce").unwrap().jwt;
    fs::copy(&other, &file).unwrap();
    let after = answer(&auth, b"nonce").unwrap();
    assert_ne!(before, after.jwt);
    assert!(after.signature.is_some());
}

#[test]
fn an_error_names_the_file_and_what_it_lacks() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "no seed").unwrap();
    for (auth, lacks) in [
        (Auth::Creds(file.path().to_owned()), JWT),
        (Auth::NkeyFile(file.path().to_owned()), "nkey seed"),
    ] {
        let error = answer(&auth, b"nonce").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(lacks) && error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(!error.contains("no seed"), "{error}");
    }
}
