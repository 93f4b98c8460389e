//! The raw io_uring of one shard.
//!
//! **Owner**: the shard's I/O task, on the shard's thread, for as long as the shard lives. **Never** called from another
//! thread (the ring is set up `SINGLE_ISSUER`); other threads reach the shard through a pipe that this ring reads.
//!
//! Receives are one multishot `recvmsg` over a ring of provided buffers, so a burst costs no system call per packet.
//! Sends are `sendmsg` with GSO out of a fixed set of slots; datagrams of different connections share one where they can
//! ([`bursts`](super::bursts)). All memory is sized at start.
//!
//! Not used, and why: incremental provided buffers (they break multishot `recvmsg`: `EFAULT`); registered buffers
//! (nothing to gain for `recvmsg`); zero-copy sends (they pay above about 3 KB, answers are smaller); `SQPOLL` (it takes
//! a second core).

use super::bursts::{Bursts, Place, Shape};
use super::control::{Address, CONTROL_LEN, Control, NAME_LEN, parse, parse_address};
use super::{Datagram, Outgoing};
use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use quinn_proto::EcnCodepoint;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one receive buffer: a whole GRO burst (64 KiB) behind the kernel's header, address and control messages.
const RECEIVE_BUFFER: usize = 66 * 1024;

/// Room reserved in each send slot: the longest GSO burst that is asked for ([`MAX_SEGMENTS`] of 1,500 bytes).
const SEND_BUFFER: usize = MAX_SEGMENTS * 1500;

/// Datagrams in one send. Beyond this the cost of a call is no longer what matters.
pub const MAX_SEGMENTS: usize = 16;

/// Completions taken out of the ring at a time.
const REAP: usize = 64;

const TAG_RECEIVE: u64 = 1;
const TAG_INBOX: u64 = 2;
const TAG_TIMER: u64 = 3;
const TAG_SEND: u64 = 4;

/// How much memory a ring takes.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// Receive buffers, a power of two.
    pub receive_buffers: u16,
    /// Sends under way at a time.
    pub send_slots: u16,
}

impl RingLimits {
    /// Bytes the ring's own buffers take at most.
    pub fn memory_bytes(&self) -> usize {
        usize::from(self.receive_buffers) * RECEIVE_BUFFER + usize::from(self.send_slots) * SEND_BUFFER
    }
}

/// What happened in one turn of the ring.
#[derive(Debug, Default, Clone, Copy)]
pub struct Turn {
    /// Receives handed out.
    pub received: usize,
    /// Whether another thread wrote to the inbox.
    pub inbox: bool,
    /// Whether a send slot came free.
    pub sent: bool,
    /// Sends the kernel refused.
    pub send_errors: u64,
    /// Times there was no receive buffer: packets may have waited in the socket.
    pub no_buffers: u64,
}

impl Turn {
    /// Whether anything at all happened.
    pub fn is_idle(&self) -> bool {
        self.received == 0 && !self.inbox && !self.sent
    }
}

/// What datagrams of one send have in common.
type Way = (SocketAddr, Option<IpAddr>, Option<EcnCodepoint>);

struct SendSlot {
    bytes: Vec<u8>,
    is_segmented: bool,
    header: libc::msghdr,
    vector: libc::iovec,
    control: Control,
    address: Address,
}

/// The ring, its socket and all memory the kernel may write to. Dropped as a whole: the ring first, so that the kernel
/// has let go of the memory.
pub struct Ring {
    ring: IoUring,
    socket: UdpSocket,
    /// The pipe other threads ring through, and room for what they wrote: any number of rings is one.
    inbox: OwnedFd,
    inbox_rings: Box<[u8; 256]>,
    /// The eventfd the ring writes to while the shard is parked.
    parking: Option<glommio::io::BufferedFile>,
    receive_header: Box<libc::msghdr>,
    receive_entries: Mapping,
    receive_buffers: Mapping,
    receive_count: u16,
    receive_tail: u16,
    slots: Box<[SendSlot]>,
    free_slots: Vec<u16>,
    /// Filled slots that the kernel has not been told of.
    bursts: Bursts<Way>,
    /// Whether the network device takes segmented sends; found out by trying.
    can_segment: bool,
    timer: Box<Timespec>,
    /// The times that timeouts of the ring are set for, the earliest first. Each is earlier than those set before it, so
    /// there are few.
    timers: BinaryHeap<Reverse<Instant>>,
    in_flight: usize,
}

