//! The description of the API (OpenAPI 3.1), from the table of methods and the types.

use utoipa::OpenApi as _;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathsBuilder,
    Ref, RefOr, Required, ResponseBuilder, Schema,
};

use crate::api;
use crate::method::{HttpVerb, METHODS, Method};

/// What the table of methods does not say of one.
struct Doc {
    name: &'static str,
    summary: &'static str,
    /// The body that it takes; where it only looks, what follows its path.
    takes: Option<&'static str>,
    /// The status of success, and what comes with it.
    status: &'static str,
    gives: Gives,
}

#[derive(Clone, Copy)]
enum Gives {
    Nothing,
    One(&'static str),
    Many(&'static str),
    Text(&'static str),
    /// A JSON object of somebody else's making.
    Object,
}

const fn doc(
    name: &'static str,
    summary: &'static str,
    takes: Option<&'static str>,
    status: &'static str,
    gives: Gives,
) -> Doc {
    Doc { name, summary, takes, status, gives }
}

const MACHINE: Gives = Gives::One("Machine");
const OPERATION: Gives = Gives::One("Operation");

const DOCS: [Doc; METHODS.len()] = [
    doc("info", "The daemon and its host", None, "200", Gives::One("Info")),
    doc(
        "health",
        "Whether the daemon can do its work, and what is in its way",
        None,
        "200",
        Gives::One("Health"),
    ),
    doc(
        "metrics",
        "Metrics, as Prometheus reads them",
        None,
        "200",
        Gives::Text("application/openmetrics-text"),
    ),
    doc("openapi", "This document", None, "200", Gives::Object),
    doc(
        "events",
        "What happens, as server-sent events whose data are `Event`; the header `last-event-id` goes on behind one",
        None,
        "200",
        Gives::Text("text/event-stream"),
    ),
    doc("machines.list", "All machines", None, "200", Gives::Many("Machine")),
    doc(
        "machines.create",
        "Make a machine; it is not started",
        Some("CreateMachine"),
        "201",
        MACHINE,
    ),
    doc("machines.show", "One machine", None, "200", MACHINE),
    doc("machines.delete", "Delete a machine that is stopped", None, "204", Gives::Nothing),
    doc("machines.start", "Start a machine", None, "202", OPERATION),
    doc(
        "machines.stop",
        "Ask a guest to switch itself off, and end it if it does not",
        Some("Stop"),
        "202",
        OPERATION,
    ),
    doc("machines.kill", "End a machine's process at once", None, "200", MACHINE),
    doc("machines.pause", "Stop a machine's vCPUs", None, "200", MACHINE),
    doc("machines.resume", "Let a machine's vCPUs run again", None, "200", MACHINE),
    doc("machines.power_button", "Press a machine's power button", None, "200", MACHINE),
    doc(
        "machines.snapshot",
        "Save a machine, which goes on as it was",
        Some("TakeSnapshot"),
        "202",
        OPERATION,
    ),
    doc(
        "machines.handover",
        "Give a running machine to a new process",
        Some("HandOver"),
        "202",
        OPERATION,
    ),
    doc(
        "machines.migrate",
        "Move a running machine to another host",
        Some("Migrate"),
        "202",
        OPERATION,
    ),
    doc(
        "machines.migration_check",
        "Whether a machine could move to a host now, what is in the way, and how it would go",
        Some("Migrate"),
        "200",
        Gives::One("MigrationCheck"),
    ),
    doc(
        "machines.resolve",
        "Say that a machine whose move is in doubt may run here, since no other copy of it is alive",
        Some("Resolve"),
        "200",
        MACHINE,
    ),
    doc(
        "machines.forget",
        "Drop what is kept here of the memory of a machine that has left",
        None,
        "204",
        Gives::Nothing,
    ),
    doc(
        "machines.log",
        "What a guest printed lately",
        None,
        "200",
        Gives::Text("application/octet-stream"),
    ),
    doc(
        "machines.console",
        "Attach to a machine's console: `Upgrade: novacron-console`, then bytes in both directions, the past first",
        None,
        "101",
        Gives::Nothing,
    ),
    doc(
        "snapshots.restore",
        "Make a machine of a snapshot, and start it",
        Some("RestoreSnapshot"),
        "202",
        OPERATION,
    ),
    doc(
        "files.pass",
        "Pass files as descriptors: `Upgrade: novacron-files`, then messages of the crate `machine`",
        None,
        "101",
        Gives::Nothing,
    ),
    doc("peers.list", "Other hosts that are known here", None, "200", Gives::Many("Peer")),
    doc(
        "peers.add",
        "Let machines come from a host, and go to it",
        Some("AddPeer"),
        "201",
        Gives::One("Peer"),
    ),
    doc("peers.remove", "Forget a host", None, "204", Gives::Nothing),
    doc(
        "receipts.list",
        "What both hosts of each move have signed, the newest first",
        None,
        "200",
        Gives::Many("Receipt"),
    ),
    doc(
        "receipts.show",
        "What both hosts have signed of the move of one session",
        None,
        "200",
        Gives::One("Receipt"),
    ),
    doc(
        "operations.list",
        "Operations under way, and the last that ended",
        None,
        "200",
        Gives::Many("Operation"),
    ),
    doc(
        "operations.show",
        "One operation; with `wait_ms`, when it has ended or after that time",
        None,
        "200",
        OPERATION,
    ),
    doc(
        "operations.change",
        "Give a move that is under way other limits; it is answered when the move has them, or fails",
        Some("ChangeMove"),
        "200",
        OPERATION,
    ),
    doc(
        "operations.cancel",
        "Ask an operation to end and leave everything as it was",
        None,
        "200",
        OPERATION,
    ),
    doc(
        "shutdown",
        "End the daemon; its machines go on, or are stopped first",
        Some("Shutdown"),
        "202",
        Gives::Nothing,
    ),
];

/// The types, and what they are made of.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(
    api::AddPeer,
    api::ApiError,
    api::CreateMachine,
    api::Event,
    api::HandOver,
    api::Health,
    api::Info,
    api::Machine,
    api::MachineName,
    api::Migrate,
    api::MigrationLimits,
    api::ChangeMove,
    api::MigrationCheck,
    api::Operation,
    api::Peer,
    api::Receipt,
    api::Resolve,
    api::RestoreSnapshot,
    api::Shutdown,
    api::Stop,
    api::TakeSnapshot
)))]
struct Schemas;

