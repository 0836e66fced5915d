//! Input that is meant to hurt, or as bad as if it were.

use std::time::{Duration, Instant};

use super::{PLAIN, read};

/// Reads a text and draws what is said of it, which must not take long.
fn told(text: &str) -> String {
    let start = Instant::now();
    let loaded = read(text);
    let drawn: String = loaded.problems.iter().map(|problem| problem.render(PLAIN)).collect();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(loaded.manifests.len(), 0);
    drawn
}

#[test]
fn deep_nesting_overflows_no_stack() {
    let long = 1 << 20;
    let indented = |line: fn(usize) -> String| (0..250).map(line).collect::<String>();
    for text in [
        "[".repeat(long),
        "{a: ".repeat(long / 4),
        "- ".repeat(long / 2),
        "? ".repeat(long / 2),
        ": ".repeat(long / 2),
        "- [".repeat(long / 3),
        indented(|depth| format!("{0}a:\n{0}-\n", " ".repeat(depth))),
        format!("{}{}", "- ".repeat(125), "[".repeat(250)),
        format!("{}{}", "[".repeat(250), "]".repeat(250)),
        indented(|depth| format!("{0}a:\n{0}-\n", " ".repeat(depth)))
            + &" ".repeat(250)
            + &"[a: ".repeat(250),
    ] {
        assert_ne!(told(&text), "");
    }
}

#[test]
fn alias_bombs_do_not_go_off() {
    let bomb = |first: &str, next: fn(usize) -> String| {
        let lines: String =
            (1..40).map(|level| format!("a{level}: &a{level} {}\n", next(level - 1))).collect();
        format!("a0: &a0 {first}\n{lines}")
    };
    for text in [
        bomb("[x, x, x, x, x, x, x, x, x]", |last| format!("[{}]", vec![format!("*a{last}"); 9].join(", "))),
        bomb("{x: x}", |last| format!("{{x: *a{last}, y: *a{last}}}")),
        bomb("[x, x]", |last| format!("{{? [*a{last}, *a{last}] : 1}}")),
        bomb("{x: x}", |last| format!("{{*a{last} : *a{last}}}")),
        bomb("{x: x}", |last| format!("{{<<: [*a{last}, *a{last}]}}")),
        "a: &a [*a, *a]".to_owned(),
    ] {
        assert_ne!(told(&text), "");
    }
}

#[test]
fn aliases_that_make_much_of_little_are_refused() {
    let row = |name: &str, item: &str, many| format!("{name}: &{name} [{}]\n", vec![item; many].join(", "));
    let long = format!("a: &a {}\n", "x".repeat(100_000));
    for text in [
        row("a", "1", 6000) + &row("b", "*a", 6000),
        long + &row("b", "*a", 6000),
        (row("a", "1", 400) + &row("b", "*a", 400) + "---\n").repeat(100),
        format!("a: &a {{{}}}\n", (0..600).map(|n| format!("k{n}: 1, ")).collect::<String>())
            + &format!("b: [{}]\n", "{<<: *a}, ".repeat(600)),
    ] {
        let started = Instant::now();
        assert!(told(&text).contains("has aliases that repeat too much"));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
    // What is no more than its length is no trouble.
    let text = row("a", "1", 100) + &row("b", "*a", 100);
    assert!(!told(&text).contains("repeat too much"));
    let twice = (0..16).map(|n| format!("k{n}: 1\nk{n}: 2\n")).collect::<String>() + &"# x\n".repeat(500_000);
    assert!(told(&twice).contains("here twice"));
}

#[test]
fn enormous_keys_and_numbers_are_told_of_in_short() {
    let job = "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {name: x}\nspec:\n";
    let old = "apiVersion: adaptdl.petuum.com/v1\nkind: AdaptDLJob\nmetadata: {name: x}\nspec:\n";
    let long = 1 << 20;
    for text in [
        format!("{job}  {}: 1\n", "k".repeat(long)),
        format!("{job}  ? {}\n  : 1\n", "k".repeat(long)),
        format!("{job}  maxReplicas: {}\n", "9".repeat(long)),
        format!("{job}  scaling: {{minEfficiency: 0.{}e-{}}}\n", "9".repeat(1000), "9".repeat(1000)),
        format!("{job}  activeDeadline: {}d\n", "9".repeat(long)),
        format!("{job}  resources: {{memory: {}Ei}}\n", "9".repeat(1000)),
        format!("{old}  maxReplicas: {}\n  template: {{}}\n", "9".repeat(long)),
        format!("{old}  {}: 1\n  template: {{spec: {{containers: []}}}}\n", "k".repeat(long)),
        format!("{old}  template: {{spec: {{containers: [{}]}}}}\n", "{name: x}, ".repeat(20_000)),
        format!(
            "{old}  template: {{spec: {{containers: [{{command: [x], env: [{}]}}]}}}}\n",
            "{valueFrom: {}}, ".repeat(20_000)
        ),
    ] {
        let told = told(&text);
        assert!(!told.is_empty() && told.len() < 200_000, "{} bytes of {}", told.len(), &text[..120]);
    }
}

#[test]
fn large_files_are_read_in_time_and_told_of_in_short() {
    let many = |line: fn(usize) -> String| (0..20_000).map(line).collect::<String>();
    let job = "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {name: x}\nspec:\n";
    let ec2 = |more: &str, instance: &str| {
        format!(
            "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: x}}\nspec:\n  \
             provider: {{aws: {{region: us-west-2, iamInstanceProfile: ray, subnets: [subnet-0{more}]}}}}\n  \
             head: {{instance: {{types: [m6i.large], image: {{id: ami-0}}{instance}}}}}\n"
        )
    };
    for text in [
        many(|number| format!("key{number}: 1\n")),
        many(|number| format!("&anchor{number} key{number}: 1\n")),
        many(|_| "---\nkind: x\n".to_owned()),
        many(|_| "same: 1\n".to_owned()),
        format!("{job}{}", many(|number| format!("  unknown{number}: 1\n"))),
        format!("{job}  args: [{}]", "1, ".repeat(1 << 17)),
        ec2(&", subnet-0".repeat(20_000), ""),
        ec2(&many(|number| format!(", s{number}")), ""),
        ec2("", &format!(", dataPath: /{}", "./".repeat(1 << 17))),
        ec2("", &format!(", docker: {{image: ray, runOptions: [{}]}}", "-v a, ".repeat(20_000))),
        ec2("", &format!(", docker: {{image: ray, runOptions: [-{}]}}", "d".repeat(1 << 18))),
        ec2("", &format!(", blockDevices: [{}]", "{deviceName: /dev/sdf}, ".repeat(20_000))),
        ec2("", &format!(", rayStart: {{{}}}", many(|number| format!("nubber-cpus{number}: x, ")))),
        format!("{job}  env:\n{}", "    - {name: A, name: A}\n".repeat(10_000)),
        format!("{job}  args: ['{}']\n  é: 1", "\n".repeat(1 << 19)),
        "x".repeat(1 << 20),
        "\n".repeat(1 << 20) + "x",
        "'".repeat(1 << 19),
        "\"".to_owned() + &"\\".repeat(1 << 19),
        "a: |\n".to_owned() + &" \n".repeat(1 << 19) + "\tx",
        "#".repeat(1 << 20) + "\nx",
        "!".repeat(1 << 19),
        "%".repeat(1 << 19),
        "*a ".repeat(1 << 19),
        "&a ".repeat(1 << 19),
    ] {
        let told = told(&text);
        assert!(!told.is_empty() && told.len() < 200_000, "{} bytes of {}", told.len(), &text[..80]);
    }
}
