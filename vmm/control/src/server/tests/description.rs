//! The committed description of the API, as the generator and the judge read it.

use serde_json::Value;

/// The committed document: what callers were told.
const COMMITTED: &str = include_str!("../../../openapi.json");

#[derive(Debug)]
pub(super) struct Description {
    document: Value,
}

/// One call of the API.
#[derive(Clone, Debug)]
pub(super) struct Operation<'a> {
    pub(super) id: &'a str,
    pub(super) verb: String,
    pub(super) path: &'a str,
    pub(super) parameters: Vec<Parameter<'a>>,
    pub(super) body: Option<Body<'a>>,
    responses: &'a Value,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) is_in_path: bool,
    pub(super) is_required: bool,
    pub(super) schema: &'a Value,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a> {
    pub(super) schema: &'a Value,
    pub(super) is_required: bool,
}

impl Description {
    pub(super) fn committed() -> Self {
        Self { document: serde_json::from_str(COMMITTED).unwrap() }
    }

    pub(super) fn operations(&self) -> Vec<Operation<'_>> {
        let mut all = Vec::new();
        for (path, verbs) in self.document["paths"].as_object().unwrap() {
            for (verb, operation) in verbs.as_object().unwrap() {
                all.push(Operation::of(path, verb, operation));
            }
        }
        all
    }

    /// What a `$ref` refers to.
    pub(super) fn resolve(&self, reference: &str) -> &Value {
        let pointer = reference.strip_prefix('#').unwrap();
        self.document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// The schema of that name.
    pub(super) fn schema(&self, name: &str) -> &Value {
        &self.document["components"]["schemas"][name]
    }
}

impl<'a> Operation<'a> {
    fn of(path: &'a str, verb: &str, operation: &'a Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let body = &operation["requestBody"];
        Self {
            id: operation["operationId"].as_str().unwrap(),
            verb: verb.to_uppercase(),
            path,
            parameters: parameters.map(Parameter::of).collect(),
            body: body.is_object().then(|| Body {
                schema: &body["content"]["application/json"]["schema"],
                is_required: body["required"] == true,
            }),
            responses: &operation["responses"],
        }
    }

    /// What is said of an answer with this status: its content types with their schemas. None if nothing is.
    pub(super) fn answer(&self, status: u16) -> Option<&'a Value> {
        let answer = &self.responses[status.to_string()];
        let is_error = status >= 400;
        let answer = if answer.is_null() && is_error { &self.responses["default"] } else { answer };
        (!answer.is_null()).then_some(&answer["content"])
    }
}

impl<'a> Parameter<'a> {
    fn of(parameter: &'a Value) -> Self {
        Self {
            name: parameter["name"].as_str().unwrap(),
            is_in_path: parameter["in"] == "path",
            is_required: parameter["required"] == true,
            schema: &parameter["schema"],
        }
    }
}
