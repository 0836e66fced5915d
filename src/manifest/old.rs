//! Manifests of AdaptDL's own operator for Kubernetes, `adaptdl.petuum.com/v1`: what they say in our words, and a
//! warning for each field that has no meaning here.
//!
//! Their shape is that of `helm/adaptdl-sched/templates/adaptdl-crd.yaml` in AdaptDL's repository: numbers of replicas,
//! and a pod of one container. It is text alone that is translated: no file is looked for.

mod container;
mod lost;

use serde_json::{Map, Value, json};

use super::finding::Finding;
use super::object::SERVER_SET;
use super::path::{Path, Step};
use super::words::found;
use crate::api::API_VERSION;

/// The version that those manifests have.
pub(super) const VERSION: &str = "adaptdl.petuum.com/v1";

/// An old manifest in our words.
pub(super) struct Translated {
    /// Ours.
    pub(super) value: Value,
    /// What has no meaning here, by its path in the old one.
    pub(super) warnings: Vec<Finding>,
    /// What was understood in one way, and could be meant in another.
    pub(super) remarks: Vec<Finding>,
    /// What each name that is to be made begins with.
    pub(super) prefix: Option<String>,
    /// Where each of our values comes from.
    origins: Vec<(Path, Path)>,
}

/// Whether a document is an old manifest.
pub(super) fn is_old(value: &Value) -> bool {
    value["apiVersion"] == VERSION && value["kind"] == "AdaptDLJob"
}

/// Says it in our words.
///
/// # Errors
/// Everything that nobody could run.
pub(super) fn translate(value: &Value) -> Result<Translated, Vec<Finding>> {
    let mut reader = Reader::default();
    let mut fields = Fields::of(value.as_object(), Path::default());
    let (metadata, prefix) = metadata(&mut reader, fields.take("metadata"));
    match fields.take("spec") {
        None => spec(&mut reader, Fields::of(None, Path::of("spec"))),
        Some((value, at)) => {
            if let Some(fields) = reader.map(Some(value), at) {
                spec(&mut reader, fields);
            }
        }
    }
    reader.lose(&mut fields, lost::OBJECT);
    let spec = std::mem::take(&mut reader.spec);
    match reader.errors.is_empty() {
        true => Ok(Translated {
            value: json!({"apiVersion": API_VERSION, "kind": "AdaptDLJob", "metadata": metadata, "spec": spec}),
            warnings: reader.warnings,
            remarks: reader.remarks,
            prefix,
            origins: reader.origins,
        }),
        false => Err(reader.errors),
    }
}

/// Ours of its metadata, and what a name that is to be made begins with.
fn metadata(reader: &mut Reader, given: Option<(&Value, Path)>) -> (Map<String, Value>, Option<String>) {
    let fields = given.and_then(|(value, at)| reader.map(Some(value), at));
    let fields = fields.into_iter().flat_map(|fields| fields.left);
    let kept = fields.filter(|(name, _)| !SERVER_SET.contains(&name.as_str()));
    let mut ours: Map<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(Value::Object(annotations)) = ours.get_mut("annotations") {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    let given = ours.remove("generateName");
    let unnamed = ours.get("name").is_none_or(Value::is_null);
    let prefix = match given {
        Some(Value::String(text)) => (unnamed && !text.is_empty()).then_some(text),
        Some(Value::Null) | None => None,
        Some(other) => {
            let message = format!("must be a string, found {}", found(&other));
            reader.errors.push(Finding::new(Path::of("metadata.generateName"), message));
            None
        }
    };
    (ours, prefix)
}

fn spec(reader: &mut Reader, mut fields: Fields<'_>) {
    // The old operator's defaults.
    reader.spec.insert("minReplicas".to_owned(), json!(0));
    for name in ["minReplicas", "maxReplicas", "preemptible"] {
        if let Some((value, path)) = fields.take(name) {
            reader.say(name, value.clone(), &path);
        }
    }
    let template = fields.take("template");
    reader.lose(&mut fields, &[]);
    let Some((template, path)) = template else {
        let help = "the pod that each worker is";
        reader.errors.push(Finding::new(Path::of("spec"), "must have `template`").at_key().help(help));
        return;
    };
    let Some(mut template) = reader.map(Some(template), path.clone()) else { return };
    let pod = template.take("spec");
    reader.lose(&mut template, lost::TEMPLATE);
    let Some((pod, at)) = pod else {
        reader.errors.push(Finding::new(path, "must have `spec`").at_key());
        return;
    };
    if let Some(pod) = reader.map(Some(pod), at) {
        container::pod(reader, pod);
    }
}

impl Translated {
    /// What was found in ours, said of the old one.
    pub(super) fn of_old(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let old = |path: &Path| {
            let steps = path.steps();
            let known = self.origins.iter().filter(|(ours, _)| steps.starts_with(ours.steps()));
            let known = known.max_by_key(|(ours, _)| ours.steps().len());
            let Some((ours, theirs)) = known else { return path.clone() };
            let rest = steps.get(ours.steps().len()..).unwrap_or_default().iter();
            rest.fold(theirs.clone(), |path, step| match step {
                Step::Key(name) => path.key(name),
                Step::Item(index) => path.item(*index),
            })
        };
        let said = findings.into_iter().map(|finding| {
            let also = finding.also.map(|(path, label)| (old(&path), label));
            Finding { path: old(&finding.path), also, ..finding }
        });
        said.collect()
    }
}

/// What is left of a mapping of the old manifest.
struct Fields<'a> {
    left: Vec<(&'a String, &'a Value)>,
    at: Path,
}

