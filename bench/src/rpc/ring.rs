//! UDP over one io_uring: a multishot receive on every socket, GSO sends, and no system call while nothing
//! happens.
//!
//! Owned and driven by one spinning thread; used by the client and by the floor's server, so that both ends of
//! the floor are the least that UDP costs here. Memory is sized at the start: [`RECEIVE_BUFFERS`] of
//! [`RECEIVE_BUFFER`] bytes (touched only when used) and [`SEND_SLOTS`] buffers that grow to the largest send.
//!
//! The ring runs deferred task work with the `TASKRUN` flag: the kernel raises a bit in shared memory when a
//! packet has come, so spinning reads a cache line instead of entering the kernel. A packet is copied into its
//! buffer only when we do enter.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use haca_dataplane::transport::bursts::{Burst, Bursts, Place, Shape};
use io_uring::types::{BufRingEntry, CancelBuilder, Fixed, RecvMsgOut, Timespec};
use io_uring::{IoUring, cqueue, opcode};

/// Whole GRO aggregates must fit: up to 64 KiB and the headers io_uring puts before them.
const RECEIVE_BUFFER: usize = 68 * 1024;
/// More than the packets that can be on their way at 64 connections; a power of two, as the kernel wants.
const RECEIVE_BUFFERS: u16 = 256;
/// Sends complete within the call that submits them on loopback, so these only have to span one flush.
const SEND_SLOTS: usize = 256;
/// Most datagrams the kernel cuts one send into (`UDP_MAX_SEGMENTS` was 64 before Linux 6.9).
pub(crate) const MOST_SEGMENTS: usize = 64;
/// Most bytes in one send: what one UDP datagram could hold.
const MOST_BYTES: usize = 65_000;
/// Room for the peer's address before each received payload.
const NAME: usize = mem::size_of::<libc::sockaddr_in>();
/// Room for the control messages we ask for: the GRO stride, and when the kernel got the datagram.
const CONTROL: usize = 64;
const ENTER_GETEVENTS: u32 = 1;
/// Marks completions of sends; the rest of `user_data` is the slot. Receives carry the socket's index.
const SEND: u64 = 1 << 63;

/// A set of UDP sockets behind one io_uring.
pub(crate) struct UdpRing {
    // First, so that it is closed before the memory it points into is freed.
    ring: IoUring,
    buffers: ReceiveBuffers,
    header: Box<libc::msghdr>,
    sends: Box<[SendSlot]>,
    free_sends: Vec<u16>,
    /// Filled slots that the kernel has not been told of, by socket and destination.
    bursts: Bursts<(usize, Option<SocketAddrV4>)>,
    completions: Vec<(u64, i32, u32)>,
    next_completion: usize,
    /// Registered with the ring by their index, which spares the kernel a look-up on each use.
    sockets: Vec<UdpSocket>,
}

/// Datagrams that arrived together from one peer; give it back with [`UdpRing::recycle`].
#[derive(Debug)]
#[must_use = "its buffer is lost to the ring unless recycled"]
pub(crate) struct Received {
    pub(crate) socket: usize,
    pub(crate) from: SocketAddrV4,
    /// Length of each datagram but the last, which may be shorter.
    pub(crate) stride: usize,
    /// When the kernel got it, since the Unix epoch, if [`UdpRing::stamp_arrivals`] asked for that.
    pub(crate) arrived: Option<Duration>,
    buffer: u16,
    start: usize,
    length: usize,
}

