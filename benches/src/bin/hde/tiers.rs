//! Pages of one tier at a time: what each costs by itself.

use benches::Stop;
use dwcp::digest::is_zero;
use dwcp::hde::{Encoder, Held, LadderStep, Offer, Tier};
use dwcp::page::Page;
use serde::Serialize;

use crate::GENERATED_PAGES;
use crate::content::noise;
use crate::moved::{Earlier, Moved, StepOutcome};

/// Pages that are taken side by side where only some are taken.
const GROUP: usize = 64;

/// Pages that all travelled by one tier.
#[derive(Debug, Serialize)]
pub(crate) struct TierOutcome {
    pub(crate) tier: String,
    pub(crate) pages: u64,
    pub(crate) step: StepOutcome,
}

/// Each tier that this step uses: zero, kept and compressed pages are the memory's, deltas are what its work changed, and
/// raw pages are noise, of which a memory may have too little for a rate.
pub(crate) fn measure(
    content: &[Page],
    later: Option<&[Page]>,
    step: &LadderStep,
    times: u32,
) -> Result<Vec<TierOutcome>, Stop> {
    let of_memory = |zero| frames(content, |index| is_zero(&content[index][..]) == zero);
    let kept = Earlier::kept(content)?;
    let mut found = vec![
        one(Tier::Zero, content, &of_memory(true), step, &(), times)?,
        one(Tier::Kept, content, &of_memory(false), step, &kept, times)?,
    ];
    if let Some(later) = later {
        let differ = |index: usize| content.get(index).is_some_and(|old| *old != later[index]);
        let sent = Earlier::Sent(content);
        found.push(one(Tier::Delta, later, &frames(later, differ), step, &sent, times)?);
    }
    found.push(one(Tier::Zstd, content, &of_memory(false), step, &(), times)?);
    let noise = noise(GENERATED_PAGES);
    found.push(one(Tier::Raw, &noise, &frames(&noise, |_| true), step, &(), times)?);
    Ok(found.into_iter().flatten().collect())
}

/// Those of these pages that travel by the tier, all at once; nothing if none does.
fn one<K: Offer + Held>(
    tier: Tier,
    content: &[Page],
    frames: &[usize],
    step: &LadderStep,
    known: &K,
    times: u32,
) -> Result<Option<TierOutcome>, Stop> {
    let mut encoder = Encoder::new();
    let travels = |index: &usize| {
        let alone = Moved::of(content, &[*index], step, known);
        alone.tier_of_first(&mut encoder, step) == Some(tier)
    };
    let frames: Vec<_> = frames.iter().copied().filter(travels).collect();
    if frames.is_empty() {
        return Ok(None);
    }
    let step = Moved::of(content, &frames, step, known).measure(step, times)?;
    Ok(Some(TierOutcome {
        tier: format!("{tier:?}").to_lowercase(),
        pages: frames.len() as u64,
        step,
    }))
}

/// Frames of pages like that; of many, groups from everywhere in the memory.
fn frames(content: &[Page], is_like_that: impl Fn(usize) -> bool) -> Vec<usize> {
    let all: Vec<_> = (0..content.len()).filter(|index| is_like_that(*index)).collect();
    let every = all.len().div_ceil(GENERATED_PAGES).max(1);
    all.chunks(GROUP).step_by(every).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use dwcp::hde::Ladder;
    use dwcp::page::PAGE_BYTES;

    use super::*;

    #[test]
    fn each_tier_gets_its_own_pages_and_a_step_without_zstd_compresses_none() {
        let mut memory: Vec<Page> = vec![[0; PAGE_BYTES], [1; PAGE_BYTES], [2; PAGE_BYTES]];
        memory.extend(noise(1));
        let mut later = memory.clone();
        later[1][7] = 9;
        let tiers = |step: &LadderStep| -> Vec<_> {
            let found = measure(&memory, Some(&later), step, 1).unwrap();
            found.into_iter().map(|it| (it.tier, it.pages)).collect()
        };
        let raw = GENERATED_PAGES as u64;
        let named = |tiers: &[(&str, u64)]| -> Vec<_> {
            tiers.iter().map(|(tier, pages)| ((*tier).to_owned(), *pages)).collect()
        };
        let all = [("zero", 1), ("kept", 3), ("delta", 1), ("zstd", 2), ("raw", raw)];
        assert_eq!(tiers(&Ladder::step(2)), named(&all));
        let without: Vec<_> = all.into_iter().filter(|(tier, _)| *tier != "zstd").collect();
        assert_eq!(tiers(&Ladder::step(0)), named(&without));
    }

    #[test]
    fn of_many_pages_groups_from_everywhere_are_taken() {
        let memory = vec![[0; PAGE_BYTES]; 2 * GENERATED_PAGES];
        let found = frames(&memory, |_| true);
        assert_eq!(found.len(), GENERATED_PAGES);
        assert_eq!(found[..GROUP], (0..GROUP).collect::<Vec<_>>());
        assert_eq!(found[GROUP], 2 * GROUP);
    }
}
