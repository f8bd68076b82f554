//! The file that documents the settings, against the settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use figment::value::{Dict, Value};

use super::super::keys::{CHANNEL_TYPE_KEYS, KEYS, Preset, is_live};
use super::super::{ChannelType, Settings};
use super::Given;

fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/presenced.toml");
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_documented_file_as_it_stands_is_the_defaults() {
    let settings = Given::file(&documented()).load().unwrap();
    assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
}

#[test]
fn the_documented_file_lists_every_setting_with_its_default_and_no_other() {
    let begins_a_setting = |line: &str| {
        line.starts_with('[')
            || line.split(' ').next().is_some_and(|word| {
                word.is_ascii() && !word.is_empty() && line[word.len()..].starts_with(" = ")
            })
    };
    let uncommented: String = documented()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| begins_a_setting(rest)).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut dict: Dict = toml::from_str(&uncommented).unwrap();

    let types = dict.remove("channel_types").unwrap();
    let (_, messaging) = types.into_dict().unwrap().pop_first().unwrap();
    let messaging = messaging.into_dict().unwrap();
    let default = ChannelType::default();
    assert_eq!(
        messaging.keys().collect::<Vec<_>>(),
        ["client_create", "occupancy_interval", "presence"]
    );
    assert_eq!(messaging.len(), CHANNEL_TYPE_KEYS.len());
    assert_eq!(messaging["presence"].to_bool(), Some(default.presence));
    assert_eq!(messaging["client_create"].to_bool(), Some(default.client_create));

    let listed: BTreeSet<_> = dict
        .iter()
        .flat_map(|(section, keys)| {
            keys.as_dict().unwrap().keys().map(move |key| format!("{section}.{key}"))
        })
        .collect();
    assert_eq!(listed, KEYS.iter().map(|(key, _)| (*key).to_owned()).collect());

    let defaults = super::keys::defaults();
    for (key, preset) in KEYS.iter().filter(|(_, preset)| *preset != Preset::Nothing) {
        let (section, name) = key.split_once('.').unwrap();
        let shown = |dict: &Dict| match &dict[section].as_dict().unwrap()[name] {
            Value::Num(_, num) => {
                num.to_i128().unwrap_or_else(|| num.to_u128().unwrap() as i128).to_string()
            }
            Value::Bool(_, flag) => flag.to_string(),
            value => format!("{:?}", (value.as_str(), value.as_array().map(<[_]>::len))),
        };
        assert_eq!(shown(&dict), shown(&defaults), "{key}, {preset:?}");
    }
}

#[test]
fn the_documented_file_marks_what_a_running_daemon_takes_over() {
    let (mut section, mut marked, mut live) = (String::new(), false, BTreeSet::new());
    for line in documented().lines() {
        let uncommented = line.strip_prefix('#').unwrap_or(line);
        if uncommented.starts_with('[') {
            section = uncommented.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = uncommented.split_once(" = ").filter(|(key, _)| is_key(key))
        {
            if std::mem::take(&mut marked) {
                live.insert(format!("{section}.{key}"));
            }
        } else {
            marked = !line.is_empty() && (marked || line.ends_with("(reload)"));
        }
    }
    let known = KEYS.iter().map(|(key, _)| *key).filter(|key| is_live(key));
    assert_eq!(live, known.map(str::to_owned).collect());
}

fn is_key(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