impl UdpRing {
    /// Takes over `sockets` and starts receiving on each. A send leaves once it has `most_datagrams`.
    ///
    /// # Errors
    /// When the kernel has no io_uring with these features (6.1 or later has) or refuses the memory.
    pub(crate) fn new(sockets: Vec<UdpSocket>, most_datagrams: usize) -> anyhow::Result<Self> {
        let entries = (sockets.len() + SEND_SLOTS).next_power_of_two() as u32;
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        builder.setup_cqsize(entries * 4);
        let ring =
            builder.build(entries).context("cannot set up an io_uring (Linux 6.1 or later is needed)")?;
        (sockets.iter().try_for_each(|socket| enable(socket, libc::SOL_UDP, libc::UDP_GRO)))
            .context("cannot turn on UDP_GRO (Linux 5.0 or later is needed)")?;
        // SAFETY: all zeroes is a valid, empty msghdr.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        header.msg_namelen = NAME as u32;
        header.msg_controllen = CONTROL;
        let buffers = ReceiveBuffers::register(&ring)?;
        let files: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&files).context("cannot register sockets with io_uring")?;
        let mut this = Self {
            ring,
            buffers,
            header,
            sends: (0..SEND_SLOTS).map(|_| SendSlot::new()).collect(),
            free_sends: (0..SEND_SLOTS as u16).collect(),
            bursts: Bursts::new(SEND_SLOTS, most_datagrams, MOST_BYTES),
            completions: Vec::with_capacity(entries as usize * 4),
            next_completion: 0,
            sockets,
        };
        for index in 0..files.len() {
            this.arm(index)?;
        }
        this.submit()?;
        Ok(this)
    }

    /// From now on the kernel says when it got a datagram.
    ///
    /// # Errors
    /// When the kernel does not.
    pub(crate) fn stamp_arrivals(&self) -> anyhow::Result<()> {
        (self.sockets.iter().try_for_each(|socket| enable(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)))
            .context("cannot turn on SO_TIMESTAMPNS")
    }

    /// Hands over what is queued and collects what has come, if anything has; never waits.
    ///
    /// # Errors
    /// When the kernel refuses a send or a receive.
    pub(crate) fn poll(&mut self) -> anyhow::Result<()> {
        let (queued, has_work) = {
            let queue = self.ring.submission();
            (queue.len(), queue.taskrun())
        };
        if queued > 0 || has_work || !self.bursts.as_slice().is_empty() {
            self.submit()?;
        }
        Ok(())
    }

    /// The next datagrams received, of those collected so far.
    ///
    /// # Errors
    /// When a receive failed for good or the kernel cut a payload short.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Option<Received>> {
        if self.next_completion == self.completions.len() {
            self.completions.clear();
            self.next_completion = 0;
            self.completions.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
        }
        while let Some(&(data, result, flags)) = self.completions.get(self.next_completion) {
            self.next_completion += 1;
            if data & SEND != 0 {
                self.sent((data & !SEND) as u16, result)?;
                continue;
            }
            let socket = data as usize;
            if !cqueue::more(flags) {
                self.arm(socket)?;
            }
            if result < 0 {
                match -result {
                    // Out of buffers ends a multishot receive; it is armed again, and QUIC repeats what was lost.
                    libc::ENOBUFS => continue,
                    // A connected socket reports here that nobody listens at its peer.
                    error => return Err(io::Error::from_raw_os_error(error)).context("cannot receive"),
                }
            }
            let Some(buffer) = cqueue::buffer_select(flags) else { continue };
            return self.parse(socket, buffer, result as usize).map(Some);
        }
        Ok(None)
    }

    /// The bytes of `received`, datagram after datagram.
    pub(crate) fn payload(&self, received: &Received) -> &[u8] {
        self.buffers.payload(received)
    }

    /// Gives the buffer back to the kernel.
    pub(crate) fn recycle(&mut self, received: Received) {
        self.buffers.give(received.buffer);
    }

    /// Queues what `write` puts into the buffer on `socket`, as datagrams of the length it returns, or nothing if it
    /// returns `None`. It leaves together with what goes the same way, but not before what was put at `after`.
    /// `to` is absent on a connected socket: naming the peer there again would cost a route look-up for each send.
    ///
    /// # Errors
    /// When the kernel refuses a send.
    pub(crate) fn send(
        &mut self,
        socket: usize,
        to: Option<SocketAddrV4>,
        after: Place,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> anyhow::Result<Option<Place>> {
        self.queue(socket, to, after, |_, buffer| write(buffer))
    }

    /// Sends `received` back to where it came from, and gives its buffer back to the kernel.
    ///
    /// # Errors
    /// When the kernel refuses a send.
    pub(crate) fn echo(&mut self, received: Received) -> anyhow::Result<()> {
        let from = received.from;
        self.queue(received.socket, Some(from), Place::default(), |buffers, buffer| {
            buffer.extend_from_slice(buffers.payload(&received));
            Some(received.stride)
        })?;
        self.recycle(received);
        Ok(())
    }

    fn queue(
        &mut self,
        socket: usize,
        to: Option<SocketAddrV4>,
        after: Place,
        write: impl FnOnce(&ReceiveBuffers, &mut Vec<u8>) -> Option<usize>,
    ) -> anyhow::Result<Option<Place>> {
        self.free_a_slot()?;
        let own = *self.free_sends.last().expect("the call above ends with a free slot");
        let payload = &mut self.sends[usize::from(own)].payload;
        payload.clear();
        let Some(stride) = write(&self.buffers, payload) else { return Ok(None) };
        let shape = Shape::new(payload.len(), Some(stride));
        let place = match self.bursts.join(after, (socket, to), shape) {
            None => {
                self.free_sends.pop();
                self.bursts.open(own, (socket, to), shape)
            }
            Some((place, shared)) => {
                let [own, shared] = (self.sends)
                    .get_disjoint_mut([usize::from(own), usize::from(shared)])
                    .expect("a slot that was free is not one in use");
                shared.payload.extend_from_slice(&own.payload);
                place
            }
        };
        if self.bursts.is_full(place) {
            self.submit()?;
        }
        Ok(Some(place))
    }

    /// Waits for the kernel if every slot is in use.
    fn free_a_slot(&mut self) -> anyhow::Result<()> {
        while self.free_sends.is_empty() {
            self.submit()?;
            // Receives stay, in order; only the sends among them are taken out.
            let mut sent = Vec::new();
            self.completions.drain(..self.next_completion);
            self.next_completion = 0;
            self.completions.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
            self.completions.retain(|&(data, result, _)| {
                let is_send = data & SEND != 0;
                if is_send {
                    sent.push((data, result));
                }
                !is_send
            });
            for (data, result) in sent {
                self.sent((data & !SEND) as u16, result)?;
            }
        }
        Ok(())
    }

    fn parse(&mut self, socket: usize, buffer: u16, length: usize) -> anyhow::Result<Received> {
        let bytes = &self.buffers.get(buffer)[..length];
        let message = RecvMsgOut::parse(bytes, &self.header).map_err(|()| {
            anyhow::anyhow!("io_uring returned a received message shorter than its own header")
        })?;
        if message.is_payload_truncated() {
            bail!("a datagram of {} bytes does not fit the buffer", message.incoming_payload_len());
        }
        let payload = message.payload_data();
        Ok(Received {
            socket,
            from: parse_address(message.name_data())?,
            stride: gro_stride(message.control_data()).unwrap_or(payload.len()).max(1),
            arrived: arrival(message.control_data()),
            buffer,
            start: payload.as_ptr() as usize - bytes.as_ptr() as usize,
            length: payload.len(),
        })
    }

    fn sent(&mut self, slot: u16, result: i32) -> anyhow::Result<()> {
        self.free_sends.push(slot);
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result)).context("cannot send");
        }
        Ok(())
    }

    fn arm(&mut self, socket: usize) -> anyhow::Result<()> {
        let entry = opcode::RecvMsgMulti::new(Fixed(socket as u32), &raw const *self.header, 0).build();
        self.push(&entry.user_data(socket as u64))
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> anyhow::Result<()> {
        if self.ring.submission().is_full() {
            self.enter()?;
        }
        // SAFETY: entries point only to sockets, send slots and the receive header. All are owned by `self`,
        // boxed so that they do not move, and outlive the requests: Drop cancels those first.
        unsafe { self.ring.submission().push(entry) }.context("the submission queue is full after a submit")
    }

    fn submit(&mut self) -> anyhow::Result<()> {
        for index in 0..self.bursts.as_slice().len() {
            let Burst { slot, way: (socket, to), shape } = self.bursts.as_slice()[index];
            let header = self.sends[usize::from(slot)].fill(to, shape.segment);
            let entry = opcode::SendMsg::new(Fixed(socket as u32), header).build();
            self.push(&entry.user_data(SEND | u64::from(slot)))?;
        }
        self.bursts.clear();
        self.enter()
    }

    fn enter(&mut self) -> anyhow::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed besides flags, and the entries were checked in `push`.
        let entered =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) => Err(error).context("io_uring_enter failed"),
        }
    }
}

