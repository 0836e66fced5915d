//! Whom kubectl may be: tokens, roles, TLS.

use std::fs;

use serde_json::Value;

use crate::support::{Kube, NIGHT};
use crate::world::mode;

/// Makes a kubeconfig for a role.
fn somebody(kube: &Kube, role: &str) -> String {
    let made = kube.ok(&["kubeconfig", "--create-token", role, "--role", role]);
    kube.write(&format!("{role}.config"), &made);
    format!("--kubeconfig {role}.config")
}

/// The lines of the audit log.
fn audited(kube: &Kube) -> Vec<Value> {
    let log = fs::read_to_string(kube.path("state/audit.log")).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_role_may_do_what_it_is_for_and_no_more() {
    let kube = Kube::new(&[]);
    kube.write("night.yaml", NIGHT);
    kube.kubectl("apply -f night.yaml");
    let (view, edit) = (somebody(&kube, "view"), somebody(&kube, "edit"));
    let before = kube.json("get job night");

    // With the role view nothing changes, however it is tried.
    assert!(kube.kubectl(&format!("{view} get jobs,clusters,nodes,pods,events -A")).contains("night"));
    for attempt in [
        "delete job night --wait=false",
        "delete jobs --all --wait=false",
        "apply --validate=false -f changed.yaml",
        "apply --server-side --force-conflicts -f changed.yaml",
        "create -f new.yaml",
        "replace --validate=false -f changed.yaml",
        "patch job night --type merge -p '{\"spec\":{\"maxReplicas\":9}}'",
        "patch job night --type json -p '[{\"op\":\"remove\",\"path\":\"/spec/env\"}]'",
        "scale job night --replicas=2",
        "label job night a=b",
        "annotate job night rayconcile.dev/checkpoint-now=1",
        "delete --raw /apis/rayconcile.dev/v1/namespaces/default/adaptdljobs",
        "create --raw /apis/rayconcile.dev/v1/tokens -f /dev/null",
        "get --raw /apis/rayconcile.dev/v1/tokens",
        "apply --dry-run=server --validate=false -f changed.yaml",
        "create --raw /apis/rayconcile.dev/v1/sources -f changed.yaml",
        "replace --raw /apis/rayconcile.dev/v1/packages/0 -f changed.yaml",
        "delete --raw /apis/rayconcile.dev/v1/tokens/view",
    ] {
        kube.write("changed.yaml", &NIGHT.replace("maxReplicas: 4", "maxReplicas: 9"));
        kube.write("new.yaml", &NIGHT.replace("name: night", "name: new"));
        let refused = kube.refused(&format!("{view} {attempt}"));
        assert!(
            refused.contains("Forbidden") && refused.contains("has the role view"),
            "{attempt}: {refused}"
        );
    }
    // To ask what would be has no file read, and nothing packed.
    let token = kube.path("state/api-token");
    let job = serde_json::json!({
        "apiVersion": "rayconcile.dev/v1", "kind": "AdaptDLJob", "metadata": {"name": "new"},
        "spec": {"command": ["true"], "workingDir": "/usr/share/doc/bash", "runtimeEnv": {"pip": token}},
    });
    kube.write("plan.json", &serde_json::json!({"objects": [job]}).to_string());
    kube.write("new.json", &job.to_string());
    for attempt in [
        format!("{view} create --raw /apis/rayconcile.dev/v1/plan -f plan.json"),
        format!("{edit} apply -f new.json"),
    ] {
        let refused = kube.refused(&attempt);
        assert!(refused.contains("`rayconcile apply` packs it"), "{attempt}: {refused}");
    }
    assert!(!kube.path("state/packages").exists());
    let after = kube.json("get job night");
    assert_eq!(
        (&after["spec"], &after["metadata"]["labels"]),
        (&before["spec"], &before["metadata"]["labels"])
    );
    assert_eq!(kube.kubectl("get jobs -o name"), "adaptdljob.rayconcile.dev/night\n");

    // edit changes objects, but gives out no tokens and gives nothing up.
    kube.kubectl(&format!("{edit} label job night by=edit"));
    for attempt in [
        "get --raw /apis/rayconcile.dev/v1/tokens",
        "delete job night --grace-period=0 --force --wait=false",
        "annotate job night rayconcile.dev/force-delete=true",
    ] {
        assert!(kube.refused(&format!("{edit} {attempt}")).contains("needs admin"), "{attempt}");
    }

    // What may be done can be asked.
    let can = |who: &str, what: &str| kube.sh(&format!("kubectl {who} auth can-i {what} 2>/dev/null")).out;
    for (who, what, answer) in [
        (&view, "list jobs", "yes\n"),
        (&view, "get pods --subresource=log", "yes\n"),
        (&view, "delete jobs", "no - the role is view, and delete needs edit\n"),
        (&edit, "patch clusters", "yes\n"),
        (&edit, "update jobs --subresource=scale", "yes\n"),
        (&edit, "update jobs --subresource=status", "no - adaptdljobs can only be get\n"),
        (&edit, "'*' '*'", "no - the role is edit, and * needs admin\n"),
        (&String::new(), "'*' '*'", "yes\n"),
        (&edit, "delete nodes", "no - nodes can only be get, list, watch\n"),
    ] {
        assert_eq!(can(who, what), answer, "{who} {what}");
    }
    let listed = kube.kubectl(&format!("{view} auth can-i --list"));
    assert!(listed.contains("adaptdljobs.rayconcile.dev") && !listed.contains("delete"), "{listed}");
    let listed = kube.kubectl("auth can-i --list");
    assert!(
        listed.contains("tokens.rayconcile.dev") && listed.contains("sources.rayconcile.dev"),
        "{listed}"
    );

    // Taken back, a token opens nothing; in the log is who tried what, and no token.
    assert!(kube.ok(&["token", "ls"]).contains("view"));
    kube.ok(&["token", "revoke", "edit"]);
    assert!(kube.refused(&format!("{edit} get jobs")).contains("You must be logged in"));
    assert_eq!(kube.run(&["token", "revoke", "edit"]).code, 1);
    let log = audited(&kube);
    let find = |who: &str, verb: &str, code: u64| {
        log.iter().any(|entry| entry["who"] == who && entry["verb"] == verb && entry["code"] == code)
    };
    assert!(
        find("state-directory", "create", 201) && find("view", "delete", 403) && find("edit", "patch", 200)
    );
    assert!(log.iter().any(|entry| entry["object"] == "default/night" && entry["dryRun"] == false));
    assert!(log.iter().all(|entry| entry["source"].as_str().unwrap().starts_with("127.0.0.1:")));
    let text = fs::read_to_string(kube.path("state/audit.log")).unwrap();
    assert_eq!(mode(&kube.path("state/audit.log")), 0o600);
    let database = fs::read(kube.path("state/rayconcile.db")).unwrap();
    let write_ahead = fs::read(kube.path("state/rayconcile.db-wal")).unwrap_or_default();
    for file in ["kubeconfig", "view.config", "edit.config"] {
        let config = fs::read_to_string(kube.path(file)).unwrap();
        let token = config.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().to_owned();
        assert!(!text.contains(&token), "{file}");
        let holds = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!holds(&database) && !holds(&write_ahead), "{file}: only digests are kept");
    }
    kube.finish();
}

