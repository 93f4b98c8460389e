//! What the application wants written. Answers are collected while connections are being read, and written when no
//! connection is borrowed; neighbouring answers to one stream become one write.

use quinn_proto::StreamId;

/// A connection of this shard. Stays unequal to every later one that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A stream of such a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The connection.
    pub connection: ConnectionKey,
    pub(super) id: StreamId,
}

#[cfg(test)]
impl StreamKey {
    /// A stream of a connection that nobody has opened.
    pub(crate) fn of_nobody(index: u64) -> Self {
        let connection = ConnectionKey { index: 0, generation: 0 };
        Self { connection, id: StreamId::new(quinn_proto::Side::Client, quinn_proto::Dir::Bi, index) }
    }
}

#[derive(Debug)]
pub(super) enum Command {
    /// Write the bytes up to `end`; they begin where the command before ended.
    Write {
        stream: StreamKey,
        end: usize,
        answers: u32,
    },
    Finish {
        stream: StreamKey,
    },
    Close {
        connection: ConnectionKey,
        code: u32,
        reason: String,
    },
}

/// See the module's text. Its memory is reused from turn to turn.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(super) bytes: Vec<u8>,
    pub(super) commands: Vec<Command>,
}

impl Outbox {
    /// Writes the answer to one request that was [expected](super::application::Pending::expect_answer).
    pub fn answer(&mut self, stream: StreamKey, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(stream, 1, write);
    }

    /// Writes bytes that answer no request.
    pub fn write(&mut self, stream: StreamKey, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(stream, 0, write);
    }

    /// Ends our side of the stream behind what was written.
    pub fn finish(&mut self, stream: StreamKey) {
        self.commands.push(Command::Finish { stream });
    }

    /// Closes the connection at once, with an application code and a reason the caller will read.
    pub fn close(&mut self, connection: ConnectionKey, code: u32, reason: impl Into<String>) {
        self.commands.push(Command::Close { connection, code, reason: reason.into() });
    }

    /// Bytes written in this turn so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written in this turn.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What a turn does at its end, with the bytes shown to `look` in place of a connection.
    #[cfg(test)]
    pub(crate) fn flush(&mut self, look: impl FnOnce(&[u8])) {
        look(&self.bytes);
        self.commands.clear();
        self.bytes.clear();
    }

    fn append(&mut self, to: StreamKey, answered: u32, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        let written = self.bytes.len();
        match self.commands.last_mut() {
            Some(Command::Write { stream, end, answers }) if *stream == to => {
                *end = written;
                *answers += answered;
            }
            _ => self.commands.push(Command::Write { stream: to, end: written, answers: answered }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_answers_to_one_stream_are_one_write() {
        let stream = StreamKey::of_nobody;
        let mut outbox = Outbox::default();
        outbox.answer(stream(0), |bytes| bytes.extend(b"ab"));
        outbox.answer(stream(0), |bytes| bytes.extend(b"c"));
        outbox.write(stream(1), |bytes| bytes.extend(b"d"));
        let writes: Vec<_> = (outbox.commands.iter())
            .map(|command| match command {
                Command::Write { end, answers, .. } => (*end, *answers),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((writes, &outbox.bytes[..]), (vec![(3, 2), (4, 0)], &b"abcd"[..]));
    }
}
