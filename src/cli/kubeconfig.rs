//! `kubeconfig`: what kubectl, and any client of Kubernetes, needs to find the controller.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::{Context, ExitStatus};
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::token::Role;
use crate::manifest::to_yaml;

pub(super) const EXAMPLES: &str = "\
Examples:
  rayconcile kubeconfig > rayconcile.yaml
  kubectl --kubeconfig rayconcile.yaml get jobs
  rayconcile kubeconfig --server https://train.example.com:6443 --create-token alice --role view";

#[derive(Debug, Args)]
pub(super) struct KubeconfigArgs {
    /// Where clients find the controller, if not where this machine does
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// With a token that is made for somebody, instead of the state directory's own
    #[arg(long, value_name = "NAME", requires = "role")]
    create_token: Option<String>,
    /// What that token opens: view, edit or admin
    #[arg(long, value_name = "ROLE", requires = "create_token")]
    role: Option<Role>,
    /// The context's name
    #[arg(long, value_name = "NAME", default_value = "rayconcile")]
    context: String,
    /// The context's namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

pub(super) async fn run(context: &Context, args: KubeconfigArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    client.ping().await?;
    let token = match (&args.create_token, args.role) {
        (Some(name), Some(role)) => client.create_token(name, role).await?.token,
        _ => client.token().to_owned(),
    };
    let user = args.create_token.as_deref().unwrap_or("admin");
    let mut cluster = json!({"server": args.server.as_deref().unwrap_or(client.secure_url())});
    if let Some(authority) = client.authority() {
        cluster["certificate-authority-data"] = json!(BASE64_STANDARD.encode(authority));
    }
    context.printer.data(&to_yaml(&document(&args, user, &cluster, &token))?);
    Ok(ExitStatus::Success)
}

fn document(args: &KubeconfigArgs, user: &str, cluster: &Value, token: &str) -> Value {
    let user = format!("{}-{user}", args.context);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": args.context, "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{
            "name": args.context,
            "context": {"cluster": args.context, "user": user, "namespace": args.namespace},
        }],
        "current-context": args.context,
    })
}
