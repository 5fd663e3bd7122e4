//! A filter's program: classic BPF, as the kernel runs it at each system call (`seccomp_filter.rst`).
//!
//! ```text
//!   architecture? ── another ──► kill
//!   number ──► a search by halves ──► the rows of that number, in their order ──► their answer
//!                    └── in no row ──► kill                └── arguments fit none ──► kill
//! ```
//!
//! It is made here and not by seccompiler, which asks for one number after the other. The kernel runs a filter that it is
//! given on every number that there is, to know those for which it need not be run; with 70 numbers asked for in turn that
//! took 0.33 ms of the start of a process, and some of that of each thread.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
};
use seccompiler::sock_filter;

use super::call::{Answer, Argument, Call};

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: a 64-bit little-endian machine of ELF number 62.
const X86_64: u32 = 0xc000_003e;

/// Where things stand in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// Instructions, as the kernel takes them.
pub(super) type Program = Vec<sock_filter>;

/// A program that answers as the rows say, and to everything else by killing the process.
pub(super) fn compile<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Program {
    let mut rows = BTreeMap::<u32, Vec<&Call>>::new();
    for call in calls {
        let number = u32::try_from(call.number).expect("numbers of system calls are small");
        let rows = rows.entry(number).or_default();
        // What several kinds of threads do stands in several tables.
        if !rows.iter().any(|row| row.is_same(call)) {
            rows.push(call);
        }
    }
    let blocks: Vec<_> = rows.iter().map(|(number, rows)| (*number, block(rows))).collect();
    let mut program = vec![load(ARCHITECTURE_AT), skip_if(BPF_JEQ, X86_64, 1, 0), kill()];
    program.push(load(NUMBER_AT));
    program.extend(search(&blocks));
    program
}

/// A program that forbids nothing.
pub(super) fn allow_all() -> Program {
    vec![answer(SECCOMP_RET_ALLOW)]
}

/// Finds the block of the number that was loaded.
fn search(blocks: &[(u32, Program)]) -> Program {
    match blocks {
        [] => vec![kill()],
        [(number, block)] => {
            let mut program = vec![skip_if(BPF_JEQ, *number, 1, 0), kill()];
            program.extend_from_slice(block);
            program
        }
        _ => {
            let (below, above) = blocks.split_at(blocks.len() / 2);
            let (first, left, right) = (above[0].0, search(below), search(above));
            // The distance of a condition has 8 bits, that of a plain jump has 32.
            let mut program = vec![skip_if(BPF_JGE, first, 0, 1), skip(left.len())];
            program.extend(left);
            program.extend(right);
            program
        }
    }
}

/// What rows of one number answer: the first whose arguments fit.
fn block(rows: &[&Call]) -> Program {
    let answer = |row: &Call| {
        answer(match row.answer {
            Answer::Allow => SECCOMP_RET_ALLOW,
            Answer::Error(number) => SECCOMP_RET_ERRNO | u32::from(number),
        })
    };
    // Whatever the arguments are: no other row says more.
    if let Some(row) = rows.iter().find(|row| row.arguments().next().is_none()) {
        return vec![answer(row)];
    }
    let mut program = Program::new();
    for row in rows {
        let mut rest = vec![answer(row)];
        for argument in row.arguments() {
            rest = require(argument, rest);
        }
        program.extend(rest);
    }
    program.push(kill());
    program
}

/// Goes on with `rest` if an argument fits, and else behind it.
fn require(argument: &Argument, rest: Program) -> Program {
    let at = ARGUMENTS_AT + ARGUMENT_BYTES * u32::from(argument.index);
    let behind = u8::try_from(rest.len()).expect("a row is short");
    // The lower half: x86 is little-endian, and the kernel's own parameter has 32 bits.
    let mut program = vec![load(at)];
    if argument.mask != u32::MAX {
        program.push(instruction(BPF_ALU | BPF_AND | BPF_K, argument.mask));
    }
    program.push(skip_if(BPF_JEQ, argument.value.now(), 0, behind));
    program.extend(rest);
    program
}

fn load(at: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, at)
}

fn answer(with: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, with)
}

fn kill() -> sock_filter {
    answer(SECCOMP_RET_KILL_PROCESS)
}

fn skip(instructions: usize) -> sock_filter {
    let distance = u32::try_from(instructions).expect("a program is short");
    instruction(BPF_JMP | BPF_JA, distance)
}

fn skip_if(condition: u32, value: u32, if_so: u8, if_not: u8) -> sock_filter {
    let jump = instruction(BPF_JMP | condition | BPF_K, value);
    sock_filter { jt: if_so, jf: if_not, ..jump }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    let code = u16::try_from(code).expect("codes have 16 bits");
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
