//! Examples, for the help of verbs that have no more to say of themselves.

use clap::Command;

/// The examples of each verb.
const EXAMPLES: [(&str, &str); 19] = [
    (
        "run",
        "\
  rayconcile run job.yaml                       a manifest with one job
  rayconcile run train.py --gpu 1 -- --epochs 3 a script, with arguments of its own",
    ),
    (
        "controller",
        "\
  rayconcile controller                         until it is interrupted; jobs go on without it
  rayconcile controller --watch manifests/      with a directory as the truth",
    ),
    (
        "apply",
        "\
  rayconcile apply -f job.yaml
  rayconcile apply -f manifests/ -R --prune -l team=vision
                                                and delete what is not there any more
  rayconcile apply -f job.yaml --wait           until it runs
  kustomize build | rayconcile apply -f - --dry-run=server",
    ),
    (
        "get",
        "\
  rayconcile get jobs
  rayconcile get clusters -A -o wide
  rayconcile get job digits -o jsonpath='{.status.phase}'
  rayconcile get jobs -o custom-columns=NAME:.metadata.name,PHASE:.status.phase
  rayconcile get jobs --sort-by .spec.priority --no-headers
  rayconcile get jobs -w -l team=vision         and every change of them",
    ),
    (
        "describe",
        "\
  rayconcile describe job digits
  rayconcile describe cluster/gpu",
    ),
    (
        "status",
        "\
  rayconcile status                             everything
  rayconcile status digits                      one job
  watch rayconcile status",
    ),
    (
        "delete",
        "\
  rayconcile delete job digits
  rayconcile delete job/digits cluster/gpu --no-wait
  rayconcile delete -f manifests/",
    ),
    (
        "logs",
        "\
  rayconcile logs digits -f                     as it comes
  rayconcile logs digits --rank 0",
    ),
    (
        "events",
        "\
  rayconcile events -w                          as they come
  rayconcile events --for job/digits
  rayconcile events --for source/manifests      what is wrong with its files",
    ),
    (
        "wait",
        "\
  rayconcile wait digits --for phase=Succeeded --timeout 2h
  rayconcile wait cluster gpu --for condition=HeadReady
  rayconcile wait digits --for delete",
    ),
    (
        "suspend",
        "\
  rayconcile suspend digits                     it goes on from its checkpoint when it is resumed
  rayconcile suspend cluster gpu                with all its jobs",
    ),
    (
        "resume",
        "\
  rayconcile resume digits
  rayconcile resume cluster gpu",
    ),
    (
        "validate",
        "\
  rayconcile validate -f manifests/ -R
  rayconcile validate -f - <job.yaml",
    ),
    (
        "schema",
        "\
  rayconcile schema job
  rayconcile schema --write schemas/            for editors",
    ),
    (
        "explain",
        "\
  rayconcile explain job
  rayconcile explain job.spec.checkpoint
  rayconcile explain cluster.spec.workerGroups --recursive",
    ),
    (
        "checkpoint",
        "\
  rayconcile checkpoint ls digits
  rayconcile checkpoint get digits -o saved/    the newest
  rayconcile checkpoint now digits
  rayconcile checkpoint inspect digits          how far it is, and its tensors
  rayconcile checkpoint inspect --diff digits:3-1 digits:4-1",
    ),
    (
        "completion",
        "\
  source <(rayconcile completion bash)          in ~/.bashrc
  source <(rayconcile completion zsh)           in ~/.zshrc
  rayconcile completion fish >~/.config/fish/completions/rayconcile.fish

Names of objects are asked of the running controller; without one there are none to be offered.",
    ),
    (
        "man",
        "\
  rayconcile man | man -l -
  rayconcile man --write ~/.local/share/man/man1",
    ),
    (
        "version",
        "\
  rayconcile version
  rayconcile version --json",
    ),
];

/// Adds the examples to verbs that have none.
pub(super) fn add(command: Command) -> Command {
    command.mut_subcommands(|verb| {
        let known = EXAMPLES.iter().find(|(name, _)| *name == verb.get_name());
        match known {
            Some((_, text)) if verb.get_after_help().is_none() => {
                verb.after_help(format!("Examples:\n  {text}"))
            }
            _ => verb,
        }
    })
}
