//! The rule of ten: whom a watch of a channel follows (`docs/protocol.md`, *watch_channel*).

use crate::presence::id::Id;
use crate::presence::refusal::{Code, Refusal};

/// The most users that one watch of a channel follows.
pub const MAX_WATCHED: usize = 10;

/// The members that a watch follows, and those left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    pub users: Vec<Id>,
    /// Whether members are left out because of the limit, not by choice.
    pub truncated: bool,
    /// The members that are shown and not followed.
    pub not_watched: Vec<Id>,
}

/// Reads which users a watch names: each once, at most ten.
pub fn choose(named: Vec<Id>, field: &str) -> Result<Vec<Id>, Refusal> {
    let mut chosen: Vec<Id> = Vec::new();
    for id in named {
        if !chosen.contains(&id) {
            chosen.push(id);
        }
    }
    if chosen.len() > MAX_WATCHED {
        let message = format!(
            "`{field}` names {} users, and one watch of a channel follows at most {MAX_WATCHED}",
            chosen.len()
        );
        return Err(Refusal::new(Code::TooManyUsers, message)
            .field(field)
            .limit(MAX_WATCHED as u64));
    }
    Ok(chosen)
}

/// The followed members: the chosen ones in order of joining, or the first ten.
/// `shown` is how many members the answer shows.
pub fn watch(members: &[Id], shown: usize, chosen: Option<&[Id]>) -> Result<Watched, Refusal> {
    let Some(chosen) = chosen else {
        let (users, rest) = members.split_at(members.len().min(MAX_WATCHED));
        let not_watched = rest.iter().take(shown.saturating_sub(MAX_WATCHED));
        return Ok(Watched {
            users: users.to_vec(),
            truncated: !rest.is_empty(),
            not_watched: not_watched.cloned().collect(),
        });
    };
    if let Some(stranger) = chosen.iter().find(|id| !members.contains(id)) {
        let message = format!("`users` names {stranger:?}, who is no member of the channel");
        return Err(Refusal::new(Code::InvalidRequest, message).field("users"));
    }
    let users = members.iter().filter(|id| chosen.contains(id)).cloned().collect();
    Ok(Watched { users, truncated: false, not_watched: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<usize>) -> Vec<Id> {
        range.map(|n| Id::parse(&format!("u{n}"), "id").unwrap()).collect()
    }

    #[test]
    fn of_a_larger_channel_the_first_ten_are_followed_and_the_rest_is_named() {
        let watched = watch(&ids(0..25), 100, None).unwrap();
        assert_eq!((watched.users, watched.not_watched), (ids(0..10), ids(10..25)));
        assert!(watched.truncated);
        let watched = watch(&ids(0..25), 12, None).unwrap();
        assert_eq!((watched.users, watched.not_watched), (ids(0..10), ids(10..12)));
        let watched = watch(&ids(0..10), 3, None).unwrap();
        assert_eq!(watched, Watched { users: ids(0..10), ..Watched::default() });
    }

    #[test]
    fn chosen_users_are_followed_in_order_of_joining() {
        let chosen: Vec<_> = ids(3..8).into_iter().rev().collect();
        let watched = watch(&ids(0..25), 100, Some(&chosen)).unwrap();
        assert_eq!(watched, Watched { users: ids(3..8), ..Watched::default() });
    }

    #[test]
    fn eleven_are_too_many_and_a_stranger_is_no_member() {
        let refusal = choose(ids(0..11), "users").unwrap_err();
        assert_eq!((refusal.code, &refusal.details["limit"]), (Code::TooManyUsers, &10.into()));
        assert_eq!(choose([ids(0..10), ids(0..10)].concat(), "users"), Ok(ids(0..10)));
        let refusal = watch(&ids(0..5), 5, Some(&ids(5..6))).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidRequest);
    }
}
