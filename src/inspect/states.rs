//! What AdaptDL's states are called, and what is in them: each writes one file of a checkpoint, as
//! `adaptdl.checkpoint.State` has it. Of any other file the names are its own.

use serde_json::{Value as Json, json};

use super::leaves::{Leaves, below};
use super::pickle::{Id, Pickle, Value};
use super::torch::Storages;

/// What `adaptdl.torch._metrics` pickles, one after the other.
const METRICS: [&str; 8] = [
    "profile",
    "perfParams",
    "gradParams",
    "initBatchSize",
    "maxBatchSize",
    "localBatchSizeBounds",
    "gradientAccumulation",
    "progress",
];
/// What `adaptdl.torch.parallel` saves: of each part the state.
const PARTS: [&str; 4] = ["model", "optimizer", "lrScheduler", "gradScaler"];
/// What `adaptdl.torch.data` saves.
const POSITION: [&str; 3] = ["index", "end", "lastPosition"];
/// What `adaptdl.torch.accumulator` saves.
const ACCUMULATED: [&str; 2] = ["history", "results"];
const PERF_PARAMS: [&str; 7] = ["alphaC", "betaC", "alphaN", "betaN", "alphaR", "betaR", "gamma"];
const GRAD_PARAMS: [&str; 2] = ["norm", "var"];

/// What AdaptDL takes for the variance of gradients at least.
const SMALLEST_VARIANCE: f64 = 1e-6;
/// The name that `AdaptiveDataParallel` has if its user gives it none.
const DATA_PARALLEL: &str = "adaptdl-dataparallel";

/// How the names of what is in a file begin. AdaptDL's files have names of their own, and what everyone has, none.
pub(super) fn prefix(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    if [DATA_PARALLEL, "adaptdl-metrics", ".adaptdl-epoch"].contains(&file) {
        return String::new();
    }
    if let Some(which) = file.strip_prefix("adaptdl-dataloader-epoch") {
        return format!("loader.{which}");
    }
    if let Some(which) = file.strip_prefix("adaptdl-accumulator-epoch") {
        return format!("accumulator.{which}");
    }
    let stem = ["pt", "pth", "bin", "pkl", "safetensors"]
        .iter()
        .find_map(|end| name.strip_suffix(end)?.strip_suffix('.').filter(|stem| !stem.is_empty()));
    stem.unwrap_or(name).to_owned()
}

/// Lists what is in the pickles of a file.
pub(super) fn list(name: &str, prefix: &str, pickles: &[Pickle], storages: &Storages, leaves: &mut Leaves) {
    let file = name.rsplit('/').next().unwrap_or(name);
    match pickles {
        [epochs] if file == ".adaptdl-epoch" => walk(epochs, storages, epochs.root, "epoch", leaves),
        all if file == "adaptdl-metrics" && all.len() == METRICS.len() => {
            for (pickle, part) in all.iter().zip(METRICS) {
                metric(pickle, storages, part, leaves);
            }
        }
        [position] if file.starts_with("adaptdl-dataloader-") => {
            parts(position, storages, position.root, prefix, &POSITION, leaves);
        }
        [accumulated] if file.starts_with("adaptdl-accumulator-") => {
            parts(accumulated, storages, accumulated.root, prefix, &ACCUMULATED, leaves);
        }
        [saved] if let Some([states, gain, factor]) = data_parallel(saved) => {
            parts(saved, storages, states, prefix, &PARTS, leaves);
            walk(saved, storages, gain, &below(prefix, "gain"), leaves);
            walk(saved, storages, factor, &below(prefix, "lrFactor"), leaves);
        }
        [one] => walk(one, storages, one.root, prefix, leaves),
        many => {
            for (index, pickle) in many.iter().enumerate() {
                walk(pickle, storages, pickle.root, &below(prefix, &index.to_string()), leaves);
            }
        }
    }
}

fn walk(pickle: &Pickle, storages: &Storages, id: Id, name: &str, leaves: &mut Leaves) {
    let has_names = match pickle.value(id) {
        Value::Dict(_) | Value::List(_) | Value::Tuple(_) => true,
        Value::Call { state, .. } => state.is_some(),
        _ => false,
    };
    let name = if name.is_empty() && !has_names { "value" } else { name };
    leaves.walk(pickle, storages, id, name, 0);
}