impl Drop for UdpRing {
    fn drop(&mut self) {
        // Nothing may write into our buffers or read a send slot once they are freed.
        let limit = Timespec::from(Duration::from_secs(1));
        let cancelled = self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        if let Err(error) = cancelled
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            // Leaking is the one thing that is safe when the kernel would not let go.
            mem::forget(mem::take(&mut self.sends));
            // SAFETY: all zeroes is a valid, empty msghdr.
            mem::forget(mem::replace(&mut self.header, Box::new(unsafe { mem::zeroed() })));
            self.buffers.leak();
        }
    }
}

/// A send from its submission to its completion: everything the kernel reads meanwhile.
struct SendSlot {
    payload: Vec<u8>,
    to: libc::sockaddr_in,
    part: libc::iovec,
    control: SegmentControl,
    header: libc::msghdr,
}

/// A control message with the GSO segment size, laid out as cmsg(3) has it.
#[repr(C)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
    // CMSG_SPACE pads the data to the alignment of the header.
    padding: [u8; mem::align_of::<libc::cmsghdr>() - 2],
}

impl SendSlot {
    fn new() -> Self {
        // SAFETY: these are plain C structs for which all zeroes (null pointers, no lengths) is valid.
        unsafe {
            Self {
                payload: Vec::new(),
                to: mem::zeroed(),
                part: mem::zeroed(),
                control: mem::zeroed(),
                header: mem::zeroed(),
            }
        }
    }

