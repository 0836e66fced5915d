//! Thousands of things that happen to files, at random: at the end the store is what the directory says.
//!
//! `SEED` repeats a run, and `OPERATIONS` makes it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use fastrand::Rng;
use serde_json::Value;

use super::{finish, see_source, state, watching_with};
use crate::world::World;

const OPERATIONS: u32 = 3000;
const NAMES: u32 = 40;
const FILES: u32 = 25;
const DIRECTORIES: [&str; 4] = ["", "a", "a/b", "c"];

/// A number from the environment, or another.
fn given(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(otherwise)
}

/// The directory, and what should be in it.
struct Storm {
    world: World,
    rng: Rng,
    /// What each file has, by its path: names of clusters, with their values.
    files: BTreeMap<String, BTreeMap<u32, u32>>,
    broken: BTreeSet<String>,
    revision: u32,
    value: u32,
}

impl Storm {
    fn path(&self, file: &str) -> PathBuf {
        self.world.path(&format!("watched/{file}"))
    }

    fn text(objects: &BTreeMap<u32, u32>) -> String {
        let document = |(name, value): (&u32, &u32)| {
            format!(
                "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: n{name}, labels: {{v: v{value}}}}}\n\
                 spec: {{provider: {{local: {{}}}}, suspend: true}}\n"
            )
        };
        objects.iter().map(document).collect::<Vec<_>>().join("---\n")
    }

    /// Writes a file in one of the ways in which files are written.
    fn write(&mut self, file: &str) {
        let (path, text) = (self.path(file), Self::text(&self.files[file]));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.broken.remove(file);
        match self.rng.u32(..4) {
            0 => fs::write(&path, &text).unwrap(),
            1 => {
                let new = path.with_extension("tmp");
                fs::write(&new, &text).unwrap();
                fs::rename(new, &path).unwrap();
            }
            2 => {
                fs::write(&path, &text[..self.rng.usize(..=text.len())]).unwrap();
                fs::write(&path, &text).unwrap();
            }
            _ => {
                let _ = fs::remove_file(&path);
                fs::write(&path, &text).unwrap();
            }
        }
    }

    fn some_file(&mut self) -> Option<String> {
        let files: Vec<String> =
            self.files.keys().filter(|file| !file.starts_with("link/")).cloned().collect();
        (!files.is_empty()).then(|| files[self.rng.usize(..files.len())].clone())
    }

    fn new_file(&mut self) -> String {
        let directory = DIRECTORIES[self.rng.usize(..DIRECTORIES.len())];
        let number = self.rng.u32(..FILES);
        if directory.is_empty() { format!("f{number}.yaml") } else { format!("{directory}/f{number}.yml") }
    }

    /// Which names no file has.
    fn free_name(&mut self) -> Option<u32> {
        let taken: BTreeSet<u32> = self.files.values().flat_map(|objects| objects.keys().copied()).collect();
        let free: Vec<u32> = (0..NAMES).filter(|name| !taken.contains(name)).collect();
        (!free.is_empty()).then(|| free[self.rng.usize(..free.len())])
    }

    fn step(&mut self) {
        self.value += 1;
        let value = self.value;
        match self.rng.u32(..100) {
            0..25 => {
                let file = self.new_file();
                if let Some(name) = self.free_name() {
                    self.files.entry(file.clone()).or_default().insert(name, value);
                    self.write(&file);
                }
            }
            25..50 => self.change(value),
            50..58 => self.break_one(),
            58..66 => {
                if let Some(file) = self.broken.pop_first() {
                    self.write(&file);
                }
            }
            66..74 => self.rename(),
            74..82 => self.move_one(),
            82..92 => self.remove(),
            92..96 => self.remove_directory(),
            _ => self.swap(value),
        }
    }

    fn change(&mut self, value: u32) {
        if let Some(file) = self.some_file() {
            let objects = self.files.get_mut(&file).unwrap();
            objects.values_mut().for_each(|before| *before = value);
            self.write(&file);
        }
    }

    fn break_one(&mut self) {
        if let Some(file) = self.some_file() {
            let text =
                ["]: [", "kind: [", "kind: Nothing\n", "\u{0}", "apiVersion: v1\n"][self.rng.usize(..5)];
            fs::write(self.path(&file), text).unwrap();
            self.broken.insert(file);
        }
    }

    fn rename(&mut self) {
        let (Some(from), to) = (self.some_file(), self.new_file()) else { return };
        if !self.files.contains_key(&to) {
            let target = self.path(&to);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::rename(self.path(&from), target).unwrap();
            let objects = self.files.remove(&from).unwrap();
            if self.broken.remove(&from) {
                self.broken.insert(to.clone());
            }
            self.files.insert(to, objects);
        }
    }

    /// Moves an object from a file to another: it is in both for a moment, or in none.
    fn move_one(&mut self) {
        let (Some(from), to) = (self.some_file(), self.new_file()) else { return };
        let Some((name, value)) = self.files[&from].first_key_value().map(|(name, value)| (*name, *value))
        else {
            return;
        };
        if from == to {
            return;
        }
        self.files.get_mut(&from).unwrap().remove(&name);
        self.files.entry(to.clone()).or_default().insert(name, value);
        let order = if self.rng.bool() { [from, to] } else { [to, from] };
        order.iter().for_each(|file| self.write(file));
    }

