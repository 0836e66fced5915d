//! OpenAPI: our schemas as clients of Kubernetes want them, version 2 (as JSON or protobuf) and version 3.
//!
//! `kubectl` validates and explains by it. What JSON Schema can say and OpenAPI cannot is left to admission.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::openapi_proto;
use super::resource::{GROUP, RESOURCES, Resource};
use crate::api::object::Kind;
use crate::manifest::{schemas, status_schema};

/// Where the definition of metadata is.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// What protobuf is called, by those who read it. They ask for it by a name that is none of MIME.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Version 2.
static V2: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "swagger": "2.0",
        "info": {"title": "Rayconcile", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths(),
        "definitions": definitions("#/definitions/", false),
    })
});

/// Version 3, of our group.
static V3: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Rayconcile", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths(),
        "components": {"schemas": definitions("#/components/schemas/", true)},
    })
});

static V2_PROTOBUF: LazyLock<Vec<u8>> = LazyLock::new(|| openapi_proto::encode(&V2));

/// `/openapi/v2`
pub(super) async fn v2(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("protobuf") {
        ([(CONTENT_TYPE, PROTOBUF)], V2_PROTOBUF.as_slice()).into_response()
    } else {
        axum::Json(&*V2).into_response()
    }
}

/// `/openapi/v3`: which groups there are.
pub(super) async fn v3() -> Response {
    let url = format!("/openapi/v3/apis/{GROUP}/v1?hash={}", env!("CARGO_PKG_VERSION"));
    axum::Json(json!({"paths": {format!("apis/{GROUP}/v1"): {"serverRelativeURL": url}}})).into_response()
}

/// `/openapi/v3/apis/GROUP/VERSION`
pub(super) async fn v3_group(Path((group, version)): Path<(String, String)>) -> Result<Response, ApiError> {
    if (group.as_str(), version.as_str()) != (GROUP, "v1") {
        return Err(ApiError::no_such_address());
    }
    Ok(axum::Json(&*V3).into_response())
}

/// The name of a kind's definition.
fn definition(kind: &str) -> String {
    format!("dev.rayconcile.v1.{kind}")
}

fn versioned(kind: &str) -> Value {
    json!({"group": GROUP, "version": "v1", "kind": kind})
}

/// By which addresses objects are changed, and that it can be tried: `kubectl` looks for that.
fn paths() -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES.iter().filter(|resource| resource.group == GROUP) {
        let all = format!("/apis/{GROUP}/v1/namespaces/{{namespace}}/{}", resource.plural);
        let operations = |words: &[(&str, &str)]| -> Value {
            let operations =
                words.iter().map(|(method, verb)| ((*method).to_owned(), operation(resource, verb)));
            Value::Object(operations.collect())
        };
        let one = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
        paths.insert(format!("{all}/{{name}}"), operations(&one));
        paths.insert(all, operations(&[("get", "list"), ("post", "post")]));
    }
    Value::Object(paths)
}

fn operation(resource: &Resource, verb: &str) -> Value {
    let query = |name: &str| json!({"in": "query", "name": name, "type": "string", "uniqueItems": true});
    let mut parameters = Vec::new();
    if !["get", "list"].contains(&verb) {
        parameters = ["dryRun", "fieldManager", "fieldValidation"].map(query).to_vec();
    }
    if verb == "patch" {
        parameters.push(query("force"));
    }
    json!({
        "operationId": format!("{verb}{}", resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": versioned(resource.kind),
    })
}

fn definitions(references: &str, v3: bool) -> Value {
    let mut definitions = Map::new();
    let reference = |name: &str| json!({"$ref": format!("{references}{name}")});
    for (_, schema) in schemas() {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| schema["title"] == kind.name()) else { continue };
        let mut converted = convert(&schema, v3);
        converted["x-kubernetes-group-version-kind"] = json!([versioned(kind.name())]);
        let properties = &mut converted["properties"];
        properties["metadata"] = reference(METADATA);
        for field in ["apiVersion", "kind"] {
            properties[field] =
                json!({"type": "string", "description": schema["properties"][field]["description"]});
        }
        properties["status"] = convert(&status_schema(kind), v3);
        // What another version has said is as good.
        properties["status"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
        definitions.insert(definition(kind.name()), converted);
        let list = json!({
            "type": "object",
            "description": format!("A list of {}.", kind.plural()),
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "items": {"type": "array", "items": reference(&definition(kind.name()))},
            },
            "x-kubernetes-group-version-kind": [versioned(&format!("{kind}List"))],
        });
        definitions.insert(definition(&format!("{kind}List")), list);
    }
    definitions.insert(METADATA.to_owned(), metadata());
    Value::Object(definitions)
}

