//! The connection to whoever gives the orders, and what is done when it is gone.
//!
//! A process is *tied* to the connection on which it was started: its guest ends with it. A *kept* one has a listening
//! socket besides, and goes on: who connects next gives the orders, and hears first what nobody has heard.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use super::order::{Greeting, Order, Report};
use crate::ipc::{Channel, ChannelError, exactly};

/// A keeper that does not read, or stops within an order, loses its connection after this: the guest's devices wait for
/// the same thread.
const KEEPER_PATIENCE: Duration = Duration::from_secs(2);

/// Reports that wait for a keeper. Each answers an order, so that there are never many; beyond this the oldest go.
const UNHEARD_MAX: usize = 16;

/// The control connection.
#[derive(Debug)]
pub(super) struct Control {
    channel: Option<Channel>,
    /// Nothing comes or goes over it any more. It is closed by whoever watches it, who must unwatch it first.
    is_broken: bool,
    kept: Option<Kept>,
    unheard: Vec<Report>,
}

/// What makes a process outlive its connection.
#[derive(Debug)]
struct Kept {
    listener: UnixListener,
    /// Where the guest's end is written, for a keeper that is not there when it comes.
    ends: File,
    runner: [u8; 16],
}

/// What came over the connection.
#[derive(Debug)]
pub(super) enum Heard {
    Order(Order, Vec<OwnedFd>),
    /// An order that this executable does not know.
    Unknown(ChannelError),
    /// The connection is gone.
    Gone,
}

impl Control {
    pub(super) fn tied(channel: Channel) -> Self {
        Self { channel: Some(channel), is_broken: false, kept: None, unheard: Vec::new() }
    }

