//! Files that are made to harm, or broken: nothing of them is run, and nothing grows beyond its bounds.

use std::path::Path;

use proptest::prelude::*;
use rayconcile::inspect::Checkpoint;

use super::fixtures::{adaptdl, call, dict, pickle, tensor, text, torch};

/// What is said of a file, whatever it is.
fn look(path: &Path) -> Result<Checkpoint, String> {
    let checkpoint = Checkpoint::read(path).map_err(|error| error.to_string())?;
    for tensor in &checkpoint.tensors {
        // Whether that can be said or not.
        let _ = tensor.stats();
    }
    assert!(checkpoint.diff(&checkpoint).values.is_empty());
    Ok(checkpoint)
}

fn look_at(contents: &[u8]) -> Result<Checkpoint, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("some.pt");
    std::fs::write(&path, contents).unwrap();
    look(&path).map_err(|error| error.replace(&path.display().to_string(), "FILE"))
}

/// What is wrong with the one file.
fn problem(contents: &[u8]) -> String {
    match look_at(contents) {
        Ok(checkpoint) => checkpoint.files[0].problem.clone().unwrap_or_default(),
        Err(error) => error,
    }
}

#[test]
fn nothing_of_a_pickle_is_run() {
    let directory = tempfile::tempdir().unwrap();
    let ran = directory.path().join("ran");
    let harm = call("os", "system", &[text(&format!("touch {}", ran.display()))]);
    let checkpoint = look_at(&torch(
        &dict(&[("harm", harm.clone()), ("w", tensor("0", 0, &[1], &[1]))]),
        &[("0", &[2.0])],
    ))
    .unwrap();
    let shown = format!("os.system({:?})", format!("touch {}", ran.display()));
    assert_eq!(checkpoint.values, [("harm".to_owned(), shown.clone().into())]);
    assert_eq!(checkpoint.tensors[0].stats().unwrap().norm, 2.0);
    let plain = look_at(&pickle(&harm)).unwrap();
    assert_eq!(plain.values, [("value".to_owned(), shown.into())]);
    assert!(!ran.exists());
}

#[test]
fn bombs_do_not_go_off() {
    // Lists of lists of lists, each ten times the one before: 10^60 items.
    let mut nested = b"](K\x01K\x02eq\0".to_vec();
    for level in 0..60_u8 {
        nested.extend(b"](");
        nested.extend([b'h', level].repeat(10));
        nested.extend([b'e', b'q', level + 1]);
    }
    let more = "it has more in it than is listed";
    assert_eq!(problem(&pickle(&nested)), more);
    // Itself within itself, and deeper than any stack.
    assert_eq!(problem(&pickle(b"]q\0h\0a")), format!("FILE is no checkpoint: {more}"));
    let deep = [b"]".repeat(100_000), b"a".repeat(99_999)].concat();
    assert_eq!(problem(&pickle(&deep)), format!("FILE is no checkpoint: {more}"));
    // Promises that nothing keeps.
    let promise = [b"\x8e".as_slice(), &u64::MAX.to_le_bytes(), b"x"].concat();
    assert_eq!(
        problem(&pickle(&promise)),
        "FILE is no checkpoint: it ends too early, 13 bytes into its pickle"
    );
    let words = [b"\x8d".as_slice(), &(1_u64 << 40).to_le_bytes(), b"x"].concat();
    assert_eq!(
        problem(&pickle(&words)),
        "FILE is no checkpoint: it has too much text, 11 bytes into its pickle"
    );
    // Many steps, in one pickle or in many.
    let steps = pickle(&[&b"N0".repeat(1 << 20), b"N".as_slice()].concat());
    assert_eq!(problem(&steps), "");
    assert!(problem(&steps.repeat(4)).contains("it takes too many steps"));
    // A counter that is counted again and again.
    let counter = b"}q\0(K\0K\0K\x01K\x01uccollections\nCounter\nq\x010".to_vec();
    let again = [counter, b"h\x01h\0\x85Rq\0".repeat(1000)].concat();
    assert_eq!(problem(&pickle(&again)), "");
}

