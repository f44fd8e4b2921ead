//! The dashboard: plain HTML, CSS and ES modules, and the routes that serve them.

mod files;

pub(super) use self::files::routes;
