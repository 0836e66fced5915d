//! Places for workers, and which of them to take. Equal places are kept together, so that a decision looks at a few
//! kinds of places and not at each of thousands.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::capacity::Capacity;
use crate::api::ids::NodeName;

/// A place for workers: a node that is there, or one that could be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A node that is there or being launched.
    Node(NodeName),
    /// The how-many-eth node that a worker group could still launch.
    New(String, u32),
}

/// A place, by borrowed names.
#[derive(Clone, Copy)]
pub(super) enum Site<'v> {
    /// A node that is there or being launched.
    Node(&'v NodeName),
    /// The how-many-eth node that a worker group could still launch.
    New(&'v str, u32),
}

impl From<Site<'_>> for Place {
    fn from(site: Site<'_>) -> Self {
        match site {
            Site::Node(name) => Self::Node(name.clone()),
            Site::New(group, number) => Self::New(group.to_owned(), number),
        }
    }
}

/// A place, and what is free there.
pub(super) struct Room<'v> {
    pub(super) site: Site<'v>,
    pub(super) ready: bool,
    /// It will be taken away, though not at once: workers that are there stay if they have nowhere else to go.
    pub(super) leaving: bool,
    /// It is outdated: workers that are there stay, and there will be no more.
    pub(super) closed: bool,
    pub(super) free: Capacity,
}

/// Rooms by their number on the floor, and how many workers are in each, the first of them with rank 0.
pub(super) type Spots = Vec<(usize, u32)>;

/// All rooms.
#[derive(Default)]
pub(super) struct Floor<'v> {
    rooms: Vec<Room<'v>>,
    nodes: FxHashMap<&'v NodeName, usize>,
    kinds: BTreeMap<Kind, BTreeSet<usize>>,
}

/// What rooms have in common that are as good as each other. Ready comes before launching before new.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    unready: bool,
    new: bool,
    leaving: bool,
    closed: bool,
    free: Capacity,
}

/// Where the workers of a job are: the rooms, that of rank 0 first, then those with most of them.
pub(super) struct Standing {
    first: Option<usize>,
    kept: Vec<(usize, u32)>,
}

/// Which rooms are better: whether they are unready, whether they are new, and how many workers fit.
type Rank = (bool, bool, Reverse<u32>);

/// Which rooms are looked at.
#[derive(Clone, Copy, Default)]
struct Only {
    ready: bool,
    lasting: bool,
}

impl Room<'_> {
    fn kind(&self) -> Kind {
        let new = matches!(self.site, Site::New(..));
        let (leaving, closed) = (self.leaving, self.closed);
        Kind { unready: !self.ready, new, leaving, closed, free: self.free.clone() }
    }
}

impl Only {
    fn admits(self, ready: bool, leaving: bool) -> bool {
        (ready || !self.ready) && !(leaving && self.lasting)
    }
}

impl<'v> Floor<'v> {
    /// One more room. Those that come first are taken first.
    pub(super) fn add(&mut self, room: Room<'v>) {
        let index = self.rooms.len();
        if let Site::Node(name) = room.site {
            self.nodes.entry(name).or_insert(index);
        }
        self.kinds.entry(room.kind()).or_default().insert(index);
        self.rooms.push(room);
    }

    /// Workers of this need are placed there.
    pub(super) fn take(&mut self, spots: &[(usize, u32)], need: &Capacity) {
        self.change(spots, |free, workers| free.take(need, workers));
    }

    /// Workers of this need are no longer placed there.
    pub(super) fn give(&mut self, spots: &[(usize, u32)], need: &Capacity) {
        self.change(spots, |free, workers| free.give(need, workers));
    }

    fn change(&mut self, spots: &[(usize, u32)], change: impl Fn(&mut Capacity, u32)) {
        for (index, workers) in spots {
            let before = self.rooms[*index].kind();
            if let Some(alike) = self.kinds.get_mut(&before) {
                alike.remove(index);
                if alike.is_empty() {
                    self.kinds.remove(&before);
                }
            }
            change(&mut self.rooms[*index].free, *workers);
            self.kinds.entry(self.rooms[*index].kind()).or_default().insert(*index);
        }
    }

    /// Whether all of these are there.
    pub(super) fn are_ready(&self, spots: &[(usize, u32)]) -> bool {
        spots.iter().all(|(index, _)| self.rooms[*index].ready)
    }

    /// The places of ranks.
    pub(super) fn places(&self, spots: &[(usize, u32)]) -> Vec<Place> {
        let sites = spots
            .iter()
            .flat_map(|(index, workers)| std::iter::repeat_n(self.rooms[*index].site, *workers as usize));
        sites.map(Place::from).collect()
    }

    /// Where workers on these nodes are.
    pub(super) fn standing(&self, current: &[NodeName]) -> Standing {
        let first = current.first().and_then(|name| self.nodes.get(name)).copied();
        let mut has: BTreeMap<usize, u32> = BTreeMap::new();
        for index in current.iter().filter_map(|name| self.nodes.get(name)) {
            *has.entry(*index).or_default() += 1;
        }
        let mut kept: Vec<(usize, u32)> = has.into_iter().collect();
        kept.sort_by_key(|(index, has)| (Some(*index) != first, Reverse(*has), *index));
        Standing { first, kept }
    }

