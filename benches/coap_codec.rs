//! What one message costs to read and to write, in time and in allocations, and what it costs through coap-lite:
//! `cargo bench --bench coap_codec`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    unsafe_code,
    reason = "a benchmark reads the clock, prints, stops when something fails, and counts what is allocated"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use coap_lite::{CoapOption, MessageClass, MessageType as WireType, Packet};
use portcullis::coap::codec::{Message, Writer};
use portcullis::coap::contract::{Code, Token};
use portcullis::coap::metrics::MessageType;

const OBSERVE: u16 = 6;
const BATCH: u32 = 20_000;
const BATCHES: usize = 50;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The best of the batches tells what it costs on a machine that does other things too.
fn measure(name: &str, mut step: impl FnMut()) {
    step();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    step();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let batch = |_| {
        let begin = Instant::now();
        (0..BATCH).for_each(|_| step());
        begin.elapsed() / BATCH
    };
    let best = (0..BATCHES).map(batch).min().unwrap_or_default();
    println!(
        "{name:<44} {:>5} ns {allocations:>4} allocations",
        best.as_nanos()
    );
}

fn publish() -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.set_type(WireType::Confirmable);
    packet.header.code = MessageClass::from(Code::PUT.0);
    packet.set_token(vec![1, 2, 3, 4]);
    for segment in ["ps", "building", "7", "temperature"] {
        packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    packet.add_option(CoapOption::UriQuery, b"qos=1".to_vec());
    packet.payload = vec![b'x'; 32];
    packet.to_bytes().unwrap()
}

fn main() {
    let publish = publish();
    let token = Token::new(&[1, 2, 3, 4]).unwrap();
    let payload = [b'x'; 32];
    let mut out = Vec::with_capacity(256);
    measure("read a publish, write its 2.04", || {
        let message = Message::parse(black_box(&publish)).unwrap();
        for option in message.options() {
            black_box(option);
        }
        out.clear();
        Writer::new(
            &mut out,
            MessageType::Ack,
            Code::CHANGED,
            message.mid,
            message.token,
        )
        .payload(&[]);
        black_box((&out, message.payload));
    });
    measure("the same through coap-lite", || {
        let packet = Packet::from_bytes(black_box(&publish)).unwrap();
        for option in packet.options() {
            black_box(option);
        }
        let mut answer = Packet::new();
        answer.header.set_type(WireType::Acknowledgement);
        answer.header.code = MessageClass::from(Code::CHANGED.0);
        answer.header.message_id = packet.header.message_id;
        answer.set_token(packet.get_token().to_vec());
        black_box((answer.to_bytes().unwrap(), packet));
    });
    measure("write a notification", || {
        out.clear();
        let mut writer = Writer::new(&mut out, MessageType::Non, Code::CONTENT, 7, black_box(token));
        writer.uint(OBSERVE, Some(70_000));
        writer.payload(black_box(&payload));
        black_box(&out);
    });
    measure("the same through coap-lite", || {
        let mut packet = Packet::new();
        packet.header.set_type(WireType::NonConfirmable);
        packet.header.code = MessageClass::from(Code::CONTENT.0);
        packet.header.message_id = 7;
        packet.set_token(black_box(token).as_bytes().to_vec());
        packet.add_option(CoapOption::Observe, vec![1, 17, 112]);
        packet.payload = black_box(&payload).to_vec();
        black_box(packet.to_bytes().unwrap());
    });
}