/// The items of a list by their names; if they are others than expected, by their numbers.
fn parts(pickle: &Pickle, storages: &Storages, id: Id, prefix: &str, names: &[&str], leaves: &mut Leaves) {
    match pickle.items(id) {
        Some(items) if items.len() == names.len() => {
            for (item, name) in items.iter().zip(names) {
                walk(pickle, storages, *item, &below(prefix, name), leaves);
            }
        }
        _ => walk(pickle, storages, id, prefix, leaves),
    }
}

/// What `AdaptiveDataParallel` saves: `([model, optimizer, scheduler, scaler], gain, factor)`.
fn data_parallel(pickle: &Pickle) -> Option<[Id; 3]> {
    let [states, gain, factor] = pickle.items(pickle.root)? else { return None };
    let [_, optimizer, _, _] = pickle.items(*states)? else { return None };
    pickle.entry(*optimizer, "param_groups").map(|_| [*states, *gain, *factor])
}

fn metric(pickle: &Pickle, storages: &Storages, part: &str, leaves: &mut Leaves) {
    let root = pickle.root;
    // Named tuples are calls of their class.
    let tuple = pickle.call(root).map(|(_, arguments, _)| arguments).or_else(|| pickle.items(root));
    let named = |names: &[&str], leaves: &mut Leaves| match tuple {
        Some(items) if items.len() == names.len() => {
            for (item, name) in items.iter().zip(names) {
                walk(pickle, storages, *item, &below(part, name), leaves);
            }
        }
        _ => walk(pickle, storages, root, part, leaves),
    };
    match part {
        // How long steps took with each number of workers and batch size: what the next line was fitted to.
        "profile" => {
            if let Value::Dict(entries) = pickle.value(root) {
                leaves.values.push(("profiles".to_owned(), json!(entries.len())));
            }
        }
        "perfParams" => named(&PERF_PARAMS, leaves),
        "gradParams" => named(&GRAD_PARAMS, leaves),
        _ => walk(pickle, storages, root, part, leaves),
    }
}

/// How far training was, of the values that were read: a title, and the value.
pub(super) fn training(values: &[(String, Json)], group: Option<u64>) -> Vec<(&'static str, Json)> {
    let find = |name: &str| values.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    // Of several loaders one is in use: the others stand at their beginning.
    let loaders = values.iter().filter(|(name, _)| name.starts_with("loader.") && name.ends_with(".index"));
    let loader = loaders.max_by_key(|(_, index)| index.as_u64());
    let mut rates: Vec<Json> =
        values.iter().filter(|(name, _)| is_rate(name)).map(|(_, value)| value.clone()).collect();
    if let Some(Json::Array(groups)) = find("rates") {
        rates.extend(groups);
    }
    let one_or_all = |mut all: Vec<Json>| match all.len() {
        0 => None,
        1 => all.pop(),
        _ => Some(Json::Array(all)),
    };
    // What a program in Rust has of gradients before the first is a place for it.
    let noise = |name| find(name).filter(|_| find("noise.known") == Some(json!(true)));
    let found = [
        ("epoch", find("epoch")),
        ("progress", find("progress")),
        ("steps", find("steps")),
        ("loaderPosition", loader.map(|(_, value)| value.clone()).or_else(|| find("index"))),
        ("batchSize", find("initBatchSize").or_else(|| find("batchSize"))),
        ("maxBatchSize", find("maxBatchSize")),
        ("localBatchSizeBounds", find("localBatchSizeBounds")),
        ("gradientAccumulation", find("gradientAccumulation")),
        ("learningRate", one_or_all(rates)),
        ("lrFactor", find("lrFactor")),
        ("gain", find("gain")),
        (
            "gradientSquaredNorm",
            sum(find("optimizer.state.gns.sqr_avg").or_else(|| noise("noise.sqr.value")), 0.0)
                .or_else(|| find("gradParams.norm")),
        ),
        (
            "gradientVariance",
            sum(find("optimizer.state.gns.var_avg").or_else(|| noise("noise.var.value")), SMALLEST_VARIANCE)
                .or_else(|| find("gradParams.var")),
        ),
        ("restarts", group.map(|group| json!(group))),
    ];
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// What AdaptDL takes an estimate for that it has for each group of parameters.
fn sum(estimates: Option<Json>, smallest: f64) -> Option<Json> {
    let Json::Array(estimates) = estimates? else { return None };
    let sum: Option<f64> = estimates.iter().map(|one| one.as_f64().map(|one| one.max(smallest))).sum();
    sum.map(|sum| json!(sum))
}

/// Whether a value is the learning rate of a group of an optimizer's parameters.
fn is_rate(name: &str) -> bool {
    name.strip_suffix(".lr").is_some_and(|rest| rest.contains("param_groups."))
}
