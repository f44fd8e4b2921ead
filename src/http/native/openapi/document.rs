//! The API's OpenAPI 3.1 document, generated from the handlers.
//!
//! Parts common to all operations are added here: error responses, security, and that responses
//! contain all of their fields. A test compares `docs/openapi.json` with it.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::domain::access::Scope;
use crate::engine::scoped::Read;
use crate::http::caller::access::Access;
use crate::http::caller::session::COOKIE;
use crate::http::native::bodies::problem::ProblemBody;
use crate::http::native::params::NoQuery;
use crate::http::native::problem::{Kind, type_of};
use crate::http::native::{
    deliveries, endpoints, events, nodes, recoveries, secrets, sessions, stats, stream, tokens,
};
use crate::http::probes;
use crate::http::route::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider",
        description = "Webhooks that are not lost. Times are RFC 3339 in UTC with microseconds, ids are opaque, lists are newest first; responses may gain fields. After a 503 the commit may have happened: publish again with your own id.",
        license(name = "MIT OR Apache-2.0")
    ),
    nest(
        (path = "/api/v1", api = events::Api),
        (path = "/api/v1", api = endpoints::Api),
        (path = "/api/v1", api = secrets::Api),
        (path = "/api/v1", api = recoveries::Api),
        (path = "/api/v1", api = deliveries::Api),
        (path = "/api/v1", api = stats::Api),
        (path = "/api/v1", api = stream::Api),
        (path = "/api/v1", api = tokens::Api),
        (path = "/api/v1", api = nodes::Api),
        (path = "/api/v1", api = sessions::SessionsApi),
        (path = "/api/v1", api = Api),
        (path = "/", api = probes::ProbesApi),
    ),
    components(schemas(ProblemBody))
)]
struct OpenApiDoc;

routes!(show);

/// Fields that are not in every response.
const AT_TIMES: [(&str, &str); 3] = [
    ("Endpoint", "secret"),
    ("List", "searched_back_to"),
    ("Problem", "errors"),
];

/// Predicate: the operation can fail with the problem.
type Applies = fn(&Value) -> bool;

/// Problems common to operations, each with the operations that can return it.
const ERROR_RESPONSES: [(Kind, Applies); 11] = [
    (Kind::MalformedJson, has_body),
    (Kind::Unauthorized, is_guarded),
    (Kind::Forbidden, is_guarded),
    (Kind::NotFound, has_path),
    (Kind::RequestTimeout, has_body),
    (Kind::TooLarge, has_body),
    (Kind::UnsupportedMediaType, has_body),
    (Kind::Invalid, |_| true),
    (Kind::TooManyRequests, is_guarded),
    (Kind::Internal, |_| true),
    (Kind::Unavailable, |_| true),
];

fn has_body(operation: &Value) -> bool {
    operation.get("requestBody").is_some()
}

fn has_path(operation: &Value) -> bool {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .into_iter()
        .any(|parameter| parameter["in"] == "path")
}

fn is_guarded(operation: &Value) -> bool {
    operation["security"] != json!([{}])
}

/// The document as served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi().into());

/// Show this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "Operating",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value, example = json!({"openapi": "3.1.0"})))
)]
async fn show(_: Access<Read>, _: NoQuery) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(DOCUMENT.clone())
}

/// Returns the API's OpenAPI 3.1 document as JSON, as `GET /api/v1/openapi.json` serves it.
pub fn openapi() -> String {
    let mut document = serde_json::to_value(OpenApiDoc::openapi()).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description": "The operator's token, or one created with it."},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE,
            "description": "A browser's session (POST /api/v1/session); state-changing requests require its CSRF value in the header x-csrf-token."}
    });
    document["security"] = json!([{"token": []}, {"session": []}]);
    let schemas = document["components"]["schemas"].as_object_mut();
    let schemas = schemas.map(std::mem::take).unwrap_or_default();
    let mut schemas: Map<String, Value> = schemas
        .into_iter()
        .map(|(name, schema)| (name.clone(), mark_required(&name, schema)))
        .collect();
    add_field_constraints(&mut schemas);
    for operation in operations(&mut document) {
        add_error_responses(operation);
        make_body_optional(operation, &schemas);
        add_examples(operation, &schemas);
    }
    document["components"]["schemas"] = schemas.into();
    document["components"]["responses"] = refusals().into();
    format!("{document:#}\n")
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut);
    paths
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
}

/// Adds constraints between the fields of a request, by schema.
fn add_field_constraints(schemas: &mut Map<String, Value>) {
    let null = |name: &str| (name.to_owned(), json!({"type": "null"}));
    let none = |names: &[&str]| Value::Object(names.iter().map(|name| null(name)).collect());
    schemas["NewEvent"]["oneOf"] = json!([
        {"required": ["data"], "properties": none(&["payload", "content_type"])},
        {"required": ["payload", "content_type"], "not": {"required": ["data"]},
         "properties": {"payload": {"type": "string"}, "content_type": {"type": "string"}}}
    ]);
    schemas["NewSession"]["anyOf"] =
        json!([{"properties": none(&["token"])}, {"properties": none(&["portal"])}]);
    schemas["RetryDelays"]["items"]["maximum"] = 604_800.into();
    schemas["HeaderValues"] = json!({
        "description": "Values by name; headers that Postrider sets itself are not allowed.", "type": "object", "maxProperties": 50,
        "propertyNames": {"pattern": "^(?!(host|connection|content-length|content-type|transfer-encoding|te|trailer|upgrade|expect|keep-alive)$|proxy-|webhook-)[a-z0-9!#$%&'*+.^_`|~-]{1,128}$"},
        "additionalProperties": {"type": "string", "maxLength": 8192, "pattern": "^[ -~]*$"}
    });
    // The scope `portal` requires a tenant.
    let others: Vec<&Scope> = Scope::ALL
        .iter()
        .filter(|scope| **scope != Scope::Portal)
        .collect();
    schemas["NewToken"]["anyOf"] = json!([
        {"properties": {"scope": {"enum": others}}},
        {"required": ["tenant"], "properties": {"tenant": {"type": "string"}}}
    ]);
}

