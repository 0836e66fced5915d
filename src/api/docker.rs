//! How `docker run` reads its options, as far as whoever looks at them must know.

/// Options that take no value (Docker's reference, `docker container run`).
pub const FLAGS: [&str; 12] = [
    "--disable-content-trust",
    "--help",
    "--init",
    "--interactive",
    "--no-healthcheck",
    "--oom-kill-disable",
    "--privileged",
    "--publish-all",
    "--quiet",
    "--read-only",
    "--sig-proxy",
    "--tty",
];

/// The same, in one letter.
pub const SHORT_FLAGS: &str = "diPqt";

/// Options in one letter that take a value, with their long names.
pub const SHORT: [(char, &str); 10] = [
    ('a', "--attach"),
    ('c', "--cpu-shares"),
    ('e', "--env"),
    ('h', "--hostname"),
    ('l', "--label"),
    ('m', "--memory"),
    ('p', "--publish"),
    ('u', "--user"),
    ('v', "--volume"),
    ('w', "--workdir"),
];
