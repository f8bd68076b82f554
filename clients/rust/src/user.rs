//! A user, as others or the user itself see it.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Custom fields as they stand.
pub type Fields = Map<String, Value>;

/// A type that custom fields can be read as: [`Fields`], or a type of the application.
pub trait CustomFields: DeserializeOwned + PartialEq + Debug + Send + Sync + 'static {}

impl<T: DeserializeOwned + PartialEq + Debug + Send + Sync + 'static> CustomFields for T {}

/// A user. Times are RFC 3339 in UTC with milliseconds, so that their order as text is that in
/// time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Seen<F = Fields> {
    /// The id.
    pub id: String,
    /// Whether the user is connected, or in the grace after the last connection.
    pub online: bool,
    /// The status text.
    pub status: Option<String>,
    /// The time at which the user last connected or was refreshed.
    #[serde(default)]
    pub last_active: Option<String>,
    /// The time at which the user last turned offline; `None` while online.
    #[serde(default)]
    pub offline_since: Option<String>,
    /// `offline`, `active`, `away` or `busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<String>,
    /// The kinds of devices that are connected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// The time at which the status ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_expires_at: Option<String>,
    /// The time at which the user was made. A user whom nobody has made, or who was deleted, has
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The time at which the status or a custom field last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// Grows with each change of what is announced, and never falls.
    pub version: u64,
    /// Whether the user is invisible; only in the user's view of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invisible: Option<bool>,
    /// The availability that the user chose; only in the user's view of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_choice: Option<String>,
    /// Whether others do not see the times; only in the user's view of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hide_last_active: Option<bool>,
    /// Custom fields; as [`Fields`] also what the contract of tomorrow adds.
    #[serde(flatten)]
    pub custom: F,
}

impl<F> Seen<F> {
    /// Returns whether somebody has made the user, and nobody has deleted it since.
    pub fn exists(&self) -> bool {
        self.created_at.is_some()
    }
}

impl Seen {
    /// The custom fields as a type of the application.
    ///
    /// # Errors
    /// The error of serde.
    pub fn fields<F: DeserializeOwned>(&self) -> Result<F, serde_json::Error> {
        serde_json::from_value(Value::Object(self.custom.clone()))
    }

    /// One custom field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.custom.get(name)
    }

    /// The same user with its custom fields as another type; shared if that is [`Fields`].
    pub(crate) fn typed<F: CustomFields>(
        self: &Arc<Self>,
    ) -> Result<Arc<Seen<F>>, serde_json::Error> {
        let shared: Arc<dyn Any + Send + Sync> = self.clone();
        if let Ok(same) = shared.downcast::<Seen<F>>() {
            return Ok(same);
        }
        let custom = self.fields()?;
        let seen = Self::clone(self);
        Ok(Arc::new(Seen {
            custom,
            id: seen.id,
            online: seen.online,
            status: seen.status,
            last_active: seen.last_active,
            offline_since: seen.offline_since,
            availability: seen.availability,
            devices: seen.devices,
            status_expires_at: seen.status_expires_at,
            created_at: seen.created_at,
            updated_at: seen.updated_at,
            version: seen.version,
            invisible: seen.invisible,
            availability_choice: seen.availability_choice,
            hide_last_active: seen.hide_last_active,
        }))
    }
}
