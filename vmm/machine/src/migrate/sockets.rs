//! How a machine process, which has no network, gets sockets: from whoever keeps it.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwcp::transport::Door;
use dwcp::wire::StreamId;
use serde::{Deserialize, Serialize};

use crate::ipc::{Channel, ChannelError};
use crate::jail::{self, ThreadKind};

/// How long a keeper may be silent while it is asked. It gives up a socket sooner, and says so.
const DIALLING: Duration = Duration::from_secs(15);

/// Asks for a socket that is connected to the destination.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Dial {
    /// The number of the question, which its answer repeats.
    pub number: u32,
    /// The connection of the stream that it is for.
    pub connection: u16,
    /// Its place there.
    pub place: u16,
}

/// The answer; with it comes the socket, if there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dialled {
    /// That of the question.
    pub number: u32,
    /// Why there is none.
    pub failed: Option<String>,
}

/// A socket comes with this, on which the session was asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Accepted;

/// The source's end. Several streams may ask at a time: one of them hears the keeper for all, the others wait for it.
#[derive(Debug)]
pub(crate) struct Dialler {
    asking: Mutex<Asking>,
    heard: Condvar,
}

#[derive(Debug)]
struct Asking {
    channel: Arc<Channel>,
    /// Questions so far.
    number: u32,
    /// Those that wait for an answer, and the answers of which somebody else has heard.
    questions: BTreeMap<u32, Option<Answer>>,
    /// Whether somebody hears the keeper.
    is_heard: bool,
}

type Answer = io::Result<TcpStream>;

