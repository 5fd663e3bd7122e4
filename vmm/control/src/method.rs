//! The methods of the API: one table, from which the router, the permission check, the audit log and the documentation
//! come.

use crate::access::Role;

/// HTTP's verbs that the API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVerb {
    /// Looks.
    Get,
    /// Makes, or does.
    Post,
    /// Changes what is named of something.
    Patch,
    /// Deletes.
    Delete,
}

impl HttpVerb {
    /// As HTTP writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// One call of the API.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name, in metrics, operations and the audit log.
    pub name: &'static str,
    /// The verb.
    pub verb: HttpVerb,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// The least role that may.
    pub role: Role,
    /// Whether it changes anything: then it is in the audit log.
    pub changes: bool,
}

const fn looks(name: &'static str, path: &'static str) -> Method {
    Method { name, verb: HttpVerb::Get, path, role: Role::Viewer, changes: false }
}

const fn does(name: &'static str, path: &'static str) -> Method {
    Method { name, verb: HttpVerb::Post, path, role: Role::Operator, changes: true }
}

/// All of them, as they are documented.
pub const METHODS: [Method; 35] = [
    looks("info", "/v1/info"),
    looks("health", "/v1/health"),
    looks("metrics", "/v1/metrics"),
    looks("openapi", "/v1/openapi.json"),
    looks("events", "/v1/events"),
    looks("machines.list", "/v1/machines"),
    does("machines.create", "/v1/machines"),
    looks("machines.show", "/v1/machines/{name}"),
    Method { verb: HttpVerb::Delete, ..does("machines.delete", "/v1/machines/{name}") },
    does("machines.start", "/v1/machines/{name}/start"),
    does("machines.stop", "/v1/machines/{name}/stop"),
    does("machines.kill", "/v1/machines/{name}/kill"),
    does("machines.pause", "/v1/machines/{name}/pause"),
    does("machines.resume", "/v1/machines/{name}/resume"),
    does("machines.power_button", "/v1/machines/{name}/power-button"),
    does("machines.snapshot", "/v1/machines/{name}/snapshot"),
    does("machines.handover", "/v1/machines/{name}/handover"),
    does("machines.migrate", "/v1/machines/{name}/migrate"),
    // It changes nothing, and slows the guest down for a second.
    Method {
        role: Role::Operator,
        ..looks("machines.migration_check", "/v1/machines/{name}/migrate")
    },
    Method { role: Role::Admin, ..does("machines.resolve", "/v1/machines/{name}/resolve") },
    Method { verb: HttpVerb::Delete, ..does("machines.forget", "/v1/machines/{name}/kept") },
    looks("machines.log", "/v1/machines/{name}/log"),
    // Whoever has the console has the machine: it changes something as soon as a key is pressed.
    Method {
        role: Role::Operator,
        changes: true,
        ..looks("machines.console", "/v1/machines/{name}/console")
    },
    does("snapshots.restore", "/v1/snapshots/restore"),
    does("files.pass", "/v1/files"),
    looks("peers.list", "/v1/peers"),
    Method { role: Role::Admin, ..does("peers.add", "/v1/peers") },
    Method {
        verb: HttpVerb::Delete,
        role: Role::Admin,
        ..does("peers.remove", "/v1/peers/{name}")
    },
    looks("receipts.list", "/v1/receipts"),
    looks("receipts.show", "/v1/receipts/{session}"),
    looks("operations.list", "/v1/operations"),
    looks("operations.show", "/v1/operations/{id}"),
    Method { verb: HttpVerb::Patch, ..does("operations.change", "/v1/operations/{id}") },
    does("operations.cancel", "/v1/operations/{id}/cancel"),
    Method { role: Role::Admin, ..does("shutdown", "/v1/shutdown") },
];

impl Method {
    /// The method of this name.
    ///
    /// # Panics
    /// When there is none: names are written in this crate only.
    #[must_use]
    pub(crate) fn named(name: &str) -> &'static Self {
        METHODS.iter().find(|method| method.name == name).expect("a method of the table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_and_a_verb_on_a_path_mean_one_method() {
        let names: BTreeSet<_> = METHODS.iter().map(|method| method.name).collect();
        let calls: BTreeSet<_> =
            METHODS.iter().map(|method| (method.path, method.verb.name())).collect();
        assert_eq!((names.len(), calls.len()), (METHODS.len(), METHODS.len()));
    }

    #[test]
    fn nobody_who_may_only_look_changes_anything() {
        for method in METHODS {
            assert!(!method.changes || method.role > Role::Viewer, "{}", method.name);
            assert!(method.changes || method.verb == HttpVerb::Get, "{}", method.name);
        }
    }
}
