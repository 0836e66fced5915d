//! The JSON Schemas of our kinds, generated from their types: for editors, and for our own reading.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

use crate::api::API_VERSION;
use crate::api::cluster::RayClusterSpec;
use crate::api::job::AdaptDLJobSpec;
use crate::api::meta::ObjectMeta;
use crate::api::object::Kind;
use crate::api::status::{AdaptDLJobStatus, RayClusterStatus};

/// Which JSON Schema they are written in: the one that editors know.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The JSON Schemas, with the names of their files: one of each kind, and one of an object of any kind.
pub fn schemas() -> Vec<(String, Value)> {
    let mut schemas: Vec<_> = Kind::ALL
        .into_iter()
        .map(|kind| (format!("{}.json", kind.singular()), schema(kind).clone()))
        .collect();
    schemas.push(("all.json".to_owned(), any()));
    schemas
}

/// The schema of an object of a kind. It is self-contained: nowhere in it is a reference.
pub(super) fn schema(kind: Kind) -> &'static Value {
    static JOB: LazyLock<Value> = LazyLock::new(|| object::<AdaptDLJobSpec>(Kind::AdaptDLJob));
    static CLUSTER: LazyLock<Value> = LazyLock::new(|| object::<RayClusterSpec>(Kind::RayCluster));
    match kind {
        Kind::AdaptDLJob => &JOB,
        Kind::RayCluster => &CLUSTER,
    }
}

/// The schema of what the controller says of objects of a kind. That is no part of a manifest's: there it is ignored,
/// whatever it is.
pub fn status_schema(kind: Kind) -> Value {
    let mut schema = match kind {
        Kind::AdaptDLJob => part::<AdaptDLJobStatus>(),
        Kind::RayCluster => part::<RayClusterStatus>(),
    };
    schema["description"] = json!("What is. The controller writes it; in a manifest it is ignored.");
    said(&mut schema);
    schema
}

/// Takes out what only concerns somebody who writes: what must be there, and what it is if it is not.
fn said(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| !(name == "required" && value.is_array()) && name != "default");
            fields.values_mut().for_each(said);
        }
        Value::Array(values) => values.iter_mut().for_each(said),
        _ => {}
    }
}

/// The schema of an object of any kind: its `kind` says what else must hold.
fn any() -> Value {
    let names = Kind::ALL.map(Kind::name);
    let rules = Kind::ALL.map(|kind| {
        json!({
            "if": {"required": ["kind"], "properties": {"kind": {"const": kind.name()}}},
            "then": {"$ref": format!("#/definitions/{kind}")},
        })
    });
    let definitions: Value = Kind::ALL
        .into_iter()
        .map(|kind| {
            let mut schema = schema(kind).clone();
            schema.as_object_mut().map(|schema| schema.remove("$schema"));
            (kind.name().to_owned(), schema)
        })
        .collect();
    json!({
        "$schema": DIALECT,
        "title": "Rayconcile",
        "description": "An object of any of Rayconcile's kinds.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"enum": names},
        },
        "allOf": rules,
        "definitions": definitions,
    })
}

fn object<Spec: JsonSchema>(kind: Kind) -> Value {
    let mut metadata = part::<ObjectMeta>();
    metadata["additionalProperties"] = json!(false);
    let mut spec = part::<Spec>();
    let description = spec["description"].take();
    spec["description"] = json!("What is wanted.");
    json!({
        "$schema": DIALECT,
        "title": kind.name(),
        "description": description,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "The version of the kind."},
            "kind": {"const": kind.name(), "description": "What kind of object it is."},
            "metadata": metadata,
            "spec": spec,
            "status": {"description": "What is. The controller writes it; in a manifest it is ignored."},
        },
    })
}

/// The schema of a part of an object, as its type and the documentation of its fields give it.
fn part<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.transforms.push(Box::new(RecursiveTransform(finish)));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}

/// Says in the words of the standard what only the names of Rust's types and of our formats say, and joins
/// the lines of descriptions.
fn finish(schema: &mut schemars::Schema) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    flatten(schema);
    let Some(format) = schema.get("format").and_then(Value::as_str).map(str::to_owned) else {
        return;
    };
    let pattern = match format.as_str() {
        "cpu" => r"^([0-9]+\.?[0-9]*|\.[0-9]+)m?$",
        "bytes" => r"^([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[kMGTPE])?$",
        "dollars" => r"^[0-9]+(\.[0-9]+)?$",
        "duration" => r"^(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ms|s|m|h|d))+)$",
        _ => {
            schema.remove("format");
            let largest = match format.as_str() {
                "uint16" => u64::from(u16::MAX),
                "uint32" => u64::from(u32::MAX),
                "int32" => i32::MAX as u64,
                _ => return,
            };
            if format == "int32" {
                schema.insert("minimum".to_owned(), json!(i32::MIN));
            }
            if schema.get("maximum").is_none() {
                schema.insert("maximum".to_owned(), json!(largest));
            }
            return;
        }
    };
    schema.insert("pattern".to_owned(), json!(pattern));
    if format != "duration" {
        schema.insert("minimum".to_owned(), json!(0));
    }
}

/// Makes of a choice that may be left out, which is any of itself and null, a choice with null as one more variant.
fn flatten(schema: &mut schemars::Schema) {
    let Some([Value::Object(choice), null]) =
        schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
    else {
        return;
    };
    let Some(Value::Array(variants)) = choice.get("oneOf").filter(|_| null["type"] == "null") else { return };
    let variants = [variants.as_slice(), std::slice::from_ref(null)].concat();
    schema.remove("anyOf");
    schema.insert("oneOf".to_owned(), Value::Array(variants));
}
