//! OpenAPI version 2 as protobuf, which is all that older clients read. Of the messages of
//! <https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto> there is what our document has.

use prost::Message;
use serde_json::Value;

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, tag = "2")]
    info: Option<Info>,
    #[prost(message, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, tag = "9")]
    definitions: Option<Properties>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, tag = "2")]
    get: Option<Operation>,
    #[prost(message, tag = "3")]
    put: Option<Operation>,
    #[prost(message, tag = "4")]
    post: Option<Operation>,
    #[prost(message, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

/// Each of these is one of several; ours are always the one.
#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, tag = "2")]
    non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, tag = "3")]
    query_parameter_sub_schema: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    r#in: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    r#type: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[derive(Clone, PartialEq, Message)]
struct Properties {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, tag = "5")]
    default: Option<Any>,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    r#enum: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, tag = "22")]
    r#type: Option<TypeItem>,
    #[prost(message, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, tag = "25")]
    properties: Option<Properties>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

/// The document as protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let paths =
        entries(&document["paths"]).map(|(name, item)| NamedPathItem { name, value: Some(path(item)) });
    let document = Document {
        swagger: text(&document["swagger"]),
        info: Some(Info {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
        }),
        paths: Some(Paths { path: paths.collect() }),
        definitions: Some(properties(&document["definitions"])),
    };
    document.encode_to_vec()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn entries(value: &Value) -> impl Iterator<Item = (String, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value))
}

fn path(item: &Value) -> PathItem {
    let operation = |method: &str| item.get(method).map(operation);
    PathItem {
        get: operation("get"),
        put: operation("put"),
        post: operation("post"),
        delete: operation("delete"),
        patch: operation("patch"),
    }
}

fn operation(operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let parameters = parameters.map(|parameter| {
        let query = QueryParameter {
            r#in: text(&parameter["in"]),
            name: text(&parameter["name"]),
            r#type: text(&parameter["type"]),
        };
        let parameter = NonBodyParameter { query_parameter_sub_schema: Some(query) };
        ParametersItem { parameter: Some(Parameter { non_body_parameter: Some(parameter) }) }
    });
    Operation {
        operation_id: text(&operation["operationId"]),
        parameters: parameters.collect(),
        vendor_extension: extensions(operation),
    }
}

/// What begins with `x-`. JSON is YAML, too.
fn extensions(value: &Value) -> Vec<NamedAny> {
    let extensions = entries(value).filter(|(name, _)| name.starts_with("x-"));
    extensions.map(|(name, value)| NamedAny { name, value: Some(any(value)) }).collect()
}

fn any(value: &Value) -> Any {
    Any { yaml: value.to_string() }
}

fn properties(value: &Value) -> Properties {
    let schemas = entries(value).map(|(name, value)| NamedSchema { name, value: Some(schema(value)) });
    Properties { additional_properties: schemas.collect() }
}

fn schema(value: &Value) -> Schema {
    let list = |name: &str| value[name].as_array().into_iter().flatten();
    Schema {
        reference: text(&value["$ref"]),
        description: text(&value["description"]),
        default: value.get("default").map(any),
        required: list("required").map(text).collect(),
        r#enum: list("enum").map(any).collect(),
        additional_properties: value
            .get("additionalProperties")
            .map(|of| Box::new(AdditionalProperties { schema: Some(Box::new(schema(of))) })),
        r#type: value.get("type").map(|name| TypeItem { value: vec![text(name)] }),
        items: value.get("items").map(|items| ItemsItem { schema: vec![schema(items)] }),
        properties: value.get("properties").map(properties),
        vendor_extension: extensions(value),
    }
}