    /// Lays out the message. The pointer is valid until the slot is filled again or dropped.
    fn fill(&mut self, to: Option<SocketAddrV4>, stride: usize) -> *const libc::msghdr {
        self.part.iov_base = self.payload.as_mut_ptr().cast();
        self.part.iov_len = self.payload.len();
        if let Some(to) = to {
            self.to.sin_family = libc::AF_INET as libc::sa_family_t;
            self.to.sin_port = to.port().to_be();
            self.to.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            self.header.msg_name = (&raw mut self.to).cast();
            self.header.msg_namelen = NAME as u32;
        } else {
            self.header.msg_name = ptr::null_mut();
            self.header.msg_namelen = 0;
        }
        self.header.msg_iov = &raw mut self.part;
        self.header.msg_iovlen = 1;
        if stride < self.payload.len() {
            self.control.header.cmsg_level = libc::SOL_UDP;
            self.control.header.cmsg_type = libc::UDP_SEGMENT;
            self.control.header.cmsg_len = mem::size_of::<libc::cmsghdr>() + mem::size_of::<u16>();
            self.control.segment = stride as u16;
            self.header.msg_control = (&raw mut self.control).cast();
            self.header.msg_controllen = mem::size_of::<SegmentControl>();
        } else {
            self.header.msg_control = ptr::null_mut();
            self.header.msg_controllen = 0;
        }
        &raw const self.header
    }
}

/// The provided-buffer ring the kernel takes receive buffers from.
struct ReceiveBuffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
}

impl ReceiveBuffers {
    const MEMORY: usize = RECEIVE_BUFFERS as usize * RECEIVE_BUFFER;
    const ENTRIES: usize = RECEIVE_BUFFERS as usize * mem::size_of::<BufRingEntry>();

