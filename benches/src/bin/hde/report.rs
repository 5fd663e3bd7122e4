//! Figures as text.

use benches::{Table, rate, ratio};
use dwcp::hde::Tier;
use dwcp::page::PAGE_BYTES;

use crate::moved::StepOutcome;
use crate::tiers::TierOutcome;
use crate::{ContentOutcome, MoveOutcome, Outcome};

pub(crate) fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    for content in &outcome.contents {
        print_content(content);
    }
    if !outcome.moves.is_empty() {
        println!("\nmoves of {}", outcome.contents[0].name);
        print!("{}", moves(&outcome.moves));
    }
    if !outcome.tiers.is_empty() {
        println!("\npages of one tier, at most about 64 MiB of each");
        print!("{}", tiers(&outcome.tiers));
    }
    println!("\nMB/s of processor time, of the bytes that are not zero (of all, if all are)");
    for verdict in &outcome.verdicts {
        println!("{verdict}");
    }
}

fn print_content(content: &ContentOutcome) {
    let (bytes, non_zero) = (content.bytes, content.non_zero_bytes);
    println!("\n{}: {bytes} bytes, {non_zero} of them in pages that are not zero", content.name);
    println!(
        "  memcpy {} MB/s, AES-256-GCM {} MB/s, zero scan {} MB/s, digest {} MB/s, all bytes counted",
        rate(bytes, content.memcpy_ns),
        rate(bytes, content.aes_ns),
        rate(bytes, content.zero_scan_ns),
        rate(bytes, content.digest_ns)
    );
    let mut table = Table::new(&[
        "level",
        "batch",
        "zstd alone",
        "digest",
        "encode",
        "decode",
        "encode/zstd",
        "unzstd",
        "decode/unzstd",
        "payload",
        "ratio",
        "with zeros",
        "zero",
        "zstd",
        "raw",
    ]);
    for step in &content.steps {
        let counted = if non_zero == 0 { bytes } else { non_zero };
        table.row([
            level(step),
            format!("{} KiB", step.batch_pages * 4),
            rate(counted, step.zstd_ns),
            rate(counted, step.digest_ns),
            rate(counted, step.encode_ns),
            rate(counted, step.decode_ns),
            format!("{:.2}", ratio(step.zstd_ns, step.encode_ns)),
            rate(counted, step.unzstd_ns),
            format!("{:.2}", ratio(step.unzstd_ns, step.decode_ns)),
            step.payload_bytes.to_string(),
            format!("{:.2}", ratio(non_zero, step.payload_bytes)),
            format!("{:.2}", ratio(bytes, step.payload_bytes)),
            tier(step, Tier::Zero),
            tier(step, Tier::Zstd),
            tier(step, Tier::Raw),
        ]);
    }
    print!("{table}");
}

fn moves(moves: &[MoveOutcome]) -> Table {
    let mut table = Table::new(&[
        "move",
        "level",
        "payload",
        "manifest",
        "ratio",
        "with zeros",
        "encode",
        "decode",
        "zero",
        "kept",
        "delta",
        "zstd",
        "raw",
    ]);
    for it in moves {
        let step = &it.step;
        let sent = step.payload_bytes + it.manifest_bytes;
        table.row([
            it.name.clone(),
            level(step),
            step.payload_bytes.to_string(),
            it.manifest_bytes.to_string(),
            format!("{:.2}", ratio(it.non_zero_bytes, sent)),
            format!("{:.2}", ratio(it.bytes, sent)),
            rate(it.non_zero_bytes, step.encode_ns),
            rate(it.non_zero_bytes, step.decode_ns),
            tier(step, Tier::Zero),
            tier(step, Tier::Kept),
            tier(step, Tier::Delta),
            tier(step, Tier::Zstd),
            tier(step, Tier::Raw),
        ]);
    }
    table
}

fn tiers(tiers: &[TierOutcome]) -> Table {
    let mut table = Table::new(&[
        "tier", "level", "batch", "pages", "payload", "a page", "digest", "encode", "decode",
    ]);
    for it in tiers {
        let (step, bytes) = (&it.step, it.pages * PAGE_BYTES as u64);
        table.row([
            it.tier.clone(),
            level(step),
            format!("{} KiB", step.batch_pages * 4),
            it.pages.to_string(),
            step.payload_bytes.to_string(),
            format!("{:.1}", ratio(step.payload_bytes, it.pages)),
            rate(bytes, step.digest_ns),
            rate(bytes, step.encode_ns),
            rate(bytes, step.decode_ns),
        ]);
    }
    table
}

fn level(step: &StepOutcome) -> String {
    if step.compresses { step.level.to_string() } else { "raw".to_owned() }
}

/// Pages of a tier, and the bytes of payload that are theirs.
fn tier(step: &StepOutcome, tier: Tier) -> String {
    match step.tiers.get(tier as usize) {
        Some((pages, 0)) => pages.to_string(),
        Some((pages, bytes)) => format!("{pages} in {bytes} B"),
        None => String::new(),
    }
}