#[test]
fn tensors_that_claim_too_much_are_refused() {
    let said = |shape: &[u64], strides: &[u64], offset: u64| {
        let contents = torch(&dict(&[("t", tensor("0", offset, shape, strides))]), &[("0", &[1.0; 8])]);
        look_at(&contents).unwrap().tensors[0].stats().map(|stats| stats.norm)
    };
    let large = Err("it is larger than its storage".to_owned());
    assert_eq!(said(&[9], &[1], 0), large);
    assert_eq!(said(&[8], &[1], 1), large);
    assert_eq!(said(&[2, u64::MAX >> 1], &[1, u64::MAX >> 1], 0), large);
    assert_eq!(said(&[1], &[1], u64::MAX >> 1), large);
    assert_eq!(said(&[1, 1], &[1], 0), Err("its strides do not fit its shape".to_owned()));
    assert_eq!(said(&[1 << 40, 1 << 20], &[0, 0], 0), Ok((2.0_f64).powi(30)));
    let many = vec![2; 40];
    let crossed: Vec<u64> = (0..40).map(|dimension| u64::from(dimension < 7)).collect();
    assert!(said(&many, &crossed, 0).is_ok());
    // More dimensions than torch has: it is only named.
    let flat = torch(&dict(&[("t", tensor("0", 0, &[1; 65], &[1; 65]))]), &[("0", &[1.0])]);
    assert!(look_at(&flat).unwrap().tensors.is_empty());
    let sparse = torch(&dict(&[("t", tensor("9", 0, &[1], &[1]))]), &[("0", &[1.0])]);
    let missing = look_at(&sparse).unwrap().tensors[0].stats();
    assert_eq!(missing.unwrap_err(), "its storage \"9\" is missing: the file is cut off");
}

#[test]
fn links_in_archives_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    adaptdl(&outside, 2, &[1.0; 6]);
    adaptdl(&directory.path().join("inside"), 3, &[1.0; 6]);
    let path = directory.path().join("kept.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    archive.append_dir_all("checkpoint-3", directory.path().join("inside")).unwrap();
    for name in ["checkpoint-9", "checkpoint-3/other"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, &outside).unwrap();
    }
    archive.finish().unwrap();
    let checkpoint = look(&path).unwrap();
    assert_eq!((checkpoint.group, checkpoint.files.len()), (Some(3), 4));
}

/// Lines of protocol 0, and functions that are understood.
const LINES: [&str; 9] = [
    "I5\n",
    "F1\n",
    "ia\nb\n",
    "ccollections\nCounter\n",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ctorch\nFloatStorage\n",
    "cnumpy.core.multiarray\nscalar\n",
    "cnumpy\ndtype\n",
    "c_codecs\nencode\n",
];

/// Steps of a pickle, with arguments that mostly fit.
fn steps() -> impl Strategy<Value = Vec<u8>> {
    let plain = b"(012N)]}tldaesubRoQ\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x98".to_vec();
    let place = (prop::sample::select(b"KhqU\x8c\x8aC".to_vec()), 0_u8..4);
    let step = prop_oneof![
        6 => prop::sample::select(plain).prop_map(|step| vec![step]),
        3 => place.prop_map(|(step, place)| vec![step, place]),
        1 => Just(text("storage")),
        1 => prop::sample::select(LINES.to_vec()).prop_map(|line| line.as_bytes().to_vec()),
    ];
    prop::collection::vec(step, 0..200).prop_map(|steps| steps.concat())
}

proptest! {
    #[test]
    fn whatever_a_pickle_says_is_survived(steps in steps(), stop in any::<bool>()) {
        let mut contents = [b"\x80\x04", steps.as_slice()].concat();
        contents.extend(stop.then_some(b'.'));
        let _ = look_at(&contents);
        let _ = look_at(&torch(&steps, &[("0", &[1.0; 4])]));
    }

    #[test]
    fn whatever_becomes_of_a_file_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let directory = tempfile::tempdir().unwrap();
        adaptdl(directory.path(), 2, &[1.0; 6]);
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut contents = std::fs::read(&path).unwrap();
            for (place, byte) in &changes {
                *place.get_mut(&mut contents) = *byte;
            }
            if let Some(end) = end {
                contents.truncate(end.index(contents.len()));
            }
            std::fs::write(&path, contents).unwrap();
        }
        let _ = look(directory.path());
    }
}
