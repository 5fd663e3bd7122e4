//! From a table to a filter that the kernel runs at each system call.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error as InstallError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::call::{Argument, Call, Value, call};
use super::tables;
use super::thread_kind::ThreadKind;

/// A filter could not be made, or is refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A table that is none
    #[error("a filter of system calls cannot be made: {0}")]
    Table(#[from] BackendError),
    /// The kernel
    #[error("a filter of system calls is refused: {0}")]
    Install(#[from] InstallError),
}

/// What a process or a thread may call. Everything else kills the process, at once: a call that it never makes is not
/// its own any more.
#[derive(Debug)]
pub(super) struct Filter(Vec<BpfProgram>);

impl Filter {
    /// For the process: whatever one of its threads does.
    pub(super) fn of_process() -> Result<Self, FilterError> {
        let calls = tables::of_process();
        #[cfg(feature = "fault-injection")]
        let forbidden = |call: &&Call| !crate::fault::forbids("device-loop", call.name);
        #[cfg(feature = "fault-injection")]
        let calls = calls.filter(forbidden).chain(crate::fault::opens_by_name().then_some(OPENAT));
        Ok(Self(vec![without_clone3()?, allowing(calls)?]))
    }

    /// For a thread that has done what every thread does at its start.
    pub(super) fn of_thread(kind: ThreadKind) -> Result<Self, FilterError> {
        let calls = tables::of_thread(kind);
        #[cfg(feature = "fault-injection")]
        let calls = calls.filter(|call| !crate::fault::forbids(kind.name(), call.name));
        Ok(Self(vec![allowing(calls)?]))
    }

    /// Installs it for this thread and those that it will start. Returns whether this kernel has filters at all.
    pub(super) fn install(&self) -> Result<bool, FilterError> {
        for (index, program) in self.0.iter().enumerate() {
            match apply_filter(program) {
                Ok(()) => {}
                // What is refused once one was taken is a filter that is none.
                Err(InstallError::Seccomp(error)) if index == 0 && is_missing(&error) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// A kernel without seccomp says the one, with seccomp and without filters the other.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// What a test lets through, to see Landlock hold.
#[cfg(feature = "fault-injection")]
const OPENAT: &Call = &call("openat", libc::SYS_openat);

/// Answers that there is no clone3(2), as an older kernel does. A filter of its own: one has one other answer.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let answer = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    compile([&call("clone3", libc::SYS_clone3)], SeccompAction::Allow, answer)
}

fn allowing<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Result<BpfProgram, BackendError> {
    compile(calls, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn compile<'a>(
    calls: impl IntoIterator<Item = &'a Call>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::<c_long, Vec<SeccompRule>>::new();
    let mut whatever_arguments = Vec::new();
    for call in calls {
        let conditions = call.arguments.iter().flatten().map(condition);
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        let rules = rules.entry(call.number).or_default();
        if conditions.is_empty() {
            whatever_arguments.push(call.number);
            continue;
        }
        let rule = SeccompRule::new(conditions)?;
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    // A call without a rule is one whose arguments do not matter.
    for number in whatever_arguments {
        rules.insert(number, Vec::new());
    }
    SeccompFilter::new(rules, others, these, TargetArch::x86_64)?.try_into()
}

fn condition(argument: &Argument) -> Result<SeccompCondition, BackendError> {
    let value = match argument.value {
        Value::Is(value) => value,
        Value::OwnProcess => std::process::id().into(),
        Value::FirstRealTimeSignal => u64::from(libc::SIGRTMIN().cast_unsigned()),
    };
    let operator = SeccompCmpOp::MaskedEq(argument.mask);
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, operator, value)
}