    /// The connection's descriptor, while there is one.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.channel.as_ref().map(|channel| channel.as_fd().as_raw_fd())
    }

    /// Whether the connection is there, and of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Closes the connection.
    pub(super) fn close(&mut self) {
        self.channel = None;
        self.is_broken = false;
    }

    /// Whether nobody is there to hear anything, now.
    pub(super) fn is_gone(&self) -> bool {
        self.channel().is_none_or(Channel::is_closed)
    }

    /// The connection, while it is of use.
    fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref().filter(|_| !self.is_broken)
    }

    fn breaks(&mut self, error: &ChannelError) {
        tracing::debug!(%error, "the control connection ends");
        self.is_broken = true;
    }

    /// The listening socket of a kept process.
    pub(super) fn listener(&self) -> Option<RawFd> {
        self.kept.as_ref().map(|kept| kept.listener.as_raw_fd())
    }

    /// Whether the process goes on without a connection.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// The nonce that a kept process was given.
    pub(super) fn runner(&self) -> Option<[u8; 16]> {
        self.kept.as_ref().map(|kept| kept.runner)
    }

    /// From now on the process outlives its connection.
    ///
    /// # Errors
    /// When the descriptors are not what that needs.
    pub(super) fn keep(
        &mut self,
        runner: [u8; 16],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        let [listener, ends] = exactly(descriptors)?;
        let listener = UnixListener::from(listener);
        // A caller that has hung up again must not make accept(2) wait.
        let flags = rustix::fs::fcntl_getfl(&listener).map_err(io::Error::from)?;
        rustix::fs::fcntl_setfl(&listener, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(io::Error::from)?;
        if let Some(channel) = &self.channel {
            channel.set_time_limit(Some(KEEPER_PATIENCE))?;
        }
        self.kept = Some(Kept { listener, ends: File::from(ends), runner });
        Ok(())
    }

    /// Takes a new keeper, in the place of the one before.
    ///
    /// # Errors
    /// When there is none after all.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Err(io::ErrorKind::NotConnected.into()) };
        let (stream, _) = kept.listener.accept()?;
        let channel = Channel::from(OwnedFd::from(stream));
        channel.set_time_limit(Some(KEEPER_PATIENCE))?;
        self.channel = Some(channel);
        self.is_broken = false;
        Ok(())
    }

    /// Greets a new keeper, and says what nobody has heard.
    pub(super) fn greet(&mut self, greeting: Greeting, pidfd: &OwnedFd) {
        let Some(channel) = self.channel() else { return };
        if let Err(error) = channel.send(&Report::Greeting(greeting), &[pidfd.as_fd()]) {
            self.breaks(&error);
        }
        for report in std::mem::take(&mut self.unheard) {
            self.report(&report);
        }
    }

    /// The next order, or why there is none.
    pub(super) fn hear(&mut self) -> Heard {
        let Some(channel) = self.channel() else { return Heard::Gone };
        match channel.receive::<Order>() {
            Ok((order, descriptors)) => Heard::Order(order, descriptors),
            Err(error @ (ChannelError::Malformed(_) | ChannelError::TooMuch(_))) => {
                Heard::Unknown(error)
            }
            Err(error) => {
                self.breaks(&error);
                Heard::Gone
            }
        }
    }

    /// Says something to the keeper, or keeps it for the next one.
    pub(super) fn report(&mut self, report: &Report) {
        if let Some(channel) = self.channel() {
            match channel.send(report, &[]) {
                Ok(()) => return,
                Err(error) => self.breaks(&error),
            }
        }
        if self.is_kept() {
            if self.unheard.len() == UNHEARD_MAX {
                self.unheard.remove(0);
            }
            self.unheard.push(report.clone());
        }
    }

    /// Writes the guest's end to its file: a keeper that is not there now reads it there.
    pub(super) fn write_end(&self, report: &Report) {
        let Some(kept) = &self.kept else { return };
        let bytes = match postcard::to_stdvec(report) {
            Ok(bytes) => bytes,
            Err(error) => return tracing::error!(%error, "the guest's end cannot be written"),
        };
        // No process outlives a host that goes down: storage needs not be waited for.
        if let Err(error) = kept.ends.write_all_at(&bytes, 0) {
            tracing::error!(%error, "the guest's end is not written; its keeper will not know why");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::GuestEnd;
    use std::os::unix::net::UnixStream;

    fn exited() -> Report {
        Report::Exited { how: "it ended".into(), end: GuestEnd::PoweredOff }
    }

    fn kept(folder: &std::path::Path) -> (Control, Channel, File) {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut control = Control::tied(theirs);
        let listener = UnixListener::bind(folder.join("s")).unwrap();
        let ends = tempfile::tempfile_in(folder).unwrap();
        let descriptors = vec![listener.into(), ends.try_clone().unwrap().into()];
        control.keep([1; 16], descriptors).unwrap();
        (control, ours, ends)
    }

    #[test]
    fn what_nobody_heard_is_said_to_the_next_keeper_after_the_greeting() {
        let folder = tempfile::tempdir().unwrap();
        let (mut control, first, _ends) = kept(folder.path());
        drop(first);
        assert!(matches!(control.hear(), Heard::Gone));
        control.report(&Report::Paused);
        control.report(&exited());
        let second = UnixStream::connect(folder.path().join("s")).unwrap();
        let second = Channel::from(OwnedFd::from(second));
        control.accept().unwrap();
        let pidfd = OwnedFd::from(File::open("/dev/null").unwrap());
        let greeting = Greeting {
            version: "1".into(),
            runner: [1; 16],
            guest: super::super::GuestStatus::Absent,
            config: None,
            session: None,
        };
        control.greet(greeting.clone(), &pidfd);
        let (said, descriptors) = second.receive::<Report>().unwrap();
        assert_eq!((said, descriptors.len()), (Report::Greeting(greeting), 1));
        assert_eq!(second.receive::<Report>().unwrap().0, Report::Paused);
        assert_eq!(second.receive::<Report>().unwrap().0, exited());
        assert!(!second.is_readable().unwrap(), "and each once only");
    }

    #[test]
    fn a_guests_end_can_be_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (control, _first, mut ends) = kept(folder.path());
        control.write_end(&exited());
        io::Seek::rewind(&mut ends).unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut ends, &mut bytes).unwrap();
        assert_eq!(crate::ipc::decode::<Report>(&bytes).unwrap(), exited());
    }

    #[test]
    fn a_keeper_that_stops_within_an_order_or_does_not_read_loses_its_connection() {
        let folder = tempfile::tempdir().unwrap();
        let (mut control, first, _ends) = kept(folder.path());
        first.send_bytes(&[1, 0]).unwrap();
        assert!(matches!(control.hear(), Heard::Gone));
        assert!(control.is_broken());
        let (mut control, _first, _ends) = kept(tempfile::tempdir().unwrap().path());
        let long = Report::Failed { why: "x".repeat(1 << 20) };
        control.report(&long);
        assert!(control.is_broken());
        assert_eq!(control.unheard, [long]);
    }
}