    fn register(ring: &IoUring) -> anyhow::Result<Self> {
        let entries: *mut BufRingEntry = map(Self::ENTRIES)?.cast();
        let memory = map(Self::MEMORY)?;
        let mut this = Self { entries, memory, tail: 0 };
        // SAFETY: the mapping is page-aligned, holds RECEIVE_BUFFERS entries, and is unmapped only after the
        // ring's requests were cancelled.
        unsafe { ring.submitter().register_buf_ring_with_flags(this.entries as u64, RECEIVE_BUFFERS, 0, 0) }
            .context("cannot register receive buffers (Linux 6.1 or later is needed)")?;
        for buffer in 0..RECEIVE_BUFFERS {
            this.give(buffer);
        }
        Ok(this)
    }

    fn get(&self, buffer: u16) -> &[u8] {
        assert!(buffer < RECEIVE_BUFFERS, "the kernel names a buffer it was not given: {buffer}");
        // SAFETY: within the mapping; the kernel writes to a buffer only while it has it, and it gives this
        // one to us until `give`.
        unsafe {
            std::slice::from_raw_parts(self.memory.add(buffer as usize * RECEIVE_BUFFER), RECEIVE_BUFFER)
        }
    }

    fn payload(&self, received: &Received) -> &[u8] {
        &self.get(received.buffer)[received.start..received.start + received.length]
    }

    fn give(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (RECEIVE_BUFFERS - 1));
        // SAFETY: `index` is within the ring of entries, and the kernel reads an entry only below the tail,
        // which is published after it.
        unsafe {
            let entry = &mut *self.entries.add(index);
            entry.set_addr(self.memory.add(buffer as usize * RECEIVE_BUFFER) as u64);
            entry.set_len(RECEIVE_BUFFER as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry's reserved field, aligned for u16, shared with the kernel.
        unsafe {
            (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release)
        };
    }

    fn leak(&mut self) {
        self.entries = ptr::null_mut();
        self.memory = ptr::null_mut();
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        if self.memory.is_null() {
            return;
        }
        // SAFETY: both were mapped with these lengths by `register`, and the ring is closed by now.
        unsafe {
            libc::munmap(self.entries.cast(), Self::ENTRIES);
            libc::munmap(self.memory.cast(), Self::MEMORY);
        }
    }
}

fn map(length: usize) -> anyhow::Result<*mut u8> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let memory = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot map {length} bytes"));
    }
    Ok(memory.cast())
}

fn enable(socket: &UdpSocket, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, length) = ((&raw const on).cast(), mem::size_of_val(&on) as libc::socklen_t);
    // SAFETY: `value` points to an int that outlives the call, and its length is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn parse_address(name: &[u8]) -> anyhow::Result<SocketAddrV4> {
    // struct sockaddr_in: family in host order, port and address in network order.
    let Some(&[f0, f1, p0, p1, a, b, c, d]) = name.first_chunk::<8>() else {
        bail!("a datagram came with an address of {} bytes", name.len());
    };
    anyhow::ensure!(
        u16::from_ne_bytes([f0, f1]) == libc::AF_INET as u16,
        "a datagram did not come over IPv4"
    );
    Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p0, p1])))
}

/// The data of the control message of this level and kind, if there is one; laid out as cmsg(3) has it.
fn control_message(mut control: &[u8], level: libc::c_int, kind: libc::c_int) -> Option<&[u8]> {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    loop {
        let length = usize::from_ne_bytes(*control.first_chunk()?);
        let found = [control.get(8..12)?, control.get(12..16)?];
        let data = control.get(HEADER..length)?;
        if found == [level.to_ne_bytes(), kind.to_ne_bytes()] {
            return Some(data);
        }
        control = control.get(length.next_multiple_of(mem::align_of::<libc::cmsghdr>())..)?;
    }
}

/// The segment size the kernel reports for datagrams it merged; `None` for a single one.
fn gro_stride(control: &[u8]) -> Option<usize> {
    let value = control_message(control, libc::SOL_UDP, libc::UDP_GRO)?;
    let value = i32::from_ne_bytes(*value.first_chunk()?);
    (value > 0).then_some(value as usize)
}