impl Ring {
    /// A ring over `socket` that also listens to `inbox`.
    ///
    /// # Errors
    /// If the kernel refuses the ring or its memory: it must be Linux 6.1 or later with io_uring permitted.
    pub fn new(socket: UdpSocket, inbox: OwnedFd, limits: RingLimits) -> io::Result<Self> {
        assert!(
            limits.receive_buffers.is_power_of_two(),
            "the kernel wants a power of two of receive buffers"
        );
        let entries = u32::from(limits.send_slots).next_power_of_two().max(64);
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        builder.setup_cqsize(4 * entries.max(u32::from(limits.receive_buffers)));
        let ring = builder.build(entries)?;
        let receive_entries = Mapping::new(usize::from(limits.receive_buffers) * size_of::<BufRingEntry>())?;
        let receive_buffers = Mapping::new(usize::from(limits.receive_buffers) * RECEIVE_BUFFER)?;
        // SAFETY: the mapping is page-aligned, has room for that many entries, and outlives the ring: `Ring` drops
        // `ring` before its mappings.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                receive_entries.start as u64,
                limits.receive_buffers,
                0,
                0,
            )?;
        }
        let parking = eventfd()?;
        ring.submitter().register_eventfd(parking.as_raw_fd())?;
        // SAFETY: the descriptor is owned here and given away once.
        let parking =
            unsafe { glommio::io::BufferedFile::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(parking)) };
        // SAFETY: all-zero bytes are a valid, empty `msghdr`.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_header.msg_namelen = NAME_LEN as libc::socklen_t;
        receive_header.msg_controllen = CONTROL_LEN;
        let slot = |_| SendSlot {
            bytes: Vec::with_capacity(SEND_BUFFER),
            is_segmented: false,
            // SAFETY: as above; and all-zero bytes are a valid, empty `iovec`.
            header: unsafe { std::mem::zeroed() },
            // SAFETY: see above.
            vector: unsafe { std::mem::zeroed() },
            control: Control::new(),
            address: Address::new(),
        };
        let mut this = Self {
            ring,
            socket,
            inbox,
            inbox_rings: Box::new([0; 256]),
            parking: Some(parking),
            receive_header,
            receive_entries,
            receive_buffers,
            receive_count: limits.receive_buffers,
            receive_tail: 0,
            slots: (0..limits.send_slots).map(slot).collect(),
            free_slots: (0..limits.send_slots).rev().collect(),
            bursts: Bursts::new(usize::from(limits.send_slots), MAX_SEGMENTS, SEND_BUFFER),
            can_segment: true,
            timer: Box::new(Timespec::new()),
            timers: BinaryHeap::with_capacity(16),
            in_flight: 0,
        };
        this.ring.completion().disable_eventfd();
        for buffer in 0..this.receive_count {
            this.give_back(buffer);
        }
        this.publish_buffers();
        this.arm_receive();
        this.arm_inbox();
        Ok(this)
    }

    /// Submits what is queued and hands every datagram that has arrived to `on_datagram`. Makes one system call if
    /// there is anything to submit or the kernel has work for us, none otherwise.
    ///
    /// # Errors
    /// If the ring itself fails; not for a failed send or receive.
    pub fn turn(&mut self, mut on_datagram: impl FnMut(Datagram<'_>)) -> io::Result<Turn> {
        self.queue_bursts();
        let submission = self.ring.submission();
        let (queued, wanted) = (submission.len(), submission.taskrun() || submission.cq_overflow());
        drop(submission);
        if queued > 0 || wanted {
            self.enter(queued)?;
        }
        let mut turn = Turn::default();
        let mut reaped = [const { std::mem::MaybeUninit::uninit() }; REAP];
        loop {
            let entries = self.ring.completion().fill(&mut reaped);
            let count = entries.len();
            for entry in entries.iter() {
                self.complete(entry, &mut turn, &mut on_datagram);
            }
            // One socket's burst must not keep the shard from answering: what is left waits for the next turn.
            if count < REAP || turn.received >= usize::from(self.receive_count) / 2 {
                break;
            }
        }
        if turn.received > 0 {
            self.publish_buffers();
        }
        Ok(turn)
    }

    /// Whether a datagram can be queued now.
    pub fn can_send(&self) -> bool {
        !self.free_slots.is_empty()
    }

    /// Datagrams that one [`send`](Self::send) may write.
    pub fn max_segments(&self) -> usize {
        if self.can_segment { MAX_SEGMENTS } else { 1 }
    }

    /// Queues what `write` puts into the buffer, to where it says, or nothing if it says `None`. It leaves together with
    /// what goes the same way, but not before what was put at `after`. The kernel gets it on the next
    /// [`turn`](Self::turn) or [`submit`](Self::submit). Returns where it was put: valid as `after` until then.
    ///
    /// # Panics
    /// If [`can_send`](Self::can_send) is false.
    pub fn send(
        &mut self,
        after: Place,
        write: impl FnOnce(&mut Vec<u8>) -> Option<Outgoing>,
    ) -> Option<Place> {
        let own = self.free_slots.pop().expect("the caller asked can_send");
        let bytes = &mut self.slots[usize::from(own)].bytes;
        bytes.clear();
        let Some(outgoing) = write(bytes) else {
            self.free_slots.push(own);
            return None;
        };
        let way = (outgoing.destination, outgoing.source_ip, outgoing.ecn);
        let shape = Shape::new(bytes.len(), outgoing.segment.map(usize::from));
        let joined = if self.can_segment { self.bursts.join(after, way, shape) } else { None };
        let Some((place, shared)) = joined else {
            return Some(self.bursts.open(own, way, shape));
        };
        // A copy of a packet is a small part of what sealing it cost, and a send of its own costs far more.
        let [own_slot, shared_slot] = (self.slots)
            .get_disjoint_mut([usize::from(own), usize::from(shared)])
            .expect("a slot that was free is not one in use");
        shared_slot.bytes.extend_from_slice(&own_slot.bytes);
        self.free_slots.push(own);
        Some(place)
    }

    /// Hands what is queued to the kernel now instead of on the next turn.
    ///
    /// # Errors
    /// If the ring fails.
    pub fn submit(&mut self) -> io::Result<()> {
        self.queue_bursts();
        let queued = self.ring.submission().len();
        if queued == 0 { Ok(()) } else { self.enter(queued) }
    }

    /// Waits until something completes or `deadline` has come. Lets the executor's other tasks run meanwhile.
    ///
    /// # Errors
    /// If the ring or the eventfd fails.
    pub async fn park(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        self.queue_bursts();
        if let Some(deadline) = deadline
            && self.timers.peek().is_none_or(|Reverse(earliest)| deadline < *earliest)
        {
            let wait = deadline.saturating_duration_since(now).max(Duration::from_micros(1));
            *self.timer = Timespec::from(wait);
            self.timers.push(Reverse(deadline));
            let entry = opcode::Timeout::new(&raw const *self.timer).build().user_data(TAG_TIMER);
            self.push(&entry);
        }
        self.ring.completion().enable_eventfd();
        // Whatever completed before the eventfd was on would not wake us: look once more.
        let queued = self.ring.submission().len();
        self.enter(queued)?;
        // If the kernel did not take every entry, nothing would wake us for those.
        if self.ring.completion().is_empty() && self.ring.submission().is_empty() {
            let parking = self.parking.as_ref().expect("only `close` takes it, and ends the ring");
            parking.read_at(0, 8).await?;
        }
        self.ring.completion().disable_eventfd();
        Ok(())
    }

    /// Sends still under way.
    pub fn sends_in_flight(&self) -> usize {
        self.in_flight
    }

    /// Gives the ring and its memory back. Dropping does the same but leaks the parking descriptor.
    ///
    /// # Errors
    /// If the descriptor does not close.
    pub async fn close(mut self) -> io::Result<()> {
        let Some(parking) = self.parking.take() else { return Ok(()) };
        drop(self);
        Ok(parking.close().await?)
    }

    fn complete(
        &mut self,
        entry: &cqueue::Entry,
        turn: &mut Turn,
        on_datagram: &mut impl FnMut(Datagram<'_>),
    ) {
        match entry.user_data() & 0xff {
            TAG_RECEIVE => {
                if let Some(buffer) = cqueue::buffer_select(entry.flags()) {
                    if let Ok(length) = usize::try_from(entry.result()) {
                        turn.received += 1;
                        self.hand_out(buffer, length, on_datagram);
                    }
                    self.give_back(buffer);
                } else if entry.result() == -libc::ENOBUFS {
                    turn.no_buffers += 1;
                }
                if !cqueue::more(entry.flags()) {
                    self.publish_buffers();
                    self.arm_receive();
                }
            }
            TAG_INBOX => {
                turn.inbox = true;
                self.arm_inbox();
            }
            TAG_TIMER => drop(self.timers.pop()),
            TAG_SEND => {
                let slot = (entry.user_data() >> 8) as u16;
                self.free_slots.push(slot);
                self.in_flight -= 1;
                turn.sent = true;
                if entry.result() < 0 {
                    turn.send_errors += 1;
                    // The device cannot checksum what it would have to cut (Linux before 6.11). QUIC repeats what was
                    // lost, one datagram a send.
                    if entry.result() == -libc::EIO && self.slots[usize::from(slot)].is_segmented {
                        self.can_segment = false;
                    }
                }
            }
            other => unreachable!("no operation was submitted with tag {other}"),
        }
    }

    /// Queues a send for every burst, in their order.
    fn queue_bursts(&mut self) {
        for index in 0..self.bursts.as_slice().len() {
            let burst = self.bursts.as_slice()[index];
            let (destination, source_ip, ecn) = burst.way;
            let slot = &mut self.slots[usize::from(burst.slot)];
            slot.is_segmented = burst.shape.is_segmented();
            let segment = slot.is_segmented.then_some(burst.shape.segment as u16);
            slot.address.fill(destination);
            slot.control.fill(&Outgoing { destination, source_ip, ecn, segment });
            slot.vector = libc::iovec { iov_base: slot.bytes.as_mut_ptr().cast(), iov_len: slot.bytes.len() };
            slot.header.msg_name = slot.address.as_mut_ptr();
            slot.header.msg_namelen = slot.address.len();
            slot.header.msg_iov = &raw mut slot.vector;
            slot.header.msg_iovlen = 1;
            slot.header.msg_control = slot.control.as_mut_ptr();
            slot.header.msg_controllen = slot.control.len();
            let entry = opcode::SendMsg::new(Fd(self.socket.as_raw_fd()), &raw const slot.header)
                .build()
                .user_data(TAG_SEND | u64::from(burst.slot) << 8);
            self.push(&entry);
        }
        self.bursts.clear();
    }

    fn hand_out(&self, buffer: u16, length: usize, on_datagram: &mut impl FnMut(Datagram<'_>)) {
        let start = usize::from(buffer) * RECEIVE_BUFFER;
        let bytes = self.receive_buffers.slice(start, length.min(RECEIVE_BUFFER));
        let Ok(message) = RecvMsgOut::parse(bytes, &self.receive_header) else { return };
        let Some(remote) = parse_address(message.name_data()) else { return };
        let control = parse(message.control_data());
        let payload = message.payload_data();
        on_datagram(Datagram {
            remote,
            local_ip: control.local_ip,
            ecn: control.ecn,
            stride: control.stride.filter(|stride| *stride > 0).unwrap_or(payload.len()),
            payload,
        });
    }

    fn enter(&mut self, queued: usize) -> io::Result<()> {
        // SAFETY: no argument is passed; every queued entry points at memory that `self` owns (see `push`).
        let result = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(queued as u32, 0, IORING_ENTER_GETEVENTS, None)
        };
        match result {
            Ok(_) => Ok(()),
            // The kernel is out of memory for the moment or was interrupted: what is queued stays queued.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Queues an entry. Everything it points at is boxed or mapped and owned by `self`, and stays where it is until the
    /// operation has completed.
    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        if entry.get_user_data() & 0xff == TAG_SEND {
            self.in_flight += 1;
        }
        loop {
            // SAFETY: see above; slots are not reused before their completion, and the ring is dropped before them.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            let queued = self.ring.submission().len();
            // The queue is as long as there are slots, so this is rare; the kernel takes entries at once.
            self.enter(queued).expect("the kernel takes entries from a ring that it made");
        }
    }

    fn arm_receive(&mut self) {
        let entry =
            opcode::RecvMsgMulti::new(Fd(self.socket.as_raw_fd()), &raw const *self.receive_header, 0)
                .build()
                .user_data(TAG_RECEIVE);
        self.push(&entry);
    }

    fn arm_inbox(&mut self) {
        let rings = self.inbox_rings.as_mut_ptr();
        let entry = opcode::Read::new(Fd(self.inbox.as_raw_fd()), rings, 256).build().user_data(TAG_INBOX);
        self.push(&entry);
    }

    fn give_back(&mut self, buffer: u16) {
        let index = usize::from(self.receive_tail & (self.receive_count - 1));
        let address = self.receive_buffers.start as u64 + buffer as u64 * RECEIVE_BUFFER as u64;
        // SAFETY: `index` is within the mapping; the kernel reads an entry only once the tail has passed it.
        unsafe {
            let entry = &mut *self.receive_entries.start.cast::<BufRingEntry>().add(index);
            entry.set_addr(address);
            entry.set_len(RECEIVE_BUFFER as u32);
            entry.set_bid(buffer);
        }
        self.receive_tail = self.receive_tail.wrapping_add(1);
    }

    fn publish_buffers(&mut self) {
        // SAFETY: the tail lies in the first entry of the mapping and is 16 bits wide and aligned.
        unsafe {
            let tail = BufRingEntry::tail(self.receive_entries.start.cast()).cast::<AtomicU16>();
            (*tail).store(self.receive_tail, Ordering::Release);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Nothing may be under way when the memory goes. If the kernel cannot cancel, it leaks nothing of ours either: a
        // closed ring runs no request any more.
        let _ = self.ring.submitter().register_sync_cancel(None, io_uring::types::CancelBuilder::any());
    }
}

const IORING_ENTER_GETEVENTS: u32 = 1;

/// An eventfd that a read waits on.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Anonymous memory, page-aligned, zeroed, touched only where it is used.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping touches no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    /// The kernel has written these bytes and does not write to them again before their buffer is given back.
    fn slice(&self, start: usize, length: usize) -> &[u8] {
        assert!(start + length <= self.length);
        // SAFETY: within the mapping; see above for who writes.
        unsafe { std::slice::from_raw_parts(self.start.add(start), length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; nothing borrows from it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
