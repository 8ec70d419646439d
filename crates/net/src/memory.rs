//! Memory that outlives the process, and word of how the process died.
#![expect(
    unsafe_code,
    reason = "mapping a file and handling a signal exist only as C calls"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use libc::{c_int, siginfo_t};
use portcullis_proto::state::{CELL_BYTES, Cell, Memory};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A piece of memory behind a descriptor, mapped for as long as the process lives.
pub struct Mapped {
    /// What the next process maps.
    pub descriptor: Arc<OwnedFd>,
    cells: &'static [Cell],
}

impl Mapped {
    /// New memory of `bytes`, all zeros, of which none is taken from the machine yet; its size can never change.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn anonymous(name: &str, bytes: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know that nothing is to be run from there; later ones may insist on it.
        let descriptor = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
            made => made?,
        };
        rustix::fs::ftruncate(&descriptor, bytes)?;
        rustix::fs::fcntl_add_seals(&descriptor, sealed())?;
        Self::over(descriptor)
    }

    /// Memory of an earlier process that the service manager kept.
    ///
    /// # Errors
    /// It is not sealed against a change of its size, which could end the process, or cannot be mapped.
    pub fn kept(descriptor: OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&descriptor)?;
        if seals.contains(sealed()) {
            Self::over(descriptor)
        } else {
            Err(io::Error::other("its size is not sealed"))
        }
    }

    /// A file in memory. Nobody else may be able to change its size.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn over(descriptor: OwnedFd) -> io::Result<Self> {
        let bytes = usize::try_from(rustix::fs::fstat(&descriptor)?.st_size).unwrap_or_default();
        let count = bytes / CELL_BYTES;
        if count == 0 {
            return Err(io::Error::other("it is empty"));
        }
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that is there.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                count * CELL_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &descriptor,
                0,
            )
        }?;
        // Keys stand there.
        // SAFETY: the range is the mapping that was just made; the advice changes nothing in it.
        let advised = unsafe { rustix::mm::madvise(start, count * CELL_BYTES, Advice::LinuxDontDump) };
        if let Err(error) = advised {
            tracing::debug!(%error, "kept state may stand in core dumps");
        }
        // SAFETY: the mapping is `count` cells long, page-aligned, readable, writable and never taken down; a cell is atomic
        // words, which any bytes are, and which other mappings may change at the same time.
        let cells = unsafe { std::slice::from_raw_parts(start.cast::<Cell>(), count) };
        Ok(Self {
            descriptor: Arc::new(descriptor),
            cells,
        })
    }

    /// The memory for a store. Where the machine has no room for a page of it, that is found out here and not by a signal.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let descriptor = Arc::clone(&self.descriptor);
        Memory {
            cells: self.cells,
            reserve: Box::new(move |bytes| {
                let mode = FallocateFlags::empty();
                rustix::fs::fallocate(&descriptor, mode, 0, bytes as u64).is_ok()
            }),
        }
    }

    /// Gives all of it back to the machine. It reads as zeros from then on.
    pub fn discard(&self) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = (self.cells.len() * CELL_BYTES) as u64;
        if let Err(error) = rustix::fs::fallocate(self.descriptor.as_fd(), mode, 0, bytes) {
            tracing::debug!(%error, "memory of an earlier process stays taken");
        }
    }
}

fn sealed() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

/// How long the machine has been up, the time that it slept included.
#[must_use]
pub fn uptime() -> std::time::Duration {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    std::time::Duration::new(
        up.tv_sec.try_into().unwrap_or_default(),
        up.tv_nsec.try_into().unwrap_or_default(),
    )
}

/// Signals by which a process dies of itself.
const CRASHES: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];

struct OnCrash {
    words: Vec<&'static AtomicU64>,
    before: [libc::sigaction; CRASHES.len()],
}

static ON_CRASH: OnceLock<OnCrash> = OnceLock::new();

/// Sets `words` to 1 when the process dies by a signal of its own making; one that is killed by another leaves them. What handled
/// such signals before handles them after. Later calls do nothing.
pub fn note_crash_in(words: Vec<&'static AtomicU64>) {
    let mut before = [default_action(); CRASHES.len()];
    for (signal, before) in CRASHES.into_iter().zip(&mut before) {
        // SAFETY: with no new action the call only reads the present one, into a structure of the right type.
        unsafe { libc::sigaction(signal, ptr::null(), before) };
    }
    if ON_CRASH.set(OnCrash { words, before }).is_err() {
        return;
    }
    for signal in CRASHES {
        let mut action = default_action();
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut libc::c_void) = crashed;
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may: it stores words and
        // calls sigaction.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

fn default_action() -> libc::sigaction {
    // SAFETY: all-zero bytes are the default action with an empty mask.
    unsafe { std::mem::zeroed() }
}

extern "C" fn crashed(signal: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {
    let Some(on_crash) = ON_CRASH.get() else { return };
    for word in &on_crash.words {
        word.store(1, Ordering::Release);
    }
    let before = CRASHES
        .iter()
        .zip(&on_crash.before)
        .find(|(it, _)| **it == signal);
    if let Some((_, before)) = before {
        // The instruction runs once more, or abort goes on, and meets what was there before.
        // SAFETY: the structure was filled in by the kernel and is never changed.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}
