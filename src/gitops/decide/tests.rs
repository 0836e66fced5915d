use super::*;
use crate::api::meta::ObjectMeta;
use crate::api::object::Object;

const SOURCE: &str = "/here";

fn id(name: &str) -> Id {
    // A cluster by a capital letter.
    let kind = if name.starts_with(char::is_uppercase) { Kind::RayCluster } else { Kind::AdaptDLJob };
    (kind, ObjectKey::new("default", name.to_lowercase()))
}

fn declared(name: &str, digest: &str) -> Declared {
    let (kind, key) = id(name);
    let metadata = ObjectMeta::named(&key.namespace, &key.name);
    let object = match kind {
        Kind::AdaptDLJob => {
            let spec = serde_json::from_value(serde_json::json!({"command": ["a"]})).unwrap();
            AnyObject::Job(Box::new(Object { metadata, spec, status: Default::default() }))
        }
        Kind::RayCluster => {
            let spec = serde_json::from_value(serde_json::json!({"provider": {"local": {}}})).unwrap();
            AnyObject::Cluster(Box::new(Object { metadata, spec, status: Default::default() }))
        }
    };
    Declared { object: Arc::new(object), line: 1, digest: digest.to_owned() }
}

/// What there is, to be changed by a test before something is decided.
struct Case {
    files: BTreeMap<String, Vec<Declared>>,
    origins: BTreeMap<Id, Origin>,
    place: Place,
    unmounted: BTreeSet<String>,
    unclear: Vec<SourceError>,
    unfit: BTreeMap<Id, SourceError>,
    foreign: BTreeSet<String>,
    elsewhere: BTreeSet<Id>,
    unseen: Option<&'static str>,
    departed: BTreeMap<Id, Departure>,
    touched: BTreeSet<Id>,
    young: BTreeSet<Id>,
    condemned: BTreeSet<Id>,
    self_heal: bool,
    recent: usize,
    max_prune: f64,
}

impl Case {
    /// All of these are stored, each from a file of its own, and the files of `gone` are gone.
    fn new(names: &[&str], gone: &[&str]) -> Self {
        let file = |name: &str| format!("{name}.yaml");
        let origin = |name: &&str| {
            let origin = Origin {
                source: Some(SOURCE.to_owned()),
                file: file(name),
                digest: "1".to_owned(),
                ..Origin::default()
            };
            (id(name), origin)
        };
        let there = names.iter().filter(|name| !gone.contains(name));
        Self {
            files: there.map(|name| (file(name), vec![declared(name, "1")])).collect(),
            origins: names.iter().map(origin).collect(),
            place: Place::There,
            unmounted: BTreeSet::new(),
            unclear: Vec::new(),
            unfit: BTreeMap::new(),
            foreign: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            unseen: None,
            departed: BTreeMap::new(),
            touched: BTreeSet::new(),
            young: BTreeSet::new(),
            condemned: BTreeSet::new(),
            self_heal: true,
            recent: 0,
            max_prune: 0.5,
        }
    }

    fn origin(&mut self, name: &str) -> &mut Origin {
        self.origins.get_mut(&id(name)).unwrap()
    }

    /// Somebody has deleted it, or it was finished for long enough.
    fn depart(&mut self, name: &str, cause: Cause) {
        let departure = Departure { source: SOURCE.to_owned(), digest: "1".to_owned(), cause };
        self.departed.insert(id(name), departure);
    }

    fn decide(&self) -> Decision {
        let (wanted, _) = claims(&self.files, &self.origins, SOURCE);
        let known = self.origins.keys().chain(self.departed.keys());
        let believed = known.filter(|id| !self.young.contains(*id)).cloned().collect();
        decide(&Facts {
            source: SOURCE,
            sources: &[SOURCE.to_owned(), "/there".to_owned()].into(),
            place: self.place,
            unmounted: &self.unmounted,
            wanted: &wanted,
            unclear: &self.unclear,
            unfit: &self.unfit,
            foreign: &self.foreign,
            elsewhere: &self.elsewhere,
            unseen: self.unseen,
            origins: &self.origins,
            touched: Some(&self.touched),
            departed: &self.departed,
            self_heal: self.self_heal,
            believed: &believed,
            condemned: &self.condemned,
            recent: self.recent,
            max_prune: self.max_prune,
        })
    }
}

