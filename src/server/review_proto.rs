//! Reviews as protobuf, which newer versions of `kubectl auth` send. Of the messages of
//! <https://github.com/kubernetes/api/blob/master/authorization/v1/generated.proto> there is what a question has.

use prost::Message;
use serde_json::{Value, json};

/// What Kubernetes puts before protobuf, to tell it from other things.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, tag = "1")]
    meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Review {
    #[prost(message, tag = "2")]
    spec: Option<Spec>,
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(message, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, tag = "2")]
    non_resource: Option<NonResource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    verb: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(string, tag = "5")]
    resource: String,
    #[prost(string, tag = "6")]
    subresource: String,
}

#[derive(Clone, PartialEq, Message)]
struct NonResource {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    verb: String,
}

/// A review as JSON, or what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or("it does not begin as Kubernetes' protobuf does")?;
    let Envelope { meta, raw } = Envelope::decode(envelope).map_err(|error| error.to_string())?;
    let TypeMeta { api_version, kind } = meta.unwrap_or_default();
    let mut review = json!({"apiVersion": api_version, "kind": kind, "metadata": {}, "spec": {}});
    // What the others have is not asked about.
    if kind != "SelfSubjectAccessReview" {
        return Ok(review);
    }
    let spec = Review::decode(raw.as_slice()).map_err(|error| error.to_string())?.spec.unwrap_or_default();
    if let Some(asked) = spec.resource {
        let Resource { namespace, verb, group, resource, subresource } = asked;
        review["spec"]["resourceAttributes"] = json!({
            "namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        });
    }
    if let Some(NonResource { path, verb }) = spec.non_resource {
        review["spec"]["nonResourceAttributes"] = json!({"path": path, "verb": verb});
    }
    Ok(review)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_question_is_read_and_anything_else_is_refused() {
        let resource =
            Resource { verb: "list".to_owned(), resource: "pods".to_owned(), ..Resource::default() };
        let review = Review { spec: Some(Spec { resource: Some(resource), non_resource: None }) };
        let meta = TypeMeta { api_version: "v1".to_owned(), kind: "SelfSubjectAccessReview".to_owned() };
        let envelope = Envelope { meta: Some(meta), raw: review.encode_to_vec() };
        let bytes = [MAGIC, &envelope.encode_to_vec()].concat();
        let asked = &decode(&bytes).unwrap()["spec"]["resourceAttributes"];
        assert_eq!((&asked["verb"], &asked["resource"]), (&json!("list"), &json!("pods")));
        for end in 0..bytes.len() {
            let _ = decode(&bytes[..end]);
        }
        assert!(decode(b"{}").is_err() && decode(b"k8s\0\xff\xff").is_err());
    }
}
