//! In which form an answer is given: as it is, as a table for people, or only its metadata. The client says so in
//! `Accept`.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::resource::Resource;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Whole,
    /// A table, with so much of each object beside its row.
    Table(Include),
    /// Only metadata.
    Metadata,
}

/// What of an object is beside its row in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Form {
    /// The form that is wanted.
    pub(super) fn of(headers: &HeaderMap, include: Option<&str>) -> Result<Self, ApiError> {
        let include = match include {
            None | Some("" | "Metadata") => Include::Metadata,
            Some("Object") => Include::Object,
            Some("None") => Include::None,
            Some(other) => {
                let message = format!("includeObject is None, Metadata or Object, not {other:?}");
                return Err(ApiError::bad_request(message));
            }
        };
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        // In the order of preference, which no client of Kubernetes says by weights.
        for kind in accept.split(',') {
            let mut parts = kind.split(';').map(str::trim);
            let base = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.collect();
            let has = |parameter: &str| parameters.contains(&parameter);
            if !is_json(base) {
                continue;
            }
            match parameters.iter().find_map(|parameter| parameter.strip_prefix("as=")) {
                None => return Ok(Self::Whole),
                Some("Table") if has("g=meta.k8s.io") && has("v=v1") => return Ok(Self::Table(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList")
                    if has("g=meta.k8s.io") && has("v=v1") =>
                {
                    return Ok(Self::Metadata);
                }
                Some(_) => {}
            }
        }
        Ok(Self::Whole)
    }

    /// One object.
    pub(super) fn one(self, resource: &Resource, object: Value) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => partial(&object),
            Self::Table(include) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table(resource, std::slice::from_ref(&object), include, metadata, true)
            }
        }
    }

    /// A list.
    pub(super) fn list(self, resource: &Resource, items: Vec<Value>, metadata: Value) -> Value {
        match self {
            Self::Whole => json!({
                "apiVersion": resource.api_version(),
                "kind": format!("{}List", resource.kind),
                "metadata": metadata,
                "items": items,
            }),
            Self::Metadata => json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadataList",
                "metadata": metadata,
                "items": items.iter().map(partial).collect::<Vec<_>>(),
            }),
            Self::Table(include) => table(resource, &items, include, metadata, true),
        }
    }

    /// What is told of a change. Only the first table of a watch has its columns described.
    pub(super) fn event(self, resource: &Resource, word: &str, object: Value, first: bool) -> Value {
        let object = match self {
            Self::Table(include) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table(resource, std::slice::from_ref(&object), include, metadata, first)
            }
            _ => self.one(resource, object),
        };
        json!({"type": word, "object": object})
    }
}

fn partial(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

fn table(resource: &Resource, items: &[Value], include: Include, metadata: Value, header: bool) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let cells = (resource.cells)(item, now).into_iter();
            let cells = cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell });
            let mut row = Map::from_iter([("cells".to_owned(), cells.collect())]);
            match include {
                Include::None => {}
                Include::Metadata => drop(row.insert("object".to_owned(), partial(item))),
                Include::Object => drop(row.insert("object".to_owned(), item.clone())),
            }
            Value::Object(row)
        })
        .collect();
    let columns: Vec<Value> = resource
        .columns
        .iter()
        .map(|column| {
            // Clients find an object's name by this.
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name,
                "type": "string",
                "format": format,
                "description": column.description,
                "priority": i32::from(column.wide),
            })
        })
        .collect();
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": metadata,
        "columnDefinitions": if header { json!(columns) } else { json!([]) },
        "rows": rows,
    })
}

fn is_json(base: &str) -> bool {
    matches!(base, "" | "*/*" | "application/*" | "application/json")
}

/// Refuses who takes nothing that is given here.
pub(super) async fn acceptable(request: Request, next: Next) -> Response {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let takes = |base: &str| is_json(base) || matches!(base, "text/*" | "text/plain");
    let bases = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let openapi = request.uri().path().starts_with("/openapi/");
    if openapi || bases.into_iter().any(takes) {
        return next.run(request).await;
    }
    ApiError::not_acceptable(format!("answers are application/json, not {accept}")).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_form_that_is_known_is_given() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Form::of(&headers, None).unwrap()
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(form(&format!("{table},application/json")), Form::Table(Include::Metadata));
        assert_eq!(form(&format!("application/json,{table}")), Form::Whole);
        assert_eq!(form("application/json;as=Table;v=v9;g=meta.k8s.io,application/json"), Form::Whole);
        assert_eq!(form("application/json; as=PartialObjectMetadata; g=meta.k8s.io; v=v1"), Form::Metadata);
        assert_eq!(form("*/*"), Form::Whole);
    }
}