/// The document, as it is committed and served.
///
/// # Panics
/// Never: the document has nothing that JSON cannot say.
#[must_use]
pub fn openapi_json() -> String {
    let mut text = document().to_pretty_json().expect("a document is JSON");
    text.push('\n');
    // utoipa 6 spells them in a way of its own; these are the names in OpenAPI's registry of formats.
    text.replace("\"u-int", "\"uint")
}

fn document() -> OpenApi {
    let mut components: Components = Schemas::openapi().components.unwrap_or_default();
    close_variants(&mut components, "Boot");
    let mut paths = PathsBuilder::new();
    for method in &METHODS {
        paths = paths.path(method.path, path_item(method, &components));
    }
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("NovaCron")
        .version("1")
        .description(Some("The control socket: HTTP/1.1 and JSON over a Unix socket."))
        .license(Some(licence));
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths.build())
        .components(Some(components))
        .build()
}

/// Numbers that may follow a method's path, beside what it takes: name and meaning.
const QUERIES: [(&str, &str, &str); 2] = [
    ("events", "last", "Events that were already, to begin with; as far as they are kept"),
    ("operations.show", "wait_ms", "Milliseconds to wait for its end; a minute at most"),
];

/// Says of an enum's variants what `deny_unknown_fields` does to them: utoipa says it of structs alone.
fn close_variants(components: &mut Components, name: &str) {
    let Some(RefOr::T(Schema::OneOf(one_of))) = components.schemas.get_mut(name) else { return };
    for variant in &mut one_of.items {
        if let RefOr::T(Schema::Object(object)) = variant {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// Whether nothing at all will do for a body of this type: every field has a default, and none has to be named.
fn may_be_absent(components: &Components, name: &str) -> bool {
    match components.schemas.get(name) {
        Some(RefOr::T(Schema::Object(object))) => {
            object.required.is_empty() && object.min_properties.is_none()
        }
        _ => false,
    }
}

fn path_item(method: &Method, components: &Components) -> PathItem {
    let doc =
        DOCS.iter().find(|doc| doc.name == method.name).expect("a test says that each has one");
    let role = format!("Takes the role {} or a higher one.", method.role);
    let mut operation = OperationBuilder::new()
        .operation_id(Some(method.name))
        .summary(Some(doc.summary))
        .description(Some(role))
        .response(doc.status, success(doc))
        .response("default", json(ResponseBuilder::new(), "ApiError").description("Why it failed"));
    for parameter in method.path.split('/').filter_map(|part| part.strip_prefix('{')) {
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(parameter.trim_end_matches('}'))
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(parameter_schema(parameter))),
        );
    }
    for (_, name, meaning) in QUERIES.iter().filter(|(of, _, _)| *of == method.name) {
        operation = operation.parameter(query(name, Required::False, Some(*meaning), number()));
    }
    match doc.takes {
        Some(schema) if method.verb == HttpVerb::Get => {
            for parameter in fields(components, schema) {
                operation = operation.parameter(parameter);
            }
        }
        Some(schema) => {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
            let absent = may_be_absent(components, schema);
            let body = RequestBodyBuilder::new()
                .content("application/json", content)
                .required(Some(if absent { Required::False } else { Required::True }));
            operation = operation.request_body(Some(body.build()));
        }
        None => {}
    }
    let verb = match method.verb {
        HttpVerb::Get => HttpMethod::Get,
        HttpVerb::Post => HttpMethod::Post,
        HttpVerb::Patch => HttpMethod::Patch,
        HttpVerb::Delete => HttpMethod::Delete,
    };
    PathItem::new(verb, operation)
}

fn query(
    name: &str,
    required: Required,
    meaning: Option<&str>,
    schema: RefOr<Schema>,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(required)
        .description(meaning)
        .schema(Some(schema))
}

/// The fields of a type, where they follow a path.
fn fields<'a>(
    components: &'a Components,
    name: &str,
) -> impl Iterator<Item = ParameterBuilder> + use<'a> {
    let object = match components.schemas.get(name) {
        Some(RefOr::T(Schema::Object(object))) => Some(object),
        _ => None,
    };
    object.into_iter().flat_map(|object| {
        object.properties.iter().map(|(name, schema)| {
            let mut schema = schema.clone();
            let mut meaning = None;
            if let RefOr::T(Schema::Object(object)) = &mut schema {
                meaning = object.description.take();
                // There, what is absent is not said.
                let said = |kind: &&Type| **kind != Type::Null;
                if let SchemaType::Array(kinds) = &object.schema_type
                    && let Some(kind) = kinds.iter().find(said)
                {
                    object.schema_type = SchemaType::Type(kind.clone());
                }
            }
            let is_required = object.required.contains(name);
            let required = if is_required { Required::True } else { Required::False };
            query(name, required, meaning.as_deref(), schema)
        })
    })
}

