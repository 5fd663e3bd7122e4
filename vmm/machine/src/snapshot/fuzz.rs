//! A door for a fuzz target: everything of a snapshot that is read before KVM has a part in it. Nothing else uses it.

use std::fs::File;

use dwcp::archive::ImageReader;
use dwcp::digest::{DigestKey, Manifest};

use super::SnapshotError;
use super::chain::Chain;
use crate::state::MachineState;
use crate::vm::VmError;

/// Reads all of a snapshot that builds on nothing; returns how many pages it has.
///
/// # Errors
/// When it is no snapshot.
///
/// # Panics
/// When what was passed on is not all of memory, or not as the index has it.
pub fn read_snapshot(file: File) -> Result<u64, SnapshotError> {
    let chain = Chain::open(vec![file], vec!["input".to_owned()], None)?;
    let description = chain.description();
    MachineState::check_sections(&description.sections).map_err(VmError::from)?;
    let moment = chain.moment()?;
    let cpus = description.config.cpus.get();
    MachineState::decode(&moment.state, cpus).map_err(VmError::from)?;
    let key = DigestKey::new(description.digest_key);
    let (mut reader, mut digests) = (ImageReader::default(), Vec::new());
    let mut memory = Manifest::new(chain.image().manifest().limit());
    for block in chain.blocks_in_use() {
        chain.read_block::<SnapshotError>(&mut reader, &key, block, |run, content| {
            let _ = key.digest_run(run, content, &mut digests);
            memory.replace_run(run, &digests).expect("pages below the limit");
            Ok(())
        })?;
    }
    assert_eq!(memory.sum(), chain.image().manifest().sum(), "memory is not what was checked");
    Ok(chain.pages())
}
