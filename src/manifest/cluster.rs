//! The rules of a `RayCluster` that its schema cannot say.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::path::Path;
use super::words::quoted;
use super::{aws, names, rules};
use crate::api::cluster::{AuthMode, NodeTemplate, Provider, RayClusterSpec};
use crate::api::units::{Bytes, MilliCpu, Span};

/// Ray starts no object store that is smaller.
const MIN_OBJECT_STORE: Bytes = Bytes(75 << 20);

/// Shorter, and a node would be lost because its machine is busy.
const MIN_FAILURE_TIMEOUT: Span = Span::from_secs(1);

/// Labels of this domain are Ray's own.
const RAY_DOMAIN: &str = "ray.io/";

/// What is wrong with a cluster that has the right shape.
pub(super) fn check(spec: &RayClusterSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at = Path::of("spec");
    provider(spec, &at, &mut findings);
    auth(spec, &at.key("auth"), &mut findings);
    node(&spec.head, &at.key("head"), &mut findings);
    worker_groups(spec, &at.key("workerGroups"), &mut findings);
    node_health(spec, &at, &mut findings);
    findings
}

fn provider(spec: &RayClusterSpec, at: &Path, findings: &mut Vec<Finding>) {
    match &spec.provider {
        Provider::Local(local) => {
            if let Some(python) = &local.python {
                findings.extend(rules::host_path(python, at.field("provider.local.python")));
            }
            aws::refuse(spec, at, findings);
        }
        Provider::Existing(existing) => {
            let path = at.field("provider.existing.address");
            findings.extend(address(&existing.address, path));
            let ours = "is of no use for an existing cluster, whose nodes are not ours to start";
            // What `get -o yaml` shows of a head that was left out is no reason to refuse it.
            let mut left_out = RayClusterSpec { head: NodeTemplate::default(), ..spec.clone() };
            left_out.fill_defaults();
            if spec.head != NodeTemplate::default() && spec.head != left_out.head {
                findings.push(Finding::new(at.key("head"), ours).at_key());
            }
            if !spec.worker_groups.is_empty() {
                findings.push(Finding::new(at.key("workerGroups"), ours).at_key());
            }
        }
        Provider::Aws(aws) => aws::check(spec, aws, at, findings),
    }
}

/// An address of a dashboard or of Ray's client is scheme, host and port, and nothing else: paths are ours to add.
fn address(address: &str, path: Path) -> Option<Finding> {
    let rule = "must be the address of Ray's dashboard such as http://head:8265, or of its client such as \
                ray://head:10001";
    let finding = |help: Option<&str>| {
        Some(Finding::new(path.clone(), format!("{rule}, found {}", quoted(address))).help_if(help))
    };
    let Some(rest) = ["http://", "https://", "ray://"].iter().find_map(|scheme| address.strip_prefix(scheme))
    else {
        let client = address.ends_with(":10001") && !address.contains("://");
        let help = format!("write ray://{address}");
        return finding(client.then_some(help.as_str()));
    };
    if let Some(end) = rest.find(['/', '?', '#']).filter(|end| *end > 0) {
        let scheme = address.len() - rest.len();
        let origin = address.get(..scheme + end).unwrap_or(address);
        return finding(Some(&format!("leave out what follows the host: {origin}")));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse::<u16>().is_ok_and(|port| port > 0)),
        _ => (rest, true),
    };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match six {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    if is_host && port { None } else { finding(None) }
}

fn auth(spec: &RayClusterSpec, at: &Path, findings: &mut Vec<Finding>) {
    let Some(source) = &spec.auth.token_from else { return };
    let path = at.key("tokenFrom");
    if spec.is_ours() {
        let help = "the token of a cluster of ours is made when the cluster is";
        findings.push(Finding::new(path, "is for existing clusters").at_key().help(help));
    } else if spec.auth.mode == AuthMode::None {
        let finding = Finding::new(path, "is of no use where nothing asks for a token").at_key();
        findings.push(finding.also(at.key("mode"), "no token"));
    } else {
        findings.extend(rules::value_source(source, &path));
    }
}