fn success(doc: &Doc) -> ResponseBuilder {
    let response = ResponseBuilder::new().description(doc.summary);
    match doc.gives {
        Gives::Nothing => response,
        Gives::One(schema) => json(response, schema),
        Gives::Many(schema) => {
            let array = utoipa::openapi::ArrayBuilder::new().items(Ref::from_schema_name(schema));
            let schema: RefOr<Schema> = array.into();
            response.content("application/json", ContentBuilder::new().schema(Some(schema)).build())
        }
        Gives::Object => {
            let object = ObjectBuilder::new().schema_type(Type::Object);
            let content = ContentBuilder::new().schema(Some(object));
            response.content("application/json", content.build())
        }
        Gives::Text(kind) => {
            let text = ObjectBuilder::new().schema_type(Type::String);
            response.content(kind, ContentBuilder::new().schema(Some(text)).build())
        }
    }
}

fn json(response: ResponseBuilder, schema: &str) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema)));
    response.content("application/json", content.build())
}

fn parameter_schema(parameter: &str) -> RefOr<Schema> {
    if parameter == "name}" {
        return Ref::from_schema_name("MachineName").into();
    }
    ObjectBuilder::new().schema_type(Type::String).into()
}

fn number() -> RefOr<Schema> {
    let format = SchemaFormat::KnownFormat(KnownFormat::UInt64);
    ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).minimum(Some(0)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the committed document is.
    const COMMITTED: &str = include_str!("../../openapi.json");

    #[test]
    fn every_method_is_documented_and_nothing_else() {
        for (method, doc) in METHODS.iter().zip(&DOCS) {
            assert_eq!(method.name, doc.name, "in the same order");
        }
    }

    #[test]
    fn the_committed_document_is_that_of_this_executable() {
        assert!(
            COMMITTED == openapi_json(),
            "the API has changed: novacron api > vmm/control/openapi.json, and look whether it only grew"
        );
    }
}
