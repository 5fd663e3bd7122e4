//! Breadth first over every state that can be reached, then backwards from the good ones.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use super::rules::Rule;
use super::step::{Action, actions};
use super::world::{Violation, World};

/// Looked into, never iterated, and its hasher has fixed keys: nothing depends on its order.
#[allow(clippy::disallowed_types, reason = "see above; a tree of as many keys is far slower")]
type Seen = std::collections::HashMap<u128, u32, BuildHasherDefault<DefaultHasher>>;

/// What an exploration found.
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) steps: usize,
    /// Whether every state within the bounds was looked at: a violation ends the search.
    pub(super) is_exhaustive: bool,
    /// The shortest way to a broken promise.
    pub(super) violation: Option<(Violation, Vec<Action>)>,
    /// The shortest way to a state from which the machine cannot come to rest again, although no
    /// record was lost and nobody overrode anything.
    pub(super) stuck: Option<Vec<Action>>,
}

/// Where a state was reached from first.
struct Origin {
    parent: u32,
    action: Option<Action>,
    is_rest: bool,
    must_recover: bool,
}

/// Explores all that follows `start`, with one rule taken away or none, and calls `each` on every
/// state.
pub(super) fn explore(
    start: &World,
    without: Option<Rule>,
    mut each: impl FnMut(&World),
) -> Explored {
    let mut seen = Seen::default();
    let mut origins = Vec::new();
    let mut backwards: Vec<(u32, u32)> = Vec::new();
    let mut queue = VecDeque::new();
    let mut steps = 0;
    let origin = |world: &World, parent, action| Origin {
        parent,
        action,
        is_rest: world.is_at_rest(),
        must_recover: world.must_recover(),
    };
    seen.insert(fingerprint(start), 0);
    origins.push(origin(start, 0, None));
    queue.push_back(start.clone());
    let mut from = 0;
    while let Some(world) = queue.pop_front() {
        each(&world);
        for action in actions(&world, without) {
            let Some(next) = world.step(action, without) else { continue };
            steps += 1;
            let fresh = u32::try_from(origins.len()).expect("fewer than 2^32 states");
            let to = *seen.entry(fingerprint(&next)).or_insert(fresh);
            if !action.is_fault() {
                backwards.push((to, from));
            }
            if to != fresh {
                continue;
            }
            origins.push(origin(&next, from, Some(action)));
            if let Some(violation) = next.violation {
                let violation = Some((violation, way(&origins, fresh)));
                let (states, is_exhaustive) = (origins.len(), false);
                return Explored { states, steps, is_exhaustive, violation, stuck: None };
            }
            queue.push_back(next);
        }
        from += 1;
    }
    let stuck = stuck(&origins, backwards).map(|state| way(&origins, state));
    Explored { states: origins.len(), steps, is_exhaustive: true, violation: None, stuck }
}

/// 128 bits of BLAKE3 over the state's fields. A collision would hide a state; nobody is able to
/// build one, and at 10^7 states chance makes one in 10^24 runs.
fn fingerprint(world: &World) -> u128 {
    let mut fields = Fields(Vec::with_capacity(1024));
    world.hash(&mut fields);
    let hash = blake3::hash(&fields.0);
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
}

/// A hasher that keeps what it is given.
struct Fields(Vec<u8>);

impl Hasher for Fields {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the fields are read instead")
    }
}

/// The actions that lead to a state.
fn way(origins: &[Origin], state: u32) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut at = &origins[state as usize];
    while let Some(action) = at.action {
        actions.push(action);
        at = &origins[at.parent as usize];
    }
    actions.reverse();
    actions
}

/// The first state that must be able to come to rest without a further fault, and cannot.
fn stuck(origins: &[Origin], mut backwards: Vec<(u32, u32)>) -> Option<u32> {
    backwards.sort_unstable();
    let mut recovers: Vec<bool> = origins.iter().map(|origin| origin.is_rest).collect();
    let mut queue: VecDeque<u32> =
        (0..).zip(&recovers).filter(|(_, rest)| **rest).map(|(state, _)| state).collect();
    while let Some(state) = queue.pop_front() {
        let first = backwards.partition_point(|(to, _)| *to < state);
        for (_, from) in backwards[first..].iter().take_while(|(to, _)| *to == state) {
            if !std::mem::replace(&mut recovers[*from as usize], true) {
                queue.push_back(*from);
            }
        }
    }
    let is_stuck = |(origin, recovers): (&Origin, &bool)| origin.must_recover && !recovers;
    let stuck = origins.iter().zip(&recovers).position(is_stuck)?;
    u32::try_from(stuck).ok()
}