    fn remove(&mut self) {
        if let Some(file) = self.some_file() {
            fs::remove_file(self.path(&file)).unwrap();
            self.files.remove(&file);
            self.broken.remove(&file);
        }
    }

    /// Removes a directory, and sometimes makes it anew as it was.
    fn remove_directory(&mut self) {
        let directory = DIRECTORIES[1 + self.rng.usize(..DIRECTORIES.len() - 1)];
        let inside = |file: &String| file.starts_with(&format!("{directory}/"));
        let _ = fs::remove_dir_all(self.path(directory));
        let files: Vec<String> = self.files.keys().filter(|file| inside(file)).cloned().collect();
        let anew = self.rng.bool();
        for file in files {
            self.broken.remove(&file);
            match anew {
                true => self.write(&file),
                false => drop(self.files.remove(&file)),
            }
        }
    }

    /// Swaps a link to a tree with objects of its own.
    fn swap(&mut self, value: u32) {
        self.revision += 1;
        let revision = format!("rev-{}", self.revision);
        let objects = BTreeMap::from([(NAMES, value), (NAMES + 1 + self.rng.u32(..3), value)]);
        fs::create_dir_all(self.path(&revision)).unwrap();
        fs::write(self.path(&format!("{revision}/x.yaml")), Self::text(&objects)).unwrap();
        symlink(&revision, self.path("link.new")).unwrap();
        fs::rename(self.path("link.new"), self.path("link")).unwrap();
        let _ = fs::remove_dir_all(self.path(&format!("rev-{}", self.revision - 1)));
        self.files.insert("link/x.yaml".to_owned(), objects);
    }

    /// Breaks files, and moves some of them in the same moment: what they had stays as it was.
    fn last_good_stays(&mut self) {
        let wanted = self.wanted();
        (0..4).for_each(|_| self.break_one());
        let mut missing = BTreeSet::new();
        for (number, file) in self.broken.clone().into_iter().enumerate() {
            if self.rng.bool() {
                let moved = format!("moved{number}.yaml");
                fs::rename(self.path(&file), self.path(&moved)).unwrap();
                let objects = self.files.remove(&file).unwrap();
                missing.extend(objects.keys().map(|name| format!("raycluster/default/n{name}")));
                self.files.insert(moved.clone(), objects);
                self.broken.remove(&file);
                self.broken.insert(moved);
            }
        }
        let texts = |list: &Value, field: &str| -> BTreeSet<String> {
            let items = list.as_array().into_iter().flatten();
            items
                .filter_map(|item| if field.is_empty() { item.as_str() } else { item[field].as_str() })
                .map(str::to_owned)
                .collect()
        };
        see_source(&self.world, "watched", &format!("misses {missing:?}"), |source| {
            texts(&source["errors"], "file") == self.broken
                && texts(&source["pendingPrune"]["objects"], "") == missing
        });
        assert_eq!(self.stored(), wanted, "the last good manifests stay in force");
        while let Some(file) = self.broken.pop_first() {
            self.write(&file);
        }
    }

    /// What should be stored, by name: the value.
    fn wanted(&self) -> BTreeMap<String, String> {
        let objects = self.files.values().flatten();
        objects.map(|(name, value)| (format!("n{name}"), format!("v{value}"))).collect()
    }

    fn stored(&self) -> BTreeMap<String, String> {
        let list: Value = serde_json::from_str(&self.world.ok(&["get", "clusters", "-o", "json"])).unwrap();
        let items = list["items"].as_array().cloned().unwrap_or_else(|| vec![list.clone()]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata =
            items.iter().map(|item| &item["metadata"]).filter(|metadata| metadata["name"].is_string());
        metadata.map(|metadata| (text(&metadata["name"]), text(&metadata["labels"]["v"]))).collect()
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn whatever_happens_to_files_the_store_is_what_they_say() {
    let seed = given("SEED", || fastrand::u64(1..1_000_000));
    let operations = given("OPERATIONS", || u64::from(OPERATIONS));
    println!("SEED={seed} OPERATIONS={operations}");
    let world = watching_with(&["watched"], &["--max-prune", "100%"]);
    let (files, broken, rng) = (BTreeMap::new(), BTreeSet::new(), Rng::with_seed(seed));
    let mut storm = Storm { world, rng, files, broken, revision: 0, value: 0 };
    for number in 0..operations {
        storm.step();
        if number % 500 == 499 {
            // In the midst of it too: all is mended, and seen.
            while let Some(file) = storm.broken.pop_first() {
                storm.write(&file);
            }
            let wanted = storm.wanted();
            let world = &storm.world;
            world.wait(
                &format!("SEED={seed}, after {number}: the store is what files say: {wanted:#?}"),
                || (storm.stored() == wanted).then_some(()),
            );
            storm.last_good_stays();
        }
    }
    see_source(&storm.world, "watched", "is well", |source| {
        state(source) == "Synced" && source["errors"] == Value::Array(Vec::new())
    });
    finish(storm.world, &["watched"]);
}
