//! What of a pod has no meaning here, and what there is instead.

/// A field, and why it has no meaning; nothing if it says no more than Kubernetes wants said.
pub(super) type Lost = (&'static str, &'static str);

/// What is not known at all.
pub(super) const UNKNOWN: &str = "has no meaning here, and is left out";

const PLACE: &str = "has no meaning here: workers are placed where their resources are, on the cluster that \
                     spec.clusterRef names";
const PROBE: &str =
    "has no meaning here: a group that makes no step for spec.progressDeadline is started again";
const NETWORK: &str = "has no meaning here: workers are processes in the network of their node";
const RIGHTS: &str = "has no meaning here: workers run as the user that Ray runs as";

/// Of the object.
pub(super) const OBJECT: &[Lost] = &[("apiVersion", ""), ("kind", ""), ("status", "")];

/// Beside the pod's own specification.
pub(super) const TEMPLATE: &[Lost] =
    &[("metadata", "has no meaning here: there are no pods; metadata.labels of the job itself are kept")];

/// Of the pod.
pub(super) const POD: &[Lost] = &[
    (
        "initContainers",
        "are not run: what they do belongs in the nodes' image, set-up commands or runtimeEnv",
    ),
    ("imagePullSecrets", "has no meaning here: what nodes pull, they pull with their own credentials"),
    ("nodeSelector", PLACE),
    ("affinity", PLACE),
    ("tolerations", PLACE),
    ("nodeName", PLACE),
    ("schedulerName", PLACE),
    ("topologySpreadConstraints", PLACE),
    ("priorityClassName", "has no meaning here: spec.priority is a number"),
    ("restartPolicy", "has no meaning here: spec.backoffLimit says how often the program may fail"),
    ("terminationGracePeriodSeconds", "has no meaning here: spec.checkpoint.timeout is the time to save in"),
    ("activeDeadlineSeconds", "has no meaning here: spec.activeDeadline limits the job"),
    ("serviceAccountName", RIGHTS),
    ("serviceAccount", RIGHTS),
    ("securityContext", RIGHTS),
    ("automountServiceAccountToken", RIGHTS),
    ("hostNetwork", NETWORK),
    ("dnsPolicy", NETWORK),
    ("dnsConfig", NETWORK),
    ("hostAliases", NETWORK),
    ("subdomain", NETWORK),
];

/// Of its container.
pub(super) const CONTAINER: &[Lost] = &[
    ("name", ""),
    (
        "image",
        "has no meaning here: programs run in what their nodes have. On EC2 that may be an image (docker.image of a \
         template), and spec.runtimeEnv can bring packages along",
    ),
    ("imagePullPolicy", ""),
    ("ports", NETWORK),
    ("livenessProbe", PROBE),
    ("readinessProbe", PROBE),
    ("startupProbe", PROBE),
    ("securityContext", RIGHTS),
    ("tty", ""),
    ("stdin", ""),
    ("terminationMessagePath", ""),
    ("terminationMessagePolicy", ""),
];
