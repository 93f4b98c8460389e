//! The client's half of one HTTP/2 connection that carries unary gRPC calls: bytes in, bytes out, no I/O.
//!
//! A load generator must cost less than the server it loads, or it measures itself. `tonic`'s own client took
//! as much of a core as the server did here; this one takes a fraction, and what the server sees is the same:
//! the request's headers in its table after the first call, all that is ready in one write, window updates far
//! apart. Response headers are not decoded: an answer is a call that ended with exactly one whole message, and
//! a call that ended without is an error.
//!
//! Sections are those of RFC 9113 (HTTP/2) and RFC 7541 (HPACK).

use std::collections::VecDeque;

use thiserror::Error;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// Section 4.2: the largest payload a peer may send while we do not allow more.
const LARGEST_PAYLOAD: usize = 16_384;
/// Section 6.9.1.
const LARGEST_WINDOW: u32 = 0x7fff_ffff;
const FIRST_WINDOW: u32 = 65_535;
/// gRPC over HTTP/2: one byte "compressed", four bytes of length.
const MESSAGE_PREFIX: usize = 5;
/// The largest response message that is taken.
const LARGEST_MESSAGE: usize = 1 << 20;

mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

mod flag {
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
}

mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// Why a connection can no longer be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Http2Error {
    #[error("the server sent a frame of {0} bytes, more than the {LARGEST_PAYLOAD} it may")]
    LongFrame(usize),
    #[error("the server sent a malformed frame of type {0}")]
    Malformed(u8),
    #[error("the server refused a call: it ended without an answer (see the server's log)")]
    Refused,
    #[error("the server reset a call with HTTP/2 error code {0}")]
    Reset(u32),
    #[error("the server closed the connection with HTTP/2 error code {0}")]
    GoAway(u32),
    #[error("the server's answer is not one uncompressed message of at most {LARGEST_MESSAGE} bytes")]
    BadMessage,
    #[error("the server's header table of {0} bytes cannot hold the request's headers")]
    SmallTable(u32),
    #[error("a request of {0} bytes exceeds the server's window; lower the depth")]
    WindowExhausted(usize),
    #[error("the connection has used all of its stream ids")]
    StreamsExhausted,
}

/// One connection. `T` is handed in with a call and back with its answer.
#[derive(Debug)]
pub(super) struct Connection<T> {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The request's headers in full, until the first call has put them into the server's table.
    first_headers: Option<Vec<u8>>,
    /// Calls without a gap in their stream ids, oldest first; an answered one waits for those before it.
    calls: VecDeque<Call<T>>,
    /// Stream of `calls[0]`, or of the next call when there is none.
    oldest: u32,
    /// How much we may send, over all streams and on a new one.
    send_window: i64,
    stream_window: i64,
    /// Received since the server's window was last refilled.
    unreturned: u32,
}

#[derive(Debug)]
struct Call<T> {
    /// Taken when it is answered.
    token: Option<T>,
    message: Vec<u8>,
}

