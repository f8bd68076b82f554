//! The version of this build.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, or `unknown` outside a repository.
pub const COMMIT: &str = env!("PRESENCED_COMMIT");

/// Both, for `--version`.
pub const VERSION_AND_COMMIT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("PRESENCED_COMMIT"), ")");