impl<'a> Fields<'a> {
    fn of(fields: Option<&'a Map<String, Value>>, at: Path) -> Self {
        Self { left: fields.into_iter().flatten().collect(), at }
    }

    /// Takes the value of a key, with its path, if there is any.
    fn take(&mut self, name: &str) -> Option<(&'a Value, Path)> {
        let index = self.left.iter().position(|(known, _)| *known == name)?;
        let (name, value) = self.left.remove(index);
        (!value.is_null()).then(|| (value, self.at.key(name)))
    }
}

/// What was understood so far.
#[derive(Default)]
struct Reader {
    spec: Map<String, Value>,
    origins: Vec<(Path, Path)>,
    warnings: Vec<Finding>,
    remarks: Vec<Finding>,
    errors: Vec<Finding>,
}

impl Reader {
    /// The fields of what must be a mapping; nothing if there is nothing.
    fn map<'a>(&mut self, value: Option<&'a Value>, at: Path) -> Option<Fields<'a>> {
        match value? {
            Value::Null => None,
            Value::Object(fields) => Some(Fields::of(Some(fields), at)),
            other => {
                let message = format!("must be a mapping, found {}", found(other));
                self.errors.push(Finding::new(at, message));
                None
            }
        }
    }

    /// The items of what must be a list.
    fn list<'a>(&mut self, value: &'a Value, at: &Path) -> &'a [Value] {
        match value {
            Value::Array(items) => items,
            other => {
                self.errors.push(Finding::new(at.clone(), format!("must be a list, found {}", found(other))));
                &[]
            }
        }
    }

    /// Says something in our spec, and remembers where it comes from.
    fn say(&mut self, field: &str, value: Value, from: &Path) {
        let ours = Path::of("spec").field(field);
        self.origins.push((ours, from.clone()));
        let mut place = &mut self.spec;
        let mut names: Vec<&str> = field.split('.').collect();
        let last = names.pop().unwrap_or_default();
        for name in names {
            let inner = place.entry(name).or_insert_with(|| json!({}));
            let Value::Object(inner) = inner else { return };
            place = inner;
        }
        place.insert(last.to_owned(), value);
    }

    /// Warns of a field.
    fn warn(&mut self, path: Path, why: impl Into<String>) {
        self.warnings.push(Finding::new(path, why).at_key());
    }

    /// Says how a field was understood.
    fn remark(&mut self, path: Path, how: impl Into<String>) {
        self.remarks.push(Finding::new(path, how).at_key());
    }

    /// Warns of everything that is left, as far as it says anything.
    fn lose(&mut self, fields: &mut Fields<'_>, known: &[lost::Lost]) {
        for (name, value) in std::mem::take(&mut fields.left) {
            let empty = match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            match known.iter().find(|(known, _)| known == name) {
                _ if empty => {}
                Some((_, "")) => {}
                Some((_, why)) => self.warn(fields.at.key(name), *why),
                None => self.warn(fields.at.key(name), lost::UNKNOWN),
            }
        }
    }
}
