//! Any bytes as a machine's saved state.
//!
//! Checked: a state that is read is written as the very same bytes, so that nothing in them was
//! passed over.

use std::process::ExitCode;

use machine::{MachineState, StateError};

fn main() -> ExitCode {
    fuzzing::main(|input| {
        for cpus in [1, 2] {
            let _ = read(input, cpus);
        }
    })
}

fn read(input: &[u8], cpus: u8) -> Result<(), StateError> {
    let state = MachineState::decode(input, cpus)?;
    let written = state.encode().expect("what was read can be written");
    assert_eq!(written, input, "a state that was read is written otherwise");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    fn seed(name: &str) -> Vec<u8> {
        fs::read(machine_fuzz::corpus("saved-state").join(name)).unwrap()
    }

    #[test]
    fn no_state_of_the_corpus_breaks_anything_and_the_sound_ones_are_read() {
        static READ: Mutex<[u32; 2]> = Mutex::new([0; 2]);
        fn remember(input: &[u8]) {
            let mut counts = READ.lock().unwrap();
            counts[0] += u32::from(read(input, 1).is_ok());
            counts[1] += u32::from(read(input, 2).is_ok());
        }
        fuzzing::replay(&machine_fuzz::corpus("saved-state"), remember).unwrap();
        let counts = READ.lock().unwrap();
        assert!(counts[0] > 0 && counts[1] > 0, "states read, of 1 and 2 vCPUs: {counts:?}");
    }

    #[test]
    fn a_real_state_is_not_read_as_one_of_another_number_of_vcpus() {
        assert_eq!(read(&seed("seed-1-vcpu"), 1), Ok(()));
        assert_eq!(read(&seed("seed-2-vcpus"), 2), Ok(()));
        let missing = StateError::Missing { name: "vcpu", instance: 1 };
        assert_eq!(read(&seed("seed-1-vcpu"), 2), Err(missing));
        assert_eq!(read(&seed("seed-2-vcpus"), 1), Err(StateError::Unknown("vcpu.1".into())));
    }

    #[test]
    fn a_state_whose_clock_lost_bytes_is_refused_though_it_can_be_read() {
        let mut state = seed("seed-1-vcpu");
        // Number of sections, name, version, instance; then the length of the section "vm", in two
        // bytes, and of its first field, the clock, in one: kvm_clock_data has 48 bytes.
        assert_eq!(state[..6], [8, 2, b'v', b'm', 1, 0]);
        let section = u16::from(state[6] & 0x7f) | (u16::from(state[7]) << 7);
        assert_eq!(state[8], 48);
        state[8] = 40;
        let [low, high] = [(section - 8) & 0x7f, (section - 8) >> 7];
        state[6..8].copy_from_slice(&[low.to_le_bytes()[0] | 0x80, high.to_le_bytes()[0]]);
        state.drain(9 + 40..9 + 48);
        assert_eq!(read(&state, 1), Err(StateError::NotAsWritten));
    }
}
