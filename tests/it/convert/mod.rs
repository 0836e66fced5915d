//! From configurations of `ray up` to manifests: each one valid, with nothing lost.

use std::fs;
use std::path::{Path, PathBuf};

use rayconcile::convert::{Conversion, convert};
use rayconcile::manifest::{self, Look, Problem, Source};

mod properties;

const PLAIN: Look = Look { width: 100, colour: false, unicode: false };

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/convert").join(directory);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3);
    files
}

fn converted(text: &str) -> Result<Conversion, Vec<Problem>> {
    convert(Source::new("cluster.yaml", text, None), None)
}

/// A manifest is admitted as every other.
fn is_valid(manifest: &str) {
    let loaded = manifest::read(vec![Source::new("manifest", manifest, None)], "default");
    let problems: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new(), "{manifest}");
    assert_eq!(loaded.manifests.len(), 1, "{manifest}");
    assert!(loaded.manifests[0].validate().is_empty());
    loaded.manifests[0].admit(Path::new("/nowhere")).unwrap();
}

fn name(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

#[test]
fn what_can_be_said_is_said_and_the_rest_stands_in_comments() {
    for path in files("good") {
        let Conversion { manifest, comments, advice } =
            converted(&fs::read_to_string(&path).unwrap()).unwrap();
        is_valid(&manifest);
        let advice: String = advice.iter().map(|advice| format!("advice: {advice}\n")).collect();
        insta::assert_snapshot!(
            name(&path),
            format!("{advice}settings in comments: {comments}\n\n{manifest}")
        );
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for path in files("bad") {
        let problems = converted(&fs::read_to_string(&path).unwrap()).unwrap_err();
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let drawn: Vec<_> = problems.iter().map(|problem| problem.render(PLAIN)).collect();
        insta::assert_snapshot!(name(&path), format!("{}\n\n{}", lines.join("\n"), drawn.join("\n")));
    }
}

#[test]
fn a_name_can_be_given() {
    let text = "{cluster_name: a, provider: {type: aws, region: us-west-2}}";
    let named = convert(Source::new("-", text, None), Some("b")).unwrap();
    assert!(named.manifest.contains("metadata: {name: b}"), "{}", named.manifest);
    for (name, tame) in
        [("My_Cluster 1", "my-cluster-1"), ("___", "cluster"), (&"x".repeat(200), &"x".repeat(50))]
    {
        let text = format!("{{cluster_name: {name:?}, provider: {{type: aws, region: us-west-2}}}}");
        let manifest = converted(&text).unwrap().manifest;
        is_valid(&manifest);
        assert!(manifest.contains(&format!("metadata: {{name: {tame}}}")), "{manifest}");
    }
}

#[test]
fn brackets_that_are_not_indented_are_read_as_others_read_them() {
    for list in ["[\n]", "[a,\n]", "[\n  a, # b\n]", "[\n# b\n\n  # c\n]", "[\n    a\n]"] {
        let text =
            format!("cluster_name: a\nrsync_exclude: {list}\nprovider: {{type: aws, region: us-west-2\n}}\n");
        let conversion = converted(&text).unwrap();
        assert_eq!(conversion.comments, usize::from(list.contains('a')), "{list}: {}", conversion.manifest);
        is_valid(&conversion.manifest);
    }
    let problems = converted("a: [\n  b\nc: d\n").unwrap_err();
    assert_eq!(problems.len(), 1);
}

/// What says what holds anyway, or is written in another way; and what is nobody's business.
const ELSEWHERE: [&str; 40] = [
    // `ray start` as every configuration has it.
    "stop",
    "start",
    "ray",
    "ulimit",
    "65536",
    "--head",
    "--block",
    "--port",
    "--redis-port",
    "6379",
    "8076",
    "--object-manager-port",
    "--autoscaling-config",
    "~/ray_bootstrap_config.yaml",
    "--dashboard-host",
    "0.0.0.0",
    "--address",
    "--redis-address",
    "$RAY_HEAD_IP",
    // Parameters that are fields.
    "--num-cpus",
    "--num-gpus",
    "--object-store-memory",
    "1073741824",
    "4294967296",
    "90",
    "--labels",
    "--resources",
    // As it is here.
    "latest_dlami",
    "resolve",
    "one-time",
    "terminate",
    "HttpTokens",
    "spot",
    "instance",
    "arn",
    "instance-profile/ray/vision-nodes",
    // Names are tame.
    "Vision_GPU",
    // Options of `docker run` are one argument each.
    "-e",
    "-v",
    "-it",
];
const SECRET: [&str; 3] = ["AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "s3cr3t"];

/// The words of all values.
fn words(value: &serde_yaml::Value, found: &mut Vec<String>) {
    use serde_yaml::Value::{Mapping, Number, Sequence, String};
    match value {
        Mapping(fields) => fields.values().for_each(|value| words(value, found)),
        Sequence(items) => items.iter().for_each(|item| words(item, found)),
        Number(number) => found.push(number.to_string()),
        String(text) => {
            let parts = text.split(|c: char| c.is_whitespace() || "=;:,'\"{}()\\".contains(c));
            found.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
        }
        _ => {}
    }
}

#[test]
fn every_word_is_somewhere() {
    for path in files("good") {
        let text = fs::read_to_string(&path).unwrap();
        let manifest = converted(&text).unwrap().manifest;
        let mut all = Vec::new();
        words(&serde_yaml::from_str(&text).unwrap(), &mut all);
        all.retain(|word| !ELSEWHERE.contains(&word.as_str()) && !manifest.contains(word.as_str()));
        all.retain(|word| !SECRET.contains(&word.as_str()));
        assert_eq!(all, Vec::<String>::new(), "{}", path.display());
        assert!(!SECRET.iter().any(|secret| manifest.contains(secret)), "{}", path.display());
    }
}
