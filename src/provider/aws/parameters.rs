//! What a cluster has in Systems Manager: Ray's token, for its instances, and its manifest, for a controller that has
//! lost its state directory.

use std::io::{Read as _, Write as _};

use aws_sdk_ssm::types::{ParameterTier, ParameterType, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::client::{CallError, Clients};
use super::pace::Api;
use super::tags::Marks;
use crate::action::EffectError;
use crate::api::cluster::{AuthMode, RayClusterSpec};
use crate::api::ids::Uid;
use crate::api::keepsake::ClusterKeepsake;
use crate::api::meta::{ObjectKey, ObjectMeta};
use crate::provider::rejected;

/// The most that a parameter holds ("AWS Systems Manager endpoints and quotas"); above half of it, it costs something.
const LONGEST_VALUE: usize = 8192;

/// Where a cluster's instances find Ray's token.
const TOKEN: &str = "ray-token";
/// Where whoever has lost everything finds a cluster's manifest.
const MANIFEST: &str = "manifest";

/// The name of a cluster's parameter. It begins with what is known before there is a cluster: so a policy can be written
/// that lets instances read what is their own cluster's. The uid tells it from others of that name.
fn name(cluster: &ObjectKey, uid: &Uid, what: &str) -> String {
    format!("/rayconcile/{}/{}/{uid}/{what}", cluster.namespace, cluster.name)
}

/// The names that a cluster's parameter may have: without its namespace and name, as clusters had it before, too.
fn names(cluster: Option<&ObjectKey>, uid: &Uid, what: &str) -> Vec<String> {
    let named = cluster.map(|cluster| name(cluster, uid, what));
    named.into_iter().chain([format!("/rayconcile/{uid}/{what}")]).collect()
}

/// Puts Ray's token where instances find it; gives the parameter's name.
pub(super) async fn put_token(
    clients: &Clients,
    marks: &Marks<'_>,
    token: &str,
) -> Result<String, EffectError> {
    let name = name(&marks.cluster, marks.uid, TOKEN);
    put(clients, marks, &name, "Ray's token", token, ParameterType::SecureString).await?;
    Ok(name)
}

/// Puts a cluster's manifest where it can be found without any file of ours. Without the right to, and without need of
/// Systems Manager otherwise, the cluster does without.
pub(super) async fn put_manifest(
    clients: &Clients,
    marks: &Marks<'_>,
    metadata: &ObjectMeta,
    spec: &RayClusterSpec,
) -> Result<(), EffectError> {
    let name = name(&marks.cluster, marks.uid, MANIFEST);
    let text = pack(&ClusterKeepsake::of(metadata, spec));
    if text.len() > LONGEST_VALUE {
        tracing::warn!(cluster = %marks.cluster, "its manifest is too long for a parameter of Systems Manager");
        return Ok(());
    }
    let answer = put(clients, marks, &name, "the manifest", &text, ParameterType::String).await;
    unless_needless(answer, spec.auth.mode)
}

/// A parameter that is there cannot be given tags in the same call.
async fn put(
    clients: &Clients,
    marks: &Marks<'_>,
    name: &str,
    what: &str,
    value: &str,
    kind: ParameterType,
) -> Result<(), CallError> {
    let what = format!("put {what} into parameter {name}");
    let tier = ParameterTier::IntelligentTiering;
    let request = clients.ssm.put_parameter().name(name).value(value).r#type(kind).tier(tier);
    // Each has both: that does not fail.
    let tags =
        marks.shared().into_iter().flat_map(|(key, value)| Tag::builder().key(key).value(value).build());
    clients.pace(Api::PutParameter).await;
    let answer = request.clone().set_tags(Some(tags.collect())).send().await;
    match answer.map_err(|error| clients.error(&what, &error)) {
        Err(error) if error.is(&["ParameterAlreadyExists"]) => {}
        answer => return answer.map(|_| ()),
    }
    clients.pace(Api::PutParameter).await;
    let answer = request.overwrite(true).send().await;
    answer.map(|_| ()).map_err(|error| clients.error(&what, &error))
}

/// Ray's token of a cluster, if it has one.
pub(super) async fn token(
    clients: &Clients,
    cluster: Option<&ObjectKey>,
    uid: &Uid,
) -> Result<Option<String>, EffectError> {
    Ok(first(clients, names(cluster, uid, TOKEN)).await?.map(|(_, token)| token))
}

/// The manifest of a cluster, if it is there.
pub(super) async fn manifest(
    clients: &Clients,
    cluster: Option<&ObjectKey>,
    uid: &Uid,
) -> Result<Option<ClusterKeepsake>, EffectError> {
    let Some((name, text)) = first(clients, names(cluster, uid, MANIFEST)).await? else { return Ok(None) };
    let unpacked = unpack(&text).map_err(|reason| {
        rejected(format!("parameter {name} is not understood, give the manifest with -f: {reason}"))
    });
    unpacked.map(Some)
}

/// The first parameter that is there, and what it says.
async fn first(clients: &Clients, names: Vec<String>) -> Result<Option<(String, String)>, EffectError> {
    for name in names {
        if let Some(value) = get(clients, &name).await? {
            return Ok(Some((name, value)));
        }
    }
    Ok(None)
}

async fn get(clients: &Clients, name: &str) -> Result<Option<String>, EffectError> {
    clients.pace(Api::Describe).await;
    let answer = clients.ssm.get_parameter().name(name).with_decryption(true).send().await;
    match answer.map_err(|error| clients.error(&format!("read parameter {name}"), &error)) {
        Err(error) if error.is_not_found() => Ok(None),
        answer => Ok(answer?.parameter.and_then(|parameter| parameter.value)),
    }
}

/// Removes what a cluster has there.
pub(super) async fn delete(
    clients: &Clients,
    cluster: Option<&ObjectKey>,
    uid: &Uid,
    mode: AuthMode,
) -> Result<(), EffectError> {
    for name in [TOKEN, MANIFEST].iter().flat_map(|what| names(cluster, uid, what)) {
        clients.pace(Api::PutParameter).await;
        let answer = clients.ssm.delete_parameter().name(&name).send().await;
        match answer.map_err(|error| clients.error(&format!("delete parameter {name}"), &error)) {
            Err(error) if error.is_not_found() => {}
            answer => unless_needless(answer.map(|_| ()), mode)?,
        }
    }
    Ok(())
}

/// Who makes no tokens needs no rights in Systems Manager.
fn unless_needless(answer: Result<(), CallError>, mode: AuthMode) -> Result<(), EffectError> {
    match answer {
        Err(error) if mode == AuthMode::None && error.is(&["AccessDeniedException"]) => Ok(()),
        answer => Ok(answer?),
    }
}

/// Text that a parameter can hold.
fn pack(manifest: &ClusterKeepsake) -> String {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    // Into memory: that does not fail.
    let _ = packed.write_all(&serde_json::to_vec(manifest).unwrap_or_default());
    STANDARD.encode(packed.finish().unwrap_or_default())
}

fn unpack(text: &str) -> Result<ClusterKeepsake, String> {
    let packed = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let mut json = String::new();
    GzDecoder::new(packed.as_slice()).read_to_string(&mut json).map_err(|error| error.to_string())?;
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn spec(commands: usize) -> RayClusterSpec {
        let commands: Vec<String> =
            (0..commands).map(|number| format!("pip install package-{number}")).collect();
        let instance = json!({"types": ["m5.large"], "image": {"id": "ami-1"}, "setupCommands": commands});
        serde_json::from_value(json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a"]}},
            "head": {"instance": instance},
        }))
        .unwrap()
    }

    #[test]
    fn a_parameter_is_named_by_what_is_known_beforehand_and_found_by_its_old_name_too() {
        let (cluster, uid) = (ObjectKey::new("team", "gpu"), Uid::from("u-1"));
        assert_eq!(name(&cluster, &uid, TOKEN), "/rayconcile/team/gpu/u-1/ray-token");
        let both = ["/rayconcile/team/gpu/u-1/manifest", "/rayconcile/u-1/manifest"];
        assert_eq!(names(Some(&cluster), &uid, MANIFEST), both);
        assert_eq!(names(None, &uid, MANIFEST), both[1..]);
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        let mut metadata = ObjectMeta::named("team", "gpu");
        metadata.labels.insert("a".to_owned(), "b".to_owned());
        let kept = ClusterKeepsake::of(&metadata, &spec(3));
        let text = pack(&kept);
        assert!(text.len() < 4096, "{}", text.len());
        assert_eq!(unpack(&text).unwrap(), kept);
        let restored = kept.restore(Uid::from("u-1"));
        assert_eq!(restored.metadata.key().to_string(), "team/gpu");
        assert_eq!((restored.metadata.uid, restored.spec), (Uid::from("u-1"), spec(3)));
        assert!(unpack("not packed").is_err());
    }

    #[test]
    fn long_manifests_fit() {
        assert!(
            pack(&ClusterKeepsake::of(&ObjectMeta::named("team", "gpu"), &spec(400))).len() < LONGEST_VALUE
        );
    }
}