    /// As many workers as fit on the nodes that are ready, up to a number.
    pub(super) fn place_ready(&self, current: &Standing, need: &Capacity, replicas: u32) -> Spots {
        let only = Only { ready: true, ..Only::default() };
        let fit = |replicas| self.place_only(current, need, replicas, only);
        (1..=replicas).rev().find_map(fit).unwrap_or_default()
    }

    /// Places for so many workers, or `None` if there is no room: away from nodes that will be taken away, or else, for
    /// those that are there, also on these.
    pub(super) fn place(&self, current: &Standing, need: &Capacity, replicas: u32) -> Option<Spots> {
        self.place_only(current, need, replicas, Only::default())
    }

    fn place_only(&self, current: &Standing, need: &Capacity, replicas: u32, only: Only) -> Option<Spots> {
        let lasting = self.fit(current, need, replicas, Only { lasting: true, ..only });
        let leaving = || self.kinds.keys().any(|kind| kind.leaving);
        lasting.or_else(|| if leaving() { self.fit(current, need, replicas, only) } else { None })
    }

    /// Places for so many workers, ranks of one node side by side, or `None` if there is no room. A job keeps the
    /// nodes it has, those of rank 0 and of most workers first; beyond that it takes the nodes with the most room, so
    /// that it is spread over few.
    fn fit(&self, current: &Standing, need: &Capacity, replicas: u32, only: Only) -> Option<Spots> {
        let admitted = |index: usize| only.admits(self.rooms[index].ready, self.rooms[index].leaving);
        let kept: Vec<(usize, u32)> =
            current.kept.iter().copied().filter(|(index, _)| admitted(*index)).collect();
        let mut left = replicas;
        let mut taken: Spots = Vec::with_capacity(kept.len());
        for (index, has) in &kept {
            let workers = left.min(*has).min(self.rooms[*index].free.fits(need));
            left -= workers;
            taken.push((*index, workers));
        }
        // More of what it has, and then the best of the others.
        if left > 0 {
            let stays = |index: usize| !self.rooms[index].leaving && !self.rooms[index].closed;
            let mut roomy: Vec<&mut (usize, u32)> =
                taken.iter_mut().filter(|(index, _)| stays(*index)).collect();
            roomy.sort_by_key(|(index, _)| self.rank(*index, need, replicas));
            for (index, workers) in roomy {
                let more = left.min(self.rooms[*index].free.fits(need).saturating_sub(*workers));
                *workers += more;
                left -= more;
            }
        }
        if left > 0 {
            for index in self.best(need, replicas, only) {
                if kept.iter().any(|(known, _)| *known == index) {
                    continue; // It has given all that it has.
                }
                let workers = left.min(self.rooms[index].free.fits(need));
                taken.push((index, workers));
                left -= workers;
                if left == 0 {
                    break;
                }
            }
        }
        if left > 0 {
            return None;
        }
        // Rank 0 stays where it is, for its node has the newest checkpoint; then by place.
        taken.retain(|(_, workers)| *workers > 0);
        taken.sort_by_key(|(index, _)| (Some(*index) != current.first, *index));
        Some(taken)
    }

    /// Ready before launching before new, as they come; then those with the most room.
    fn rank(&self, index: usize, need: &Capacity, replicas: u32) -> (Rank, usize) {
        let room = &self.rooms[index];
        let new = matches!(room.site, Site::New(..));
        ((!room.ready, new, Reverse(room.free.fits(need).min(replicas))), index)
    }

    /// The rooms that have any for such workers and will stay, the best first.
    fn best(&self, need: &Capacity, replicas: u32, only: Only) -> impl Iterator<Item = usize> {
        let mut equals: BTreeMap<Rank, Vec<&BTreeSet<usize>>> = BTreeMap::new();
        for (kind, rooms) in &self.kinds {
            let fits = kind.free.fits(need).min(replicas);
            let open = !kind.leaving && !kind.closed;
            if fits > 0 && open && only.admits(!kind.unready, kind.leaving) {
                equals.entry((kind.unready, kind.new, Reverse(fits))).or_default().push(rooms);
            }
        }
        equals.into_values().flat_map(merged)
    }
}

/// The numbers of several sets, the smallest first, without looking at more of them than are asked for.
fn merged(sets: Vec<&BTreeSet<usize>>) -> impl Iterator<Item = usize> {
    let mut sets: Vec<_> = sets.into_iter().map(|set| set.iter().copied().peekable()).collect();
    std::iter::from_fn(move || {
        let next =
            sets.iter_mut().filter_map(|set| Some((*set.peek()?, set))).min_by_key(|(number, _)| *number);
        next.and_then(|(_, set)| set.next())
    })
}
