//! `token`: give out tokens for the API, and take them back.

use anyhow::Result;
use clap::{Args, Subcommand};

use super::text::{age, table};
use super::{Context, ExitStatus};
use crate::api::token::Role;

pub(super) const EXAMPLES: &str = "\
Roles:
  view   sees everything but tokens
  edit   also makes, changes and deletes objects
  admin  also gives out tokens, steers watched directories, gives up what cannot be reached

Whoever may edit runs programs, for a job is one: on the machines of its cluster. Where
clusters are local that is as the controller's user, who can read every token.

Examples:
  rayconcile token create alice --role edit
  rayconcile token ls
  rayconcile token revoke alice";

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token for somebody, and print it: it is not kept, and not told again
    Create {
        /// Whose it is
        name: String,
        /// What it opens: view, edit or admin
        #[arg(long, value_name = "ROLE")]
        role: Role,
    },
    /// List the tokens that were made
    Ls,
    /// Take a token back: it opens nothing any more
    Revoke {
        /// Whose it is
        name: String,
    },
}

pub(super) async fn run(context: &Context, args: TokenArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    match args.what {
        What::Create { name, role } => {
            context.printer.data(&client.create_token(&name, role).await?.token);
            context.printer.talk(&format!("token {name} created, with the role {role}"));
        }
        What::Ls => {
            let tokens = client.tokens().await?;
            if tokens.is_empty() {
                context.printer.talk("no tokens were made; the state directory's own is not listed");
                return Ok(ExitStatus::Success);
            }
            let rows: Vec<_> = tokens
                .into_iter()
                .map(|token| vec![token.name, token.role.to_string(), age(token.created)])
                .collect();
            context.printer.table(&table("", &["NAME", "ROLE", "AGE"], &rows));
        }
        What::Revoke { name } => {
            client.revoke_token(&name).await?;
            context.printer.talk(&format!("token {name} revoked"));
        }
    }
    Ok(ExitStatus::Success)
}