fn ids(names: &[&str]) -> Vec<Id> {
    names.iter().map(|name| id(name)).collect()
}

#[test]
fn nothing_is_done_when_all_is_well() {
    assert_eq!(Case::new(&["a", "b", "C"], &[]).decide(), Decision::default());
}

#[test]
fn clusters_are_made_before_the_jobs_on_them_and_go_after_them() {
    let mut case = Case::new(&["a", "Z"], &[]);
    case.origins.clear();
    assert_eq!(case.decide().apply, ids(&["Z", "a"]));

    let mut case = Case::new(&["a", "b", "Z", "other"], &["a", "Z"]);
    case.origin("a").cluster = Some(id("Z").1);
    assert_eq!(case.decide().delete, ids(&["a"]), "the cluster waits for its job");
    case.origin("a").deleting = true;
    assert_eq!(case.decide().delete, ids(&[]), "until it has gone");
    case.origins.remove(&id("a"));
    assert_eq!(case.decide().delete, ids(&["Z"]));
    // A job that stays does not keep its cluster.
    case.origin("b").cluster = Some(id("Z").1);
    assert_eq!(case.decide().delete, ids(&["Z"]));
}

#[test]
fn what_a_file_says_anew_is_applied_and_what_a_hand_did_is_looked_at() {
    let mut case = Case::new(&["a", "b", "c", "d"], &[]);
    case.origin("a").digest = "0".to_owned();
    case.origin("b").file = "before.yaml".to_owned();
    case.origin("c").error = Some("broken".to_owned());
    case.touched.insert(id("d"));
    let decision = case.decide();
    assert_eq!((decision.apply, decision.inspect), (ids(&["a", "b", "c"]), ids(&["d"])));
}

#[test]
fn what_was_deleted_by_hand_is_made_again_unless_that_is_switched_off() {
    let mut case = Case::new(&["a", "b"], &[]);
    case.origin("b").deleting = true;
    case.origins.remove(&id("a"));
    ["a", "b"].iter().for_each(|name| case.depart(name, Cause::Deleted));
    let decision = case.decide();
    assert_eq!((decision.apply, decision.going), (ids(&["a"]), ids(&["b"])));
    case.self_heal = false;
    let decision = case.decide();
    assert_eq!((decision.apply, decision.going, decision.absent), (ids(&[]), ids(&[]), ids(&["a", "b"])));
    // Its file's next word is the last one.
    case.files.insert("a.yaml".to_owned(), vec![declared("a", "2")]);
    assert_eq!((case.decide().apply, case.decide().absent), (ids(&["a"]), ids(&["b"])));
}

#[test]
fn what_is_finished_is_not_made_again_before_its_file_changes() {
    let mut case = Case::new(&["a", "b", "c"], &[]);
    case.depart("a", Cause::Finished);
    case.origin("a").deleting = true;
    assert_eq!((case.decide().finished, case.decide().going), (ids(&["a"]), ids(&[])));
    case.origins.remove(&id("a"));
    assert_eq!((case.decide().finished, case.decide().apply), (ids(&["a"]), ids(&[])));
    // Not from another source either, or under another name of this one.
    case.departed.get_mut(&id("a")).unwrap().source = "/there".to_owned();
    assert_eq!(case.decide().finished, ids(&["a"]));
    case.depart("a", Cause::Finished);
    case.files.insert("a.yaml".to_owned(), vec![declared("a", "2")]);
    assert_eq!((case.decide().finished, case.decide().apply), (ids(&[]), ids(&["a"])));

    // It is known until its file has gone, for sure.
    case.files.remove("a.yaml");
    assert_eq!((case.decide().forget, case.decide().delete), (ids(&["a"]), ids(&[])));
    case.young.insert(id("a"));
    assert_eq!((case.decide().forget, case.decide().missing), (ids(&[]), [id("a")].into()));
    case.young.clear();
    case.unclear = vec![SourceError { file: "b.yaml".to_owned(), message: String::new() }];
    assert_eq!(case.decide().forget, ids(&[]));
    case.unclear.clear();
    case.files.clear();
    assert_eq!(case.decide().forget, ids(&[]), "the directory may come back");
}