impl Dialler {
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        channel.set_time_limit(Some(DIALLING))?;
        let channel = Arc::new(channel);
        let asking = Asking { channel, number: 0, questions: BTreeMap::new(), is_heard: false };
        Ok(Self { asking: Mutex::new(asking), heard: Condvar::new() })
    }

    /// Uses another keeper's socket from now on. What was asked of the one before is not answered any more.
    pub(crate) fn replace(&self, channel: Channel) -> io::Result<()> {
        channel.set_time_limit(Some(DIALLING))?;
        let mut asking = self.lock();
        (asking.channel, asking.is_heard) = (Arc::new(channel), false);
        asking.forsake("there is another keeper now");
        self.heard.notify_all();
        Ok(())
    }

    pub(super) fn dial(&self, stream: StreamId) -> Answer {
        let mut asking = self.lock();
        asking.number = asking.number.wrapping_add(1);
        let number = asking.number;
        let StreamId { connection, place } = stream;
        // A few bytes: they fit the socket, however busy the keeper is.
        let sent = asking.channel.send(&Dial { number, connection, place }, &[]);
        sent.map_err(io::Error::other)?;
        asking.questions.insert(number, None);
        loop {
            if let Some(answer) = asking.answer(number) {
                return answer;
            }
            if asking.is_heard {
                asking = self.heard.wait(asking).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            asking.is_heard = true;
            let channel = Arc::clone(&asking.channel);
            drop(asking);
            let heard = channel.receive::<Dialled>();
            asking = self.lock();
            // Else it is somebody else's by now.
            if Arc::ptr_eq(&channel, &asking.channel) {
                asking.is_heard = false;
                asking.take(heard);
            }
            self.heard.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// The answer to a question, if it is there. It is waited for no more then.
    fn answer(&mut self, number: u32) -> Option<Answer> {
        self.questions.get(&number)?.as_ref()?;
        self.questions.remove(&number)?
    }

    /// What was heard of the keeper.
    fn take(&mut self, heard: Result<(Dialled, Vec<OwnedFd>), ChannelError>) {
        match heard {
            Ok((Dialled { number, failed }, mut descriptors)) => {
                // One that nobody waits for closes its socket.
                let Some(place) = self.questions.get_mut(&number) else { return };
                *place = Some(match (failed, descriptors.pop()) {
                    (None, Some(socket)) => Ok(TcpStream::from(socket)),
                    (Some(why), _) => Err(io::Error::other(why)),
                    (None, None) => Err(io::Error::other("no socket came with the answer")),
                });
            }
            // Whoever has asked only just now asks again: a keeper that is silent for so long does not answer that, either.
            Err(error) => self.forsake(&error.to_string()),
        }
    }

    /// No question that waits is answered any more.
    fn forsake(&mut self, why: &str) {
        for answer in self.questions.values_mut().filter(|answer| answer.is_none()) {
            *answer = Some(Err(io::Error::other(why.to_owned())));
        }
    }
}

/// Brings the sockets that a keeper sends in, until it closes its end or we ours.
pub(crate) fn bring_in(channel: &Channel, door: &Door) {
    jail::narrow(ThreadKind::Stream);
    loop {
        match channel.receive::<Accepted>() {
            Ok((Accepted, descriptors)) => take(descriptors, door),
            Err(ChannelError::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn take(descriptors: Vec<OwnedFd>, door: &Door) {
    for socket in descriptors {
        if let Err(error) = door.accept(TcpStream::from(socket)) {
            tracing::debug!(%error, "a connection was not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::thread::{scope, sleep};

    use super::*;

    fn stream(place: u16) -> StreamId {
        StreamId { connection: 1, place }
    }

    /// A dialler, and its keeper's end.
    fn pair() -> (Dialler, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        // Questions that come one after the other would be waited for without end.
        theirs.set_time_limit(Some(DIALLING)).unwrap();
        (Dialler::new(ours).unwrap(), theirs)
    }

    /// Asks for so many sockets at a time; what became of each.
    fn ask(dialler: &Dialler, places: u16, keeper: impl FnOnce()) -> Vec<(u16, Answer)> {
        scope(|scope| {
            let ask = |place| (place, scope.spawn(move || dialler.dial(stream(place))));
            let asking: Vec<_> = (0..places).map(ask).collect();
            keeper();
            asking.into_iter().map(|(place, asking)| (place, asking.join().unwrap())).collect()
        })
    }

    #[test]
    fn sockets_are_asked_for_side_by_side_and_each_gets_its_own() {
        let (dialler, keeper) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ports = BTreeMap::new();
        let answers = ask(&dialler, 8, || {
            // All of them before the first is answered, the last one first.
            let mut wanted: Vec<_> = (0..8).map(|_| keeper.receive::<Dial>().unwrap().0).collect();
            wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.number));
            for Dial { number, connection, place } in wanted {
                assert_eq!(connection, 1);
                if place == 5 {
                    let failed = Some("no route".to_owned());
                    keeper.send(&Dialled { number, failed }, &[]).unwrap();
                    continue;
                }
                let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                ports.insert(place, socket.local_addr().unwrap());
                keeper.send(&Dialled { number, failed: None }, &[socket.as_fd()]).unwrap();
            }
        });
        for (place, answer) in answers {
            match answer {
                Ok(socket) => assert_eq!(Some(&socket.local_addr().unwrap()), ports.get(&place)),
                Err(error) => assert_eq!((place, error.to_string().as_str()), (5, "no route")),
            }
        }
        assert!(dialler.lock().questions.is_empty());
    }

    #[test]
    fn nobody_waits_for_a_keeper_that_has_gone_or_was_replaced() {
        let (dialler, keeper) = pair();
        let answers = ask(&dialler, 3, || {
            keeper.receive::<Dial>().unwrap();
            drop(keeper);
        });
        assert!(answers.iter().all(|(_, answer)| answer.is_err()), "{answers:?}");

        let (ours, silent) = Channel::pair().unwrap();
        dialler.replace(ours).unwrap();
        let (ours, keeper) = Channel::pair().unwrap();
        let answers = ask(&dialler, 3, || {
            (0..3).for_each(|_| drop(silent.receive::<Dial>().unwrap()));
            dialler.replace(ours).unwrap();
            // The one that hears the old one hears that it ends.
            sleep(Duration::from_millis(20));
            drop(silent);
        });
        for (_, answer) in answers {
            assert_eq!(answer.unwrap_err().to_string(), "there is another keeper now");
        }
        // Others are not in the way of whoever hears the new one.
        let answers = ask(&dialler, 1, || {
            let Dial { number, .. } = keeper.receive().unwrap().0;
            // An answer to nobody, and then one.
            let failed = Some("not now".to_owned());
            keeper.send(&Dialled { number: number - 1, failed: failed.clone() }, &[]).unwrap();
            keeper.send(&Dialled { number, failed }, &[]).unwrap();
        });
        assert_eq!(answers[0].1.as_ref().unwrap_err().to_string(), "not now");
    }
}
