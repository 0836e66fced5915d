//! What keeps plans safe, each by a name, so that tests can show that each is needed.

/// One thing that a plan never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
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
}

impl Guard {
    /// Every guard.
    pub const ALL: [Self; 11] = [
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
    ];
}

/// The guards that are on: all of them, except in tests that show what happens without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards(u16);

impl Default for Guards {
    fn default() -> Self {
        Self(u16::MAX)
    }
}

impl Guards {
    /// All but one.
    pub fn without(guard: Guard) -> Self {
        Self(!(guard as u16))
    }

    /// Whether a guard is on.
    pub fn on(self, guard: Guard) -> bool {
        self.0 & guard as u16 != 0
    }
}