impl<T> Connection<T> {
    /// A connection that will call `path`; its first bytes are ready to be sent.
    pub(super) fn new(authority: &str, path: &str) -> Self {
        let mut outgoing = PREFACE.to_vec();
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, LARGEST_WINDOW)];
        frame_header(&mut outgoing, settings.len() * 6, frame::SETTINGS, 0, 0);
        for (id, value) in settings {
            outgoing.extend(id.to_be_bytes());
            outgoing.extend(value.to_be_bytes());
        }
        window_update(&mut outgoing, LARGEST_WINDOW - FIRST_WINDOW);
        Self {
            outgoing,
            incoming: Vec::new(),
            first_headers: Some(literal_headers(authority, path)),
            calls: VecDeque::new(),
            oldest: 1,
            send_window: FIRST_WINDOW.into(),
            stream_window: FIRST_WINDOW.into(),
            unreturned: 0,
        }
    }

    /// Starts a call with one message.
    ///
    /// # Errors
    /// When the server's window or the connection's stream ids do not allow it.
    pub(super) fn call(&mut self, token: T, message: &[u8]) -> Result<(), Http2Error> {
        let payload = MESSAGE_PREFIX + message.len();
        let room = self.send_window.min(self.stream_window).min(LARGEST_PAYLOAD as i64);
        if payload as i64 > room {
            return Err(Http2Error::WindowExhausted(payload));
        }
        self.send_window -= payload as i64;
        // As many ids as this are far more calls than fit in memory, so the product does not wrap.
        let stream = self.oldest + 2 * self.calls.len() as u32;
        if stream > LARGEST_WINDOW {
            return Err(Http2Error::StreamsExhausted);
        }
        let literal = self.first_headers.take();
        let headers = literal.as_deref().unwrap_or(&INDEXED_HEADERS);
        frame_header(&mut self.outgoing, headers.len(), frame::HEADERS, flag::END_HEADERS, stream);
        self.outgoing.extend(headers);
        frame_header(&mut self.outgoing, payload, frame::DATA, flag::END_STREAM, stream);
        self.outgoing.push(0);
        self.outgoing.extend((message.len() as u32).to_be_bytes());
        self.outgoing.extend(message);
        self.calls.push_back(Call { token: Some(token), message: Vec::new() });
        Ok(())
    }

    /// What is to be sent; whoever sends it removes it.
    pub(super) fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Takes received bytes, and hands each answer that they complete to `answered`.
    ///
    /// # Errors
    /// When the server fails a call or breaks the protocol. The connection is then of no more use.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        mut answered: impl FnMut(T, &[u8]),
    ) -> Result<(), Http2Error> {
        // Taken out so that a frame can be borrowed while the rest of the state changes.
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend(bytes);
        let mut at = 0;
        while let Some(header) = incoming[at..].first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            if length > LARGEST_PAYLOAD {
                return Err(Http2Error::LongFrame(length));
            }
            let Some(payload) = incoming[at + FRAME_HEADER..].get(..length) else { break };
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & LARGEST_WINDOW;
            self.frame(header[3], header[4], stream, payload, &mut answered)?;
            at += FRAME_HEADER + length;
        }
        incoming.drain(..at);
        self.incoming = incoming;
        Ok(())
    }

    /// The calls that wait for their answers, oldest first.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &T> {
        self.calls.iter().filter_map(|call| call.token.as_ref())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        answered: &mut impl FnMut(T, &[u8]),
    ) -> Result<(), Http2Error> {
        let malformed = Http2Error::Malformed(kind);
        match kind {
            frame::DATA => {
                self.return_window(payload.len() as u32);
                let content = unpadded(flags, payload).ok_or(malformed)?;
                if let Some(call) = self.waiting(stream) {
                    if call.message.len() + content.len() > MESSAGE_PREFIX + LARGEST_MESSAGE {
                        return Err(Http2Error::BadMessage);
                    }
                    call.message.extend(content);
                }
                if flags & flag::END_STREAM != 0 {
                    // gRPC ends a call with trailers; ending it here means there is no status.
                    return Err(malformed);
                }
            }
            frame::HEADERS if flags & flag::END_STREAM != 0 => self.finish(stream, answered)?,
            frame::RST_STREAM => return Err(Http2Error::Reset(be_u32(payload, 0).ok_or(malformed)?)),
            frame::SETTINGS if flags & flag::ACK == 0 => self.settings(payload)?,
            frame::PUSH_PROMISE => return Err(malformed),
            frame::PING if flags & flag::ACK == 0 => {
                let opaque: &[u8; 8] = payload.try_into().map_err(|_| malformed)?;
                frame_header(&mut self.outgoing, opaque.len(), frame::PING, flag::ACK, 0);
                self.outgoing.extend(opaque);
            }
            frame::GOAWAY => return Err(Http2Error::GoAway(be_u32(payload, 4).ok_or(malformed)?)),
            frame::WINDOW_UPDATE => {
                let more = be_u32(payload, 0).ok_or(malformed)? & LARGEST_WINDOW;
                // A stream's own window needs no count: a stream carries one message, sent whole.
                if stream == 0 {
                    self.send_window = (self.send_window + i64::from(more)).min(LARGEST_WINDOW.into());
                }
            }
            // Section 5.5: what is not known is ignored. Headers that do not end a call say nothing we need,
            // and neither do the continuations of those that do.
            _ => {}
        }
        Ok(())
    }

    /// The call on `stream`, if it is still waiting for its answer.
    fn waiting(&mut self, stream: u32) -> Option<&mut Call<T>> {
        if stream.is_multiple_of(2) {
            return None;
        }
        let position = stream.checked_sub(self.oldest)? / 2;
        self.calls.get_mut(position as usize).filter(|call| call.token.is_some())
    }

    fn finish(&mut self, stream: u32, answered: &mut impl FnMut(T, &[u8])) -> Result<(), Http2Error> {
        let Some(call) = self.waiting(stream) else { return Ok(()) };
        let message = match call.message.split_first_chunk::<MESSAGE_PREFIX>() {
            None if call.message.is_empty() => return Err(Http2Error::Refused),
            Some(([0, length @ ..], message)) if u32::from_be_bytes(*length) as usize == message.len() => {
                message
            }
            _ => return Err(Http2Error::BadMessage),
        };
        if let Some(token) = call.token.take() {
            answered(token, message);
        }
        while self.calls.front().is_some_and(|call| call.token.is_none()) {
            self.calls.pop_front();
            self.oldest += 2;
        }
        Ok(())
    }

    /// Section 6.5.
    fn settings(&mut self, payload: &[u8]) -> Result<(), Http2Error> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Http2Error::Malformed(frame::SETTINGS));
        }
        for entry in entries {
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            match u16::from_be_bytes([entry[0], entry[1]]) {
                setting::HEADER_TABLE_SIZE if value < TABLE_NEEDED => {
                    return Err(Http2Error::SmallTable(value));
                }
                setting::INITIAL_WINDOW_SIZE => self.stream_window = value.into(),
                _ => {}
            }
        }
        frame_header(&mut self.outgoing, 0, frame::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    /// Gives the server its window back, long before it runs out and seldom enough to cost nothing.
    fn return_window(&mut self, received: u32) {
        self.unreturned += received;
        if self.unreturned > LARGEST_WINDOW / 2 {
            window_update(&mut self.outgoing, self.unreturned);
            self.unreturned = 0;
        }
    }
}

