//! The numbered rules of `SPEC.md`, as things that can be taken away.

/// A rule of the section "The permit". Its number is its place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    CompareAndSwap,
    DurableFirst,
    DeathIsProven,
    StartOnlyHeld,
    NoRecordNoPermission,
    OfferedBeforeFrame,
    StoppedBeforeFrame,
    NoWithdrawalAfterFrame,
    SilenceIsNoRefusal,
    UnknownIsNoRefusal,
    MemoryIsKept,
    SessionsBeginOnce,
    PreparedBeforeAnswer,
    TakeOnlyPrepared,
    RefusedBeforeAnswer,
    TakenStaysTaken,
    TheAskedDecides,
    EndsAreRemembered,
    OlderGenerationStops,
}

impl Rule {
    pub(super) const ALL: [Self; 19] = [
        Self::CompareAndSwap,
        Self::DurableFirst,
        Self::DeathIsProven,
        Self::StartOnlyHeld,
        Self::NoRecordNoPermission,
        Self::OfferedBeforeFrame,
        Self::StoppedBeforeFrame,
        Self::NoWithdrawalAfterFrame,
        Self::SilenceIsNoRefusal,
        Self::UnknownIsNoRefusal,
        Self::MemoryIsKept,
        Self::SessionsBeginOnce,
        Self::PreparedBeforeAnswer,
        Self::TakeOnlyPrepared,
        Self::RefusedBeforeAnswer,
        Self::TakenStaysTaken,
        Self::TheAskedDecides,
        Self::EndsAreRemembered,
        Self::OlderGenerationStops,
    ];

    /// The rule's number in `SPEC.md`.
    pub(super) fn number(self) -> usize {
        1 + self as usize
    }
}