/// When the kernel got the datagram, or the first of those it merged.
fn arrival(control: &[u8]) -> Option<Duration> {
    let (seconds, nanos) =
        control_message(control, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?.split_first_chunk()?;
    let [seconds, nanos] = [*seconds, *nanos.first_chunk()?].map(u64::from_ne_bytes);
    Some(Duration::new(seconds, u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn bound() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    fn v4(socket: &UdpSocket) -> SocketAddrV4 {
        match socket.local_addr().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("bound to {address}"),
        }
    }

    fn wait(ring: &mut UdpRing) -> Received {
        loop {
            ring.poll().unwrap();
            if let Some(received) = ring.receive().unwrap() {
                return received;
            }
        }
    }

    #[test]
    fn segments_sent_as_one_arrive_as_one_with_their_stride() {
        let (here, there) = (bound(), bound());
        let (from, to) = (v4(&here), v4(&there));
        let mut ring = UdpRing::new(vec![here, there], 16).unwrap();
        for round in 0..1_000u32 {
            let sent: Vec<u8> = (0..150u32).map(|byte| (byte ^ round) as u8).collect();
            ring.send(0, Some(to), Place::default(), |buffer| {
                buffer.extend(&sent);
                Some(64)
            })
            .unwrap();
            let received = wait(&mut ring);
            assert_eq!((received.socket, received.from, received.stride), (1, from, 64));
            assert_eq!(ring.payload(&received), sent);
            ring.recycle(received);
        }
    }

    #[test]
    fn more_sends_than_slots_at_once_all_arrive_in_order() {
        let (here, there) = (bound(), bound());
        let to = v4(&there);
        let mut ring = UdpRing::new(vec![here, there], 16).unwrap();
        let mut expected = 0u16;
        for batch in 0..4u16 {
            for index in 0..200 {
                ring.send(0, Some(to), Place::default(), |buffer| {
                    buffer.extend((batch * 200 + index).to_le_bytes());
                    Some(2)
                })
                .unwrap();
            }
            while expected < (batch + 1) * 200 {
                let received = wait(&mut ring);
                for datagram in ring.payload(&received).chunks(received.stride) {
                    assert_eq!(datagram, expected.to_le_bytes());
                    expected += 1;
                }
                ring.recycle(received);
            }
        }
    }

    #[test]
    fn control_messages_are_found_among_others_and_damaged_ones_are_none() {
        let message = |level: libc::c_int, kind: libc::c_int, data: &[u8]| {
            let length = (mem::size_of::<libc::cmsghdr>() + data.len()).to_ne_bytes();
            let mut bytes = [&length[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        let stamp = [7u64.to_ne_bytes(), 5u64.to_ne_bytes()].concat();
        let stamp = message(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &stamp);
        let both = [&stamp[..], &message(libc::SOL_UDP, libc::UDP_GRO, &64i32.to_ne_bytes())].concat();
        assert_eq!((gro_stride(&both), arrival(&both)), (Some(64), Some(Duration::new(7, 5))));
        assert_eq!((gro_stride(&stamp), arrival(&stamp)), (None, Some(Duration::new(7, 5))));
        for damaged in [&[][..], &[0; CONTROL], &[0xff; CONTROL], &both[..9], &both[..20]] {
            assert_eq!((gro_stride(damaged), arrival(damaged)), (None, None));
        }
    }

    #[test]
    fn the_kernel_says_when_a_datagram_came() {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(to) = socket.local_addr().unwrap() else { panic!("it is IPv4") };
        let mut ring = UdpRing::new(vec![socket], 1).unwrap();
        ring.stamp_arrivals().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let begun = now();
        // The kernel begins a moment after it was asked; until then it stamps what is read.
        loop {
            let before = now();
            sender.send_to(b"x", to).unwrap();
            let after = now();
            let received = wait(&mut ring);
            let arrived = received.arrived.unwrap();
            ring.recycle(received);
            assert!(arrived >= before);
            if arrived <= after {
                break;
            }
            assert!(after - begun < Duration::from_secs(10), "the kernel stamps only what is read");
        }
    }
}