/// How it is found out that nodes are lost, or will be.
fn node_health(spec: &RayClusterSpec, at: &Path, findings: &mut Vec<Finding>) {
    let timeout = at.key("nodeFailureTimeout");
    if spec.node_failure_timeout < MIN_FAILURE_TIMEOUT {
        let message = format!("must be at least {MIN_FAILURE_TIMEOUT}, found {}", spec.node_failure_timeout);
        let help = "a healthy node of a busy machine may take as long to answer";
        findings.push(Finding::new(timeout.clone(), message).help(help));
    }
    findings.extend(rules::span(spec.node_failure_timeout, timeout));
    if let Some(endpoint) =
        spec.metadata_endpoint.as_ref().filter(|endpoint| !endpoint.starts_with("http://"))
    {
        let message =
            format!("must be an address such as http://169.254.169.254, found {}", quoted(endpoint));
        findings.push(Finding::new(at.key("metadataEndpoint"), message));
    }
}

fn worker_groups(spec: &RayClusterSpec, at: &Path, findings: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (index, group) in spec.worker_groups.iter().enumerate() {
        let at = at.item(index);
        let name = at.key("name");
        findings.extend(names::name(&group.name, name.clone()));
        if let Some(first) = seen.insert(group.name.as_str(), name.clone()) {
            let message = format!("is the name of two groups: {}", quoted(&group.name));
            findings.push(Finding::new(name, message).also(first, "the first one"));
        }
        if group.min_nodes > group.max_nodes {
            let message =
                format!("must be at most maxNodes ({}), found {}", group.max_nodes, group.min_nodes);
            findings.push(
                Finding::new(at.key("minNodes"), message).also(at.key("maxNodes"), "the most there may be"),
            );
        }
        findings.extend(rules::span(group.idle_timeout, at.key("idleTimeout")));
        let strategy = group.update_strategy;
        if strategy.max_unavailable == 0 && strategy.max_surge == 0 {
            let message = "maxUnavailable and maxSurge cannot both be 0: no node could ever be replaced";
            findings.push(Finding::new(at.key("updateStrategy"), message));
        }
        node(&group.template, &at.key("template"), findings);
    }
}

fn node(template: &NodeTemplate, at: &Path, findings: &mut Vec<Finding>) {
    let resources = at.key("resources");
    if let Some(MilliCpu(millis)) = template.resources.cpu.filter(|cpu| cpu.0 % 1000 != 0) {
        let message = format!("must be a whole number of CPUs, found {}", MilliCpu(millis));
        findings.push(Finding::new(resources.key("cpu"), message));
    }
    findings.extend(rules::custom(&template.resources.custom, &resources.key("custom"), true));
    if template.object_store_memory < MIN_OBJECT_STORE {
        let message = format!(
            "must be at least {MIN_OBJECT_STORE}, which is Ray's own minimum, found {}",
            template.object_store_memory
        );
        findings.push(Finding::new(at.key("objectStoreMemory"), message));
    }
    let labels = at.key("labels");
    for (key, value) in &template.labels {
        if key.starts_with(RAY_DOMAIN) {
            let message = format!("labels that begin with {RAY_DOMAIN} are Ray's own");
            findings.push(Finding::new(labels.key(key), message).at_key());
        } else {
            findings.extend(names::label(key, value, &labels));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for good in [
            "http://head:8265",
            "https://ray.example.com",
            "http://[::1]:8265",
            "http://10.0.0.1:80",
            "ray://head:10001",
            "ray://head",
        ] {
            assert_eq!(address(good, Path::default()), None, "{good}");
        }
        for bad in [
            "",
            "head:8265",
            "head:10001",
            "ray://",
            "grpc://head:10001",
            "http://",
            "http://:8265",
            "http://head:8265/",
            "http://head:8265/#/overview",
            "http://head:port",
            "http://head:0",
            "http://user@head",
            "http://[::1",
            "http://he ad",
        ] {
            assert!(address(bad, Path::default()).is_some(), "{bad}");
        }
    }
}
