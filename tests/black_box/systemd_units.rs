//! The units that are shipped, as systemd itself rates them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The path of the installed program.
const INSTALLED: &str = "/usr/bin/presenced";

/// The highest exposure that a unit may have.
const EXPOSURE: f64 = 1.5;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// Runs `systemd-analyze`; `None`, with a note, on a machine without it.
fn analyze(arguments: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!(
                "SKIPPED: there is no systemd-analyze here; install systemd to check the units"
            );
            None
        }
        Err(error) => panic!("systemd-analyze does not run: {error}"),
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for (name, instance) in [
        ("presenced.service", "presenced.service"),
        ("presenced@.service", "presenced@cell-1.service"),
    ] {
        // The program is not installed here; it is where it was built.
        let text = fs::read_to_string(unit(name)).unwrap();
        assert_eq!(text.matches(INSTALLED).count(), 1, "{name}");
        let text = text.replace(INSTALLED, env!("CARGO_BIN_EXE_presenced"));
        fs::write(folder.path().join(name), text).unwrap();
        let path = folder.path().join(instance);
        let Some(output) = analyze(&["verify", "--man=no", path.to_str().unwrap()]) else { return };
        let stderr = String::from_utf8_lossy(&output.stderr);
        let of_ours: Vec<_> = stderr.lines().filter(|line| line.contains("presenced")).collect();
        assert!(output.status.success() && of_ours.is_empty(), "{name}: {stderr}");
    }
}

#[test]
fn the_units_leave_little_exposed() {
    for name in ["presenced.service", "presenced@.service"] {
        let path = unit(name);
        let security = ["security", "--offline=yes", "--no-pager", path.to_str().unwrap()];
        let Some(output) = analyze(&security) else { return };
        let stdout = String::from_utf8_lossy(&output.stdout);
        let overall = stdout.lines().find_map(|line| line.split("exposure level for").nth(1));
        let overall = overall.unwrap_or_else(|| panic!("no figure: {stdout}"));
        let figure = overall.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
        let figure: f64 = figure.unwrap().parse().unwrap();
        println!("{name}: {figure}");
        assert!(figure <= EXPOSURE, "{name} has an exposure of {figure}: {stdout}");
    }
}

#[test]
fn systemd_does_not_give_up_on_a_daemon_that_may_serve_the_next_time() {
    for name in ["presenced.service", "presenced@.service"] {
        let text = fs::read_to_string(unit(name)).unwrap();
        let (head, service) = text.split_once("[Service]").unwrap();
        let has = |section: &str, line: &str| section.lines().any(|each| each == line);
        assert!(has(head, "StartLimitIntervalSec=0"), "{name}");
        assert!(has(service, "Restart=always"), "{name}");
        assert!(has(service, "RestartPreventExitStatus=78"), "{name}");
    }
}

#[test]
fn the_units_differ_only_in_which_settings_they_name() {
    let single = fs::read_to_string(unit("presenced.service")).unwrap();
    let instances = fs::read_to_string(unit("presenced@.service")).unwrap();
    let named = instances.replace("/etc/presenced/%i.toml", "/etc/presenced/presenced.toml");
    assert_eq!(named.replace(" (%i)", ""), single);
    assert_ne!(instances, single);
}