/// The metadata that any client may send, though most of it is the store's.
fn metadata() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let texts = |description: &str| json!({"type": "object", "description": description, "additionalProperties": {"type": "string"}});
    let objects = json!({"type": "array", "items": {"type": "object"}});
    json!({
        "type": "object",
        "description": "An object's metadata. Name, namespace, labels and annotations are given; the rest is the store's.",
        "properties": {
            "name": text("The object's name: lower-case letters, digits, `-` and `.`, up to 63 characters."),
            "generateName": text("The beginning of a name that is made when the object is."),
            "namespace": text("The namespace it lives in."),
            "labels": texts("Labels, by which objects are selected."),
            "annotations": texts("Annotations, which are not for selecting."),
            "uid": text("Given by the store, once."),
            "generation": {"type": "integer", "description": "Counts the changes of `spec`."},
            "resourceVersion": text("Changes with every change of the object."),
            "creationTimestamp": text("When the store first saw it."),
            "deletionTimestamp": text("When it was asked to go."),
            "deletionGracePeriodSeconds": {"type": "integer"},
            "finalizers": {"type": "array", "items": {"type": "string"}, "description": "What must happen before it goes."},
            "managedFields": objects,
            "ownerReferences": objects,
            "selfLink": text("Not used."),
        },
    })
}

/// A schema as OpenAPI has it.
fn convert(schema: &Value, v3: bool) -> Value {
    let Value::Object(schema) = schema else {
        // `true`: anything.
        return json!({"x-kubernetes-preserve-unknown-fields": true});
    };
    let mut converted = Map::new();
    for name in [
        "description",
        "default",
        "required",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    ] {
        if let Some(value) = schema.get(name).filter(|value| !value.is_null()) {
            converted.insert(name.to_owned(), value.clone());
        }
    }
    types(schema, &mut converted, v3);
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let properties = properties.iter().map(|(name, schema)| (name.clone(), convert(schema, v3)));
        converted.insert("properties".to_owned(), Value::Object(properties.collect()));
    }
    match schema.get("additionalProperties") {
        Some(of @ Value::Object(_)) => {
            converted.insert("additionalProperties".to_owned(), convert(of, v3));
        }
        Some(Value::Bool(true)) => {
            converted.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
        }
        _ => {}
    }
    if let Some(items) = schema.get("items") {
        converted.insert("items".to_owned(), convert(items, v3));
        converted.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
    }
    if let Some(Value::Array(variants)) = schema.get("oneOf").or_else(|| schema.get("anyOf")) {
        choice(variants, &mut converted, v3);
    }
    Value::Object(converted)
}

/// The type, which is one in OpenAPI. What may be several is not looked at there.
fn types(schema: &Map<String, Value>, converted: &mut Map<String, Value>, v3: bool) {
    let mut names = match schema.get("type") {
        Some(Value::String(name)) => vec![name.as_str()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let nullable = names.contains(&"null");
    names.retain(|name| *name != "null");
    match names.as_slice() {
        [name] => {
            converted.insert("type".to_owned(), json!(name));
        }
        // A quantity: bounds and patterns are each for one of its types.
        _ => {
            converted.insert("x-kubernetes-int-or-string".to_owned(), json!(true));
            for name in ["pattern", "minimum", "maximum"] {
                converted.remove(name);
            }
        }
    }
    if nullable && v3 {
        converted.insert("nullable".to_owned(), json!(true));
    }
}

/// A choice: of words it becomes an enumeration, of objects one with the fields of all.
fn choice(variants: &[Value], converted: &mut Map<String, Value>, v3: bool) {
    let words: Vec<&Value> = variants.iter().filter_map(|variant| variant.get("const")).collect();
    if !words.is_empty() {
        converted.insert("type".to_owned(), json!("string"));
        converted.insert("enum".to_owned(), json!(words));
        return;
    }
    let mut properties = Map::new();
    for variant in variants {
        let converted = convert(variant, v3);
        let about = converted["description"].as_str().unwrap_or_default().to_owned();
        for (name, property) in converted["properties"].as_object().into_iter().flatten() {
            let mut property = property.clone();
            if property["description"].is_null() {
                property["description"] = json!(about);
            }
            properties.insert(name.clone(), property);
        }
    }
    if properties.is_empty() {
        return;
    }
    converted.insert("type".to_owned(), json!("object"));
    converted.insert("properties".to_owned(), Value::Object(properties));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place in a document at which a schema says what no OpenAPI can.
    fn foreign(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let is_name = path.ends_with("properties");
                    let bad = ["const", "oneOf", "anyOf", "if", "$schema"].contains(&name.as_str())
                        || (name == "type" && inner.is_array());
                    if bad && !is_name {
                        found.push(format!("{path}/{name}"));
                    }
                    foreign(inner, &format!("{path}/{name}"), found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| foreign(item, path, found)),
            _ => {}
        }
    }

    #[test]
    fn schemas_become_what_openapi_can_say() {
        for document in [&*V2, &*V3] {
            let mut found = Vec::new();
            foreign(document, "", &mut found);
            assert_eq!(found, Vec::<String>::new());
        }
        let spec = &V2["definitions"]["dev.rayconcile.v1.RayCluster"]["properties"]["spec"];
        let provider = &spec["properties"]["provider"];
        assert!(["local", "existing", "aws"].iter().all(|name| provider["properties"][name].is_object()));
        let policy = &V3["components"]["schemas"]["dev.rayconcile.v1.AdaptDLJob"]["properties"]["spec"]["properties"]
            ["scaling"]["properties"]["policy"];
        assert_eq!(policy["enum"], json!(["Goodput", "Fixed"]));
    }
}