/// The bytes of a big-endian u32 at `at`, if they are there.
fn be_u32(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Section 6.1: a padded payload begins with the length of the padding behind the content.
fn unpadded(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Some(payload);
    }
    let (padding, content) = payload.split_first()?;
    content.get(..content.len().checked_sub(usize::from(*padding))?)
}

/// Section 4.1.
fn frame_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend(&(length as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
}

fn window_update(out: &mut Vec<u8>, more: u32) {
    frame_header(out, 4, frame::WINDOW_UPDATE, 0, 0);
    out.extend(more.to_be_bytes());
}

/// HPACK, appendix A: `:method: POST` and `:scheme: http` stand in the static table.
const METHOD_POST: u8 = 0x80 | 3;
const SCHEME_HTTP: u8 = 0x80 | 6;
/// The four headers that [`literal_headers`] added, newest first from index 62 on (HPACK, section 2.3.3).
const INDEXED_HEADERS: [u8; 6] = [METHOD_POST, SCHEME_HTTP, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
/// More than the table needs for them: 32 bytes each and their text (HPACK, section 4.1).
const TABLE_NEEDED: u32 = 512;

/// The request's headers, those that are not in the static table added to the dynamic one (HPACK, 6.2.1).
fn literal_headers(authority: &str, path: &str) -> Vec<u8> {
    /// Index of the name in the static table, under the bit pattern "literal with incremental indexing".
    const fn named(index: u8) -> u8 {
        0x40 | index
    }
    let mut out = vec![METHOD_POST, SCHEME_HTTP, named(4)];
    text(&mut out, path);
    out.push(named(1));
    text(&mut out, authority);
    out.push(named(31));
    text(&mut out, "application/grpc");
    out.push(named(0));
    text(&mut out, "te");
    text(&mut out, "trailers");
    out
}

/// HPACK, section 5.2, without Huffman coding.
fn text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 0x7f, "header texts are short constants and an address: {text:?}");
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connection() -> Connection<u8> {
        let mut connection = Connection::new("localhost", "/a/B");
        connection.outgoing().clear();
        connection
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame_header(&mut out, payload.len(), kind, flags, stream);
        out.extend(payload);
        out
    }

    fn answer(stream: u32, message: &[u8]) -> Vec<u8> {
        let mut prefixed = vec![0];
        prefixed.extend((message.len() as u32).to_be_bytes());
        prefixed.extend(message);
        let mut out = frame(frame::HEADERS, flag::END_HEADERS, stream, &[0x88]);
        out.extend(frame(frame::DATA, 0, stream, &prefixed));
        out.extend(frame(frame::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[]));
        out
    }

    fn receive(connection: &mut Connection<u8>, bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Http2Error> {
        let mut answers = Vec::new();
        connection.receive(bytes, |token, message| answers.push((token, message.to_vec())))?;
        Ok(answers)
    }

    #[test]
    fn answers_find_their_calls_in_any_order_and_in_any_pieces() {
        let mut connection = connection();
        for token in [10, 11, 12] {
            connection.call(token, b"question").unwrap();
        }
        let bytes = [answer(5, b"third"), answer(1, b"first"), answer(3, b"")].concat();
        let mut answers = Vec::new();
        for byte in bytes {
            answers.extend(receive(&mut connection, &[byte]).unwrap());
        }
        assert_eq!(connection.unanswered().count(), 0);
        assert_eq!(answers, [(12, b"third".to_vec()), (10, b"first".to_vec()), (11, Vec::new())]);
        assert!(connection.calls.is_empty());
        connection.call(13, b"").unwrap();
        assert_eq!(receive(&mut connection, &answer(7, b"x")).unwrap(), [(13, b"x".to_vec())]);
    }

    #[test]
    fn headers_are_sent_in_full_once() {
        let mut connection = connection();
        connection.call(0, b"").unwrap();
        let first = std::mem::take(connection.outgoing());
        connection.call(1, b"").unwrap();
        assert!(first.windows(4).any(|bytes| bytes == b"/a/B"));
        assert_eq!(connection.outgoing().len(), 2 * FRAME_HEADER + INDEXED_HEADERS.len() + MESSAGE_PREFIX);
    }

    #[test]
    fn a_call_that_ends_without_a_message_was_refused() {
        let mut connection = connection();
        connection.call(0, b"").unwrap();
        let ended = frame(frame::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x88]);
        assert_eq!(receive(&mut connection, &ended), Err(Http2Error::Refused));
    }

    #[test]
    fn a_call_beyond_the_window_is_an_error_until_the_window_is_refilled() {
        let mut connection = connection();
        let large = vec![0; 16_000];
        for token in 0..4 {
            connection.call(token, &large).unwrap();
        }
        assert_eq!(connection.call(4, &large), Err(Http2Error::WindowExhausted(16_005)));
        receive(&mut connection, &frame(frame::WINDOW_UPDATE, 0, 0, &20_000u32.to_be_bytes())).unwrap();
        connection.call(4, &large).unwrap();
    }

    #[test]
    fn settings_and_pings_are_acknowledged() {
        let mut connection = connection();
        let bytes = [frame(frame::SETTINGS, 0, 0, &[]), frame(frame::PING, 0, 0, b"12345678")].concat();
        receive(&mut connection, &bytes).unwrap();
        let expected =
            [frame(frame::SETTINGS, flag::ACK, 0, &[]), frame(frame::PING, flag::ACK, 0, b"12345678")];
        assert_eq!(*connection.outgoing(), expected.concat());
    }

    #[test]
    fn padding_is_taken_off() {
        assert_eq!(unpadded(flag::PADDED, &[2, b'x', 0, 0]), Some(&b"x"[..]));
        assert_eq!(unpadded(flag::PADDED, &[3, 0, 0]), None);
        assert_eq!(unpadded(flag::PADDED, &[]), None);
    }

    proptest! {
        /// Nothing a server sends makes the client panic, and an answer is handed out at most once.
        #[test]
        fn any_frames_are_taken_or_refused(
            frames in proptest::collection::vec(
                (0u8..12, any::<u8>(), 0u32..8, proptest::collection::vec(any::<u8>(), 0..24)),
                0..24,
            ),
            garbage in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut connection = connection();
            for token in 0..3 {
                connection.call(token, b"question").unwrap();
            }
            let mut seen = Vec::new();
            for bytes in frames.iter().map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).chain([garbage]) {
                match receive(&mut connection, &bytes) {
                    Ok(answers) => seen.extend(answers.into_iter().map(|(token, _)| token)),
                    Err(_) => break,
                }
            }
            let count = seen.len();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(count, seen.len());
        }
    }
}
