//! What keeps plans safe, each by a name, so that tests can show that each is needed.

/// One thing that a plan never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Guard {
    /// A node is not taken for gone because an observation failed.
    AbsenceIsSeen = 1 << 0,
    /// A node is not taken for gone because of what was seen before it was launched.
    AbsenceIsRecent = 1 << 1,
    /// A node is not launched again while it is not known what came of its launch.
    LaunchIsSettled = 1 << 2,
    /// Nodes that are being launched, drained or ended count against the group's limit.
    EveryNodeCounts = 1 << 3,
    /// A bridge is told nothing new before it has taken what it was told.
    DocumentIsTaken = 1 << 4,
    /// After a bridge's death nothing trains until what it left cannot be alive.
    DeadBridgeIsFenced = 1 << 5,
    /// Training begins only where the newest durable checkpoint is.
    CheckpointIsThere = 1 << 6,
    /// A bridge is removed only when what it alone has is durable.
    BridgeIsEmptied = 1 << 7,
    /// The newest checkpoints are kept.
    NewestAreKept = 1 << 8,
    /// A slot is reserved only where there is room beside all others.
    RoomIsFree = 1 << 9,
    /// Two effects on one thing are never under way together.
    OneEffectAtATime = 1 << 10,
    /// An instance is not taken for gone because EC2 did not list it once.
    AbsenceLasts = 1 << 11,
    /// An instance that was told to end is there until EC2 says that it has ended.
    EndIsSeen = 1 << 12,
    /// A launch of which no reply came is asked for again, and no other in its place.
    LaunchIsRepeated = 1 << 13,
    /// An instance that carries the cluster's mark and is no node of it is ended.
    StraysAreEnded = 1 << 14,
    /// A cluster is closed only when EC2 lists no instance of it that has not ended.
    NothingIsLeft = 1 << 15,
    /// What is being launched counts against what the cluster may cost.
    EveryLaunchCosts = 1 << 16,
    /// A launch that is refused after one without a reply may still come true.
    RefusalIsDoubted = 1 << 17,
}

impl Guard {
    /// Every guard.
    pub const ALL: [Self; 18] = [
        Self::AbsenceIsSeen,
        Self::AbsenceIsRecent,
        Self::LaunchIsSettled,
        Self::EveryNodeCounts,
        Self::DocumentIsTaken,
        Self::DeadBridgeIsFenced,
        Self::CheckpointIsThere,
        Self::BridgeIsEmptied,
        Self::NewestAreKept,
        Self::RoomIsFree,
        Self::OneEffectAtATime,
        Self::AbsenceLasts,
        Self::EndIsSeen,
        Self::LaunchIsRepeated,
        Self::StraysAreEnded,
        Self::NothingIsLeft,
        Self::EveryLaunchCosts,
        Self::RefusalIsDoubted,
    ];
}

/// The guards that are on: all of them, except in tests that show what happens without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards(u32);

impl Default for Guards {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Guards {
    /// All but one.
    pub fn without(guard: Guard) -> Self {
        Self(!(guard as u32))
    }

    /// Whether a guard is on.
    pub fn on(self, guard: Guard) -> bool {
        self.0 & guard as u32 != 0
    }
}
