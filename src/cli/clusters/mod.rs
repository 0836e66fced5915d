//! `clusters`: find clusters on EC2 by their tags, adopt one whose state directory is lost, or destroy one.

#![cfg_attr(not(feature = "ec2"), allow(dead_code))]

#[cfg(feature = "ec2")]
mod adopt;
#[cfg(feature = "ec2")]
mod destroy;
#[cfg(feature = "ec2")]
mod find;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use super::{Context, ExitStatus};

pub(super) const EXAMPLES: &str = "\
Examples:
  rayconcile clusters find --region us-west-2 --region eu-west-1
  rayconcile clusters adopt gpu --region us-west-2 --start-controller
  rayconcile clusters destroy default/gpu --region us-west-2";

#[derive(Debug, Args)]
pub(super) struct ClustersArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List clusters by what EC2 has of them, whoever made them
    Find(FindArgs),
    /// Make a cluster this state directory's own, and go on with its jobs: the one it was in is lost
    Adopt(AdoptArgs),
    /// End every instance of a cluster and remove all that was made for it; its jobs are not saved
    Destroy(DestroyArgs),
}

#[derive(Debug, Args)]
struct FindArgs {
    #[command(flatten)]
    regions: Regions,
    /// How to show them, instead of as a table
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// As JSON
    Json,
}

#[derive(Debug, Args)]
struct AdoptArgs {
    #[command(flatten)]
    which: Which,
    /// The cluster's manifest, instead of the one that it has kept in Systems Manager
    #[arg(short, long = "filename", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Start a controller for it in the background
    #[arg(long)]
    start_controller: bool,
    /// Adopt it even if another controller is heard there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct DestroyArgs {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// The cluster: its name, its namespace and name, or its uid
    #[arg(value_name = "NAME|UID")]
    cluster: String,
    #[command(flatten)]
    regions: Regions,
}

#[derive(Debug, Args)]
struct Regions {
    /// A region to look in (may be given several times); by default the AWS configuration's
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
}

#[cfg(feature = "ec2")]
pub(super) async fn run(context: &Context, args: ClustersArgs) -> Result<ExitStatus> {
    match args.what {
        What::Find(args) => find::run(context, args).await,
        What::Adopt(args) => adopt::run(context, args).await,
        What::Destroy(args) => destroy::run(context, args).await,
    }
}

#[cfg(not(feature = "ec2"))]
pub(super) async fn run(_: &Context, _: ClustersArgs) -> Result<ExitStatus> {
    Err(anyhow::anyhow!("this rayconcile was built without EC2 (its feature `ec2`)"))
}