/// Marks all fields of a response as required, null or not.
fn mark_required(name: &str, mut schema: Value) -> Value {
    let closed = schema.get("additionalProperties").is_some();
    let parts = schema
        .get("allOf")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    for part in 0..=parts {
        let object = if part == parts {
            &mut schema
        } else {
            &mut schema["allOf"][part]
        };
        let Some(properties) = object.get("properties").and_then(Value::as_object) else {
            continue;
        };
        // The name of a list ends with that of its entries.
        let (name, _) = name.split_once('_').unwrap_or((name, ""));
        let always = |field: &&String| !AT_TIMES.contains(&(name, field.as_str()));
        let required: Vec<String> = properties.keys().filter(always).cloned().collect();
        if !closed && !required.is_empty() {
            object["required"] = required.into();
        }
    }
    schema
}

/// Adds the problems that an operation can return.
fn add_error_responses(operation: &mut Value) {
    for (kind, applies) in ERROR_RESPONSES {
        if !applies(operation) {
            continue;
        }
        let (name, _, status) = kind.parts();
        let present = operation["responses"]
            .as_object()
            .is_some_and(|all| all.contains_key(status.as_str()));
        if !present {
            operation["responses"][status.as_str()] =
                json!({"$ref": format!("#/components/responses/{name}")});
        }
    }
    // The handlers give only descriptions.
    let answers = operation["responses"].as_object_mut().into_iter().flatten();
    for (_, answer) in
        answers.filter(|(status, answer)| !status.starts_with('2') && answer.get("$ref").is_none())
    {
        answer["content"] = problem(None);
    }
}

/// The error responses common to operations.
fn refusals() -> Map<String, Value> {
    let answer = |(kind, _): &(Kind, Applies)| {
        let (name, title, status) = kind.parts();
        let example = json!({"type": type_of(name), "title": title, "status": status.as_u16(), "detail": title});
        (
            name.to_owned(),
            json!({"description": title, "content": problem(Some(example))}),
        )
    };
    ERROR_RESPONSES.iter().map(answer).collect()
}

fn problem(example: Option<Value>) -> Value {
    let mut media = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
    if let Some(example) = example {
        media["example"] = example;
    }
    json!({"application/problem+json": media})
}

/// Makes a body optional if none of its fields is required.
fn make_body_optional(operation: &mut Value, schemas: &Map<String, Value>) {
    let schema = operation
        .pointer("/requestBody/content/application~1json/schema/$ref")
        .and_then(Value::as_str);
    let Some(name) = schema.and_then(|path| path.rsplit('/').next()) else {
        return;
    };
    if schemas[name].get("required").is_none() {
        operation["requestBody"]["required"] = false.into();
    }
}

/// Adds an example to every body: its own, or that of its schema.
fn add_examples(operation: &mut Value, schemas: &Map<String, Value>) {
    let answers = operation
        .get("responses")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let mut places: Vec<String> = answers
        .keys()
        .map(|status| format!("/responses/{status}/content"))
        .collect();
    places.push("/requestBody/content".into());
    for place in places {
        let Some(Value::Object(content)) = operation.pointer_mut(&place) else {
            continue;
        };
        for media in content.values_mut() {
            if media.get("example").is_none()
                && let Some(example) = example(&media["schema"], schemas)
            {
                media["example"] = example;
            }
        }
    }
}

/// Returns the example of a schema, or composes one from its parts.
fn example(schema: &Value, schemas: &Map<String, Value>) -> Option<Value> {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return example(&schemas[name], schemas);
    }
    if let Some(given) = schema.get("example").or_else(|| schema["examples"].get(0)) {
        return Some(given.clone());
    }
    if let Some(Value::Array(parts)) = schema.get("allOf") {
        let parts = parts
            .iter()
            .map(|part| example(part, schemas))
            .collect::<Option<Vec<_>>>()?;
        let fields = parts.into_iter().filter_map(|part| match part {
            Value::Object(fields) => Some(fields),
            _ => None,
        });
        return Some(Value::Object(fields.flatten().collect()));
    }
    let choices = schema
        .get("oneOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let types = schema["type"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if choices.iter().any(|choice| choice["type"] == "null") || types.contains(&json!("null")) {
        return Some(Value::Null);
    }
    if let Some(word) = schema["enum"].get(0) {
        return Some(word.clone());
    }
    if let Some(Value::Object(fields)) = schema.get("properties") {
        let field = |(name, of): (&String, &Value)| Some((name.clone(), example(of, schemas)?));
        return Some(Value::Object(fields.iter().filter_map(field).collect()));
    }
    Some(match schema["type"].as_str()? {
        "array" => Value::Array(example(&schema["items"], schemas).into_iter().collect()),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(0)),
        "boolean" => json!(false),
        "object" => json!({}),
        _ => json!("…"),
    })
}