#[test]
fn who_has_no_token_learns_that_it_is_there_and_nothing_else() {
    let kube = Kube::new(&[]);
    kube.write("night.yaml", NIGHT);
    kube.kubectl("apply -f night.yaml");
    let stranger = kube.api().with_token("");
    for path in ["/healthz", "/version"] {
        assert_eq!(stranger.get(path).code, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/rayconcile.dev",
        "/apis/rayconcile.dev/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/api/v1/nodes",
        "/api/v1/pods",
        "/api/v1/namespaces",
        "/api/v1/events",
        "/metrics",
        "/livez",
        "/readyz",
        "/nowhere",
        "/apis/rayconcile.dev/v1/adaptdljobs",
        "/apis/rayconcile.dev/v1/sources",
        "/apis/rayconcile.dev/v1/tokens",
        "/apis/rayconcile.dev/v1/plan",
        "/apis/rayconcile.dev/v1/packages/0",
        "/apis/rayconcile.dev/v1/namespaces/default/adaptdljobs/night/scale",
        "/apis/rayconcile.dev/v1/namespaces/default/adaptdljobs/night/log",
        "/apis/rayconcile.dev/v1/namespaces/default/adaptdljobs/night/checkpoints",
        "/api/v1/namespaces/default/pods/night-0/log",
    ] {
        let answer = stranger.get(path);
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (401, &"Unauthorized".into()),
            "{path}: {answer:?}"
        );
    }
    kube.write(
        "wrong.config",
        &fs::read_to_string(kube.path("kubeconfig")).unwrap().replace("token: ", "token: x"),
    );
    assert!(kube.refused("--kubeconfig wrong.config get jobs").contains("You must be logged in"));
    kube.finish();
}

#[test]
fn tls_is_spoken_with_a_certificate_of_our_own() {
    let kube = Kube::new(&["--tls", "--tls-san", "train.example.com"]);
    kube.write("night.yaml", NIGHT);
    kube.kubectl("apply -f night.yaml");
    assert!(kube.ok(&["get", "jobs"]).contains("night"), "our own command line trusts it too");
    assert_eq!((mode(&kube.path("state/tls/ca.key")), mode(&kube.path("state/tls/ca.pem"))), (0o600, 0o600));
    let config = fs::read_to_string(kube.path("kubeconfig")).unwrap();
    assert!(config.contains("server: https://127.0.0.1:") && config.contains("certificate-authority-data"));
    // It is for the names that were given, and for no others.
    assert!(kube.kubectl("--tls-server-name train.example.com get jobs").contains("night"));
    assert!(kube.refused("--tls-server-name other.example.com get jobs").contains("x509"));
    let without: String = config
        .lines()
        .filter(|line| !line.contains("certificate-authority"))
        .map(|line| format!("{line}\n"))
        .collect();
    kube.write("without.config", &without);
    assert!(kube.refused("--kubeconfig without.config get jobs").contains("x509"), "nobody else trusts it");
    // Plain HTTP is not answered.
    let plain = config.replace("https://", "http://");
    kube.write(
        "plain.config",
        &plain.lines().filter(|l| !l.contains("certificate-authority")).collect::<Vec<_>>().join("\n"),
    );
    kube.refused("--kubeconfig plain.config get jobs");
    // The next controller has the same authority: what clients were given goes on.
    kube.stop();
    let port = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: https://127.0.0.1:"))
        .unwrap()
        .to_owned();
    kube.start(&["--listen", &format!("0.0.0.0:{port}")]);
    assert!(kube.kubectl("get jobs").contains("night"));
    assert!(fs::read_to_string(kube.path("state/api.json")).unwrap().contains("https://127.0.0.1:"));
    // On another address than loopback nobody had to ask for TLS.
    kube.refused("--kubeconfig plain.config get jobs");
    kube.finish();
}
