//! A row of a table: one call that is allowed, with what its arguments must be.

use libc::{SYS_fcntl, SYS_futex, SYS_ioctl, SYS_prctl, SYS_setsockopt, c_int, c_long};

/// A system call that a thread may make.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "fault-injection"),
    allow(dead_code, reason = "the test that takes each away knows a row by its name")
)]
pub(super) struct Call {
    /// As the kernel calls it; with what tells it from others of that number, in brackets.
    pub(super) name: &'static str,
    pub(super) number: c_long,
    /// All of these must hold.
    arguments: [Option<Argument>; 2],
    pub(super) answer: Answer,
    /// Why no test shows that it is needed, where none does.
    pub(super) unproven: Option<&'static str>,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel does it.
    Allow,
    /// It fails, with this number of an error.
    Error(u16),
}

/// What the lower 32 bits of an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) index: u8,
    /// The bits that are looked at.
    pub(super) mask: u32,
    pub(super) value: Value,
}

/// A number that is known now, or when the filter is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Is(u32),
    /// This process's id.
    OwnProcess,
    /// The first signal that the C library leaves to programs.
    FirstRealTimeSignal,
}

impl Value {
    /// The number, in this process.
    pub(super) fn now(self) -> u32 {
        match self {
            Self::Is(value) => value,
            Self::OwnProcess => std::process::id(),
            Self::FirstRealTimeSignal => libc::SIGRTMIN().cast_unsigned(),
        }
    }
}

/// Whatever its arguments are.
pub(super) const fn call(name: &'static str, number: c_long) -> Call {
    Call { name, number, arguments: [None; 2], answer: Answer::Allow, unproven: None }
}

/// A command of fcntl(2).
pub(super) const fn fcntl(name: &'static str, command: c_int) -> Call {
    call(name, SYS_fcntl).with(1, u32::MAX, command.cast_unsigned())
}

/// An operation of futex(2), private or not, against whichever clock.
pub(super) const fn futex(name: &'static str, operation: c_int) -> Call {
    let flags = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME).cast_unsigned();
    call(name, SYS_futex).with(1, !flags, operation.cast_unsigned())
}

/// A request of ioctl(2), of which the kernel reads 32 bits.
pub(super) const fn ioctl(name: &'static str, request: u32) -> Call {
    call(name, SYS_ioctl).with(1, u32::MAX, request)
}

/// An operation of prctl(2).
pub(super) const fn prctl(name: &'static str, operation: c_int) -> Call {
    call(name, SYS_prctl).with(0, u32::MAX, operation.cast_unsigned())
}

/// An option of sockets of all kinds.
pub(super) const fn socket_option(name: &'static str, option: c_int) -> Call {
    option_of(name, libc::SOL_SOCKET, option)
}

/// An option of TCP's sockets.
pub(super) const fn tcp_option(name: &'static str, option: c_int) -> Call {
    option_of(name, libc::IPPROTO_TCP, option)
}

const fn option_of(name: &'static str, level: c_int, option: c_int) -> Call {
    call(name, SYS_setsockopt).with(1, u32::MAX, level.cast_unsigned()).with(
        2,
        u32::MAX,
        option.cast_unsigned(),
    )
}

impl Call {
    /// Only where the bits of `mask` in an argument of 32 bits have this value.
    pub(super) const fn with(self, index: u8, mask: u32, value: u32) -> Self {
        self.where_argument(Argument { index, mask, value: Value::Is(value) })
    }

    /// Only where an argument is what is known later.
    pub(super) const fn where_is(self, index: u8, value: Value) -> Self {
        self.where_argument(Argument { index, mask: u32::MAX, value })
    }

    const fn where_argument(mut self, argument: Argument) -> Self {
        let free = if self.arguments[0].is_none() { 0 } else { 1 };
        assert!(self.arguments[free].is_none(), "a row has room for two arguments");
        self.arguments[free] = Some(argument);
        self
    }

    /// It is not done, and fails with this number of an error.
    pub(super) const fn answered(mut self, error: u16) -> Self {
        self.answer = Answer::Error(error);
        self
    }

    /// Whether another row of this number says the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.arguments == other.arguments && self.answer == other.answer
    }

    /// What its arguments must be.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().flatten()
    }

    /// Where no test shows that it is needed: why it is allowed all the same.
    pub(super) const fn unproven(mut self, why: &'static str) -> Self {
        self.unproven = Some(why);
        self
    }
}

/// A row of a table, for the test that takes each away.
#[cfg(feature = "fault-injection")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedCall {
    /// The kind of thread, as a fault names it.
    pub thread: &'static str,
    /// The call, as a fault names it.
    pub call: &'static str,
    /// Why no test shows that it is needed, where none does.
    pub unproven: Option<&'static str>,
}
