use libc::{SYS_ioctl, SYS_mmap, SYS_read, SYS_tgkill, c_long};

use super::*;
use crate::jail::call::{Value, call, ioctl};
use crate::jail::tables;

/// What the kernel makes of a program: `struct seccomp_data` in, an answer out.
fn run(program: &[sock_filter], architecture: u32, number: c_long, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(u32::try_from(number).unwrap().to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
    let (mut at, mut register) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let condition = match u32::from(code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => {
                let word = &data[k as usize..k as usize + 4];
                register = u32::from_le_bytes(word.try_into().unwrap());
                continue;
            }
            code if code == BPF_ALU | BPF_AND | BPF_K => {
                register &= k;
                continue;
            }
            code if code == BPF_JMP | BPF_JA => {
                at += k as usize;
                continue;
            }
            code if code == BPF_RET | BPF_K => return k,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => register == k,
            code if code == BPF_JMP | BPF_JGE | BPF_K => register >= k,
            code => panic!("no instruction {code:#x}"),
        };
        at += usize::from(if condition { jt } else { jf });
    }
}

fn answers(rows: &[Call], number: c_long, arguments: [u64; 6]) -> u32 {
    run(&compile(rows), X86_64, number, arguments)
}

#[test]
fn a_number_is_allowed_if_and_only_if_a_row_has_it() {
    // Of every size that a search can have here, and with gaps.
    for count in 0..80_u32 {
        let rows: Vec<_> = (0..count).map(|nth| call("", c_long::from(nth * 3 + 1))).collect();
        let program = compile(&rows);
        for number in 0..500 {
            let is_allowed = run(&program, X86_64, number, [0; 6]) == SECCOMP_RET_ALLOW;
            let has_row = number % 3 == 1 && number < c_long::from(count * 3);
            assert_eq!(is_allowed, has_row, "{number} of {count}");
        }
    }
}

#[test]
fn every_row_of_the_process_is_allowed_and_nothing_beside_it() {
    let program = compile(tables::of_process());
    assert!(program.len() < 4096, "the kernel takes no more: {}", program.len());
    for number in 0..500 {
        let has_row = tables::of_process().any(|call| call.number == number);
        // Arguments that no row asks for.
        let is_killed = run(&program, X86_64, number, [0xdead_beef; 6]) == SECCOMP_RET_KILL_PROCESS;
        assert!(has_row || is_killed, "{number}");
    }
    for call in tables::of_process() {
        let mut arguments = [0xffff_ffff_0000_0000; 6];
        for argument in call.arguments() {
            arguments[usize::from(argument.index)] |= u64::from(argument.value.now());
        }
        let answer = run(&program, X86_64, call.number, arguments);
        assert_ne!(answer, SECCOMP_RET_KILL_PROCESS, "{}", call.name);
    }
}

#[test]
fn arguments_must_fit_one_row_as_a_whole() {
    let rows = [
        ioctl("one", 0x11),
        ioctl("two", 0x22),
        call("mmap", SYS_mmap).with(2, 4, 0),
        call("tgkill", SYS_tgkill).where_is(0, Value::OwnProcess).with(2, u32::MAX, 6),
        call("tgkill", SYS_tgkill).with(0, u32::MAX, 1).with(2, u32::MAX, 9),
    ];
    let own = u64::from(std::process::id());
    for (number, arguments, is_allowed) in [
        (SYS_ioctl, [0, 0x11, 0], true),
        (SYS_ioctl, [0, 0x22, 0], true),
        (SYS_ioctl, [0, 0x33, 0], false),
        (SYS_ioctl, [0x11, 0, 0x11], false),
        (SYS_mmap, [0, 0, 3], true),
        (SYS_mmap, [0, 0, 7], false),
        (SYS_tgkill, [own, 77, 6], true),
        (SYS_tgkill, [1, 77, 9], true),
        (SYS_tgkill, [own, 77, 9], false),
        (SYS_tgkill, [1, 77, 6], false),
        (SYS_read, [0, 0, 0], false),
    ] {
        let [a, b, c] = arguments;
        let answer = answers(&rows, number, [a, b, c, 0, 0, 0]);
        assert_eq!(answer == SECCOMP_RET_ALLOW, is_allowed, "{number} {arguments:?}");
    }
}

#[test]
fn an_answer_may_be_an_error_and_another_architecture_has_none() {
    let rows = [call("clone3", 435).answered(38)];
    assert_eq!(answers(&rows, 435, [0; 6]), SECCOMP_RET_ERRNO | 38);
    let i386 = 0x4000_0003;
    assert_eq!(run(&compile(&rows), i386, 435, [0; 6]), SECCOMP_RET_KILL_PROCESS);
    // The x32 form of a call is another number.
    assert_eq!(answers(&rows, 435 | 0x4000_0000, [0; 6]), SECCOMP_RET_KILL_PROCESS);
}
