//! [`StatesIn`]: the machine's state, put together from its parts. See `SPEC.md`, 10.3.

use crate::ass;
use crate::session::Fault;
use crate::wire::StatePart;
use crate::wire::limits::STATE_TOTAL_MAX;

/// The newest whole state, and the one that is arriving.
#[derive(Debug, Default)]
pub(super) struct StatesIn {
    newest: u64,
    state: Vec<u8>,
    arriving: Option<Arriving>,
}

#[derive(Debug, Default)]
struct Arriving {
    number: u64,
    base: u64,
    total: u32,
    encoded: Vec<u8>,
}

impl StatesIn {
    /// The number of the newest whole state, 0 for none, and itself.
    pub(super) fn newest(&self) -> (u64, &[u8]) {
        (self.newest, &self.state)
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state)
    }

    /// What was arriving will be sent again, from its beginning.
    pub(super) fn connection_lost(&mut self) {
        self.arriving = None;
    }

    pub(super) fn part(&mut self, part: &StatePart<'_>) -> Result<(), Fault> {
        let disorder = Fault::StateOrder(part.number);
        if part.offset == 0 {
            // A state may be given up in the middle for a newer one, and none is sent twice.
            let last = self.arriving.as_ref().map_or(self.newest, |arriving| arriving.number);
            if part.number <= last || (part.base != 0 && part.base != self.newest) {
                return Err(disorder);
            }
            let Arriving { mut encoded, .. } = self.arriving.take().unwrap_or_default();
            encoded.clear();
            let (number, base, total) = (part.number, part.base, part.total);
            self.arriving = Some(Arriving { number, base, total, encoded });
        }
        let arriving = self.arriving.as_mut().ok_or(disorder.clone())?;
        let expected = (arriving.number, arriving.base, arriving.total, arriving.encoded.len());
        if expected != (part.number, part.base, part.total, part.offset as usize) {
            return Err(disorder);
        }
        arriving.encoded.extend(part.bytes);
        if arriving.encoded.len() == part.total as usize {
            let base = if part.base == 0 { &[] } else { &self.state[..] };
            self.state = ass::decode(base, &arriving.encoded, STATE_TOTAL_MAX as usize)?;
            self.newest = part.number;
            self.arriving = None;
        }
        Ok(())
    }
}