#[test]
fn an_object_has_one_owner() {
    let mut case = Case::new(&["a", "b", "c"], &[]);
    case.origin("a").source = Some("/there".to_owned());
    case.origin("a").file = "x.yaml".to_owned();
    case.origin("b").source = Some("/not/watched/any/more".to_owned());
    case.origin("c").source = None;
    let decision = case.decide();
    assert_eq!(decision.apply, ids(&["b", "c"]), "what belongs to nobody is taken over");
    let expected = "a.yaml:1: AdaptDLJob default/a already comes from /there (x.yaml), and stays in force as it is there";
    assert_eq!(decision.refused[0].message, expected);

    // Gone from here and wanted there, it changes hands and does not stop; but only when that is believed.
    let mut case = Case::new(&["a", "b", "c"], &["a"]);
    case.elsewhere.insert(id("a"));
    assert_eq!((case.decide().release, case.decide().delete), (ids(&["a"]), ids(&[])));
    case.young.insert(id("a"));
    assert_eq!((case.decide().release, case.decide().delete), (ids(&[]), ids(&[])));
}

#[test]
fn of_two_files_the_one_that_has_it_keeps_it() {
    let mut case = Case::new(&["b"], &[]);
    case.files.insert("a.yaml".to_owned(), vec![declared("b", "2")]);
    let (wanted, errors) = claims(&case.files, &case.origins, SOURCE);
    assert_eq!(wanted[&id("b")].file, "b.yaml");
    let expected =
        "a.yaml:1: the AdaptDLJob default/b is here twice: b.yaml:1 has it too, and stays in force";
    assert_eq!((errors[0].file.as_str(), errors[0].message.as_str()), ("a.yaml", expected));
    // Without one that has it already, the first by name has it; and then the other, when it is the only one.
    assert_eq!(claims(&case.files, &BTreeMap::new(), SOURCE).0[&id("b")].file, "a.yaml");
    case.files.remove("b.yaml");
    assert_eq!(claims(&case.files, &case.origins, SOURCE).0[&id("b")].file, "a.yaml");
}

#[test]
fn what_is_not_known_stays() {
    let mut case = Case::new(&["a", "b", "c", "d"], &["a", "b"]);
    let error = |file: &str| SourceError { file: file.to_owned(), message: format!("{file} is broken") };
    case.origin("a").file = "dir/a.yaml".to_owned();
    case.unclear = vec![error("dir")];
    let decision = case.decide();
    assert_eq!(decision.hold, [(id("a"), "dir is broken".to_owned())]);
    // Each is told of its own mistake, and not of one that another file makes.
    let own = |file: &str| SourceError { message: "its own mistake".to_owned(), ..error(file) };
    case.unfit.insert(id("a"), own("dir/a.yaml"));
    assert_eq!(case.decide().hold, [(id("a"), "its own mistake".to_owned())]);
    case.unfit.insert(id("a"), own("other.yaml"));
    assert_eq!(case.decide().hold, decision.hold);
    // The other one may have been moved there.
    let reason = |case: &Case| case.decide().blocked.map(|pending| pending.reason);
    assert_eq!(decision.delete, ids(&[]));
    assert_eq!(reason(&case).unwrap(), "dir cannot be read or is not right, and may have them");
    case.max_prune = 1.0;
    case.unclear = vec![error("new.yaml"), error("new.yaml"), error("z.yaml")];
    let expected = "new.yaml and 1 more cannot be read or are not right, and may have them";
    assert_eq!((reason(&case).unwrap().as_str(), case.decide().delete), (expected, ids(&[])));
    case.condemned = ids(&["a", "b"]).into_iter().collect();
    assert_eq!(case.decide().delete, ids(&["a", "b"]), "they were confirmed");
    case.condemned.clear();
    case.foreign = ["new.yaml", "z.yaml"].map(str::to_owned).into();
    assert_eq!(case.decide().delete, ids(&["a", "b"]), "they are nobody's manifests");
    case.unclear.clear();
    case.unseen = Some("/there");
    assert_eq!(reason(&case).unwrap(), "/there could not be looked at yet, and may have them");
    case.unseen = None;
    assert_eq!(case.decide().delete, ids(&["a", "b"]));
    case.unclear = vec![error("")];
    assert_eq!(case.decide().hold.len(), 2, "the whole directory is not known");
}

