//! The availability of a user: its own choice, combined with its connections.

use serde::{Deserialize, Serialize};

/// The availability that a user chose to show while it is online.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The connections decide.
    #[default]
    Auto,
    Away,
    Busy,
}

impl Choice {
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Auto, Self::Away, Self::Busy].into_iter().find(|choice| choice.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Away => "away",
            Self::Busy => "busy",
        }
    }
}

/// The availability that is shown of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Availability {
    #[default]
    Offline,
    Active,
    Away,
    Busy,
}

impl Availability {
    /// The availability of an online user, of whom every connection is idle or not.
    pub fn of(choice: Choice, all_idle: bool) -> Self {
        match choice {
            Choice::Away => Self::Away,
            Choice::Busy => Self::Busy,
            Choice::Auto if all_idle => Self::Away,
            Choice::Auto => Self::Active,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Active => "active",
            Self::Away => "away",
            Self::Busy => "busy",
        }
    }
}