#[test]
fn what_is_to_stay_and_what_goes_already_is_not_asked_to_go() {
    let mut case = Case::new(&["a", "b", "c", "d", "e", "f"], &["a", "b", "c"]);
    case.origin("a").stays = true;
    case.origin("b").deleting = true;
    case.young.insert(id("c"));
    let decision = case.decide();
    assert_eq!((decision.delete, decision.missing), (ids(&[]), BTreeSet::from([id("c")])));
    case.young.clear();
    assert_eq!(case.decide().delete, ids(&["c"]));
}

#[test]
fn many_at_once_are_asked_about() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let blocked = |case: &Case| {
        case.decide().blocked.map(|pending| (pending.reason, pending.objects.len(), pending.of))
    };
    // Half of them is not more than half.
    assert_eq!(blocked(&Case::new(&names, &["a", "b", "c"])), None);
    let mut case = Case::new(&names, &["a", "b", "c", "d"]);
    let reason = "4 of its 6 objects are gone at once, more than --max-prune 50%".to_owned();
    assert_eq!(blocked(&case), Some((reason, 4, 6)));
    assert_eq!(case.decide().delete, ids(&[]), "none goes before that");
    case.max_prune = 0.7;
    assert_eq!(case.decide().delete.len(), 4, "the limit is higher");
    // Those that were confirmed go; of the others it is asked again.
    case.max_prune = 0.2;
    case.condemned = [id("a")].into();
    let decision = case.decide();
    assert_eq!((decision.delete, decision.blocked.unwrap().objects.len()), (ids(&["a"]), 3));
    // One after the other is at once too.
    let mut case = Case::new(&["c", "d", "e", "f"], &["c"]);
    assert_eq!(blocked(&case), None);
    case.recent = 2;
    let reason = "3 of its 6 objects are gone at once, more than --max-prune 40%".to_owned();
    case.max_prune = 0.4;
    assert_eq!(blocked(&case), Some((reason, 1, 4)));
    // Two of three are few.
    assert_eq!(blocked(&Case::new(&["a", "b", "c"], &["a", "b"])), None);
}

#[test]
fn an_empty_or_vanished_directory_is_asked_about() {
    let reason = |case: &Case| case.decide().blocked.map(|pending| pending.reason);
    let mut case = Case::new(&["a"], &["a"]);
    assert_eq!(reason(&case).unwrap(), "it holds no object any more");
    case.max_prune = 1.0;
    assert_eq!(reason(&case), None, "everything may go");
    case.place = Place::Vanished;
    assert_eq!(reason(&case).unwrap(), "it is not there any more", "but not with the directory");
    case.place = Place::Elsewhere;
    assert!(reason(&case).unwrap().contains("is it mounted?"));
    // On another file system, and all there: a machine that was started anew.
    case.files.insert("b.yaml".to_owned(), vec![declared("b", "1")]);
    assert_eq!(reason(&case), None);
}

#[test]
fn a_directory_in_it_may_be_unmounted_too() {
    let mut case = Case::new(&["a", "b", "c", "d"], &["a"]);
    case.origin("a").file = "team/a.yaml".to_owned();
    case.unmounted.insert("team".to_owned());
    case.max_prune = 1.0;
    let reason = |case: &Case| case.decide().blocked.map(|pending| pending.reason);
    let expected = "team is empty, and no file system of its own any more: is it mounted?";
    assert_eq!(reason(&case).unwrap(), expected);
    case.origin("a").file = "teams/a.yaml".to_owned();
    assert_eq!(reason(&case), None, "it was not in there");
}

#[test]
fn sets_are_told_apart_by_their_digests() {
    let digest = |gone: &[&str]| {
        let case = Case::new(&["a", "b", "c", "d"], gone);
        case.decide().blocked.unwrap().digest
    };
    assert_eq!(digest(&["a", "b", "c"]), digest(&["a", "b", "c"]));
    assert_ne!(digest(&["a", "b", "c"]), digest(&["a", "b", "d"]));
}
