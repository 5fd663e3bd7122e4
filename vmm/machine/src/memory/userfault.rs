//! Pages that come when they are first touched: userfaultfd(2) over guest RAM.
#![allow(
    unsafe_code,
    reason = "ioctl(2) takes pointers; each call states what the kernel reads and writes"
)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dwcp::page::{Gfn, PAGE_BYTES, PAGE_SIZE, PageRun};
use linux_raw_sys::general::{
    UFFD_API, UFFD_EVENT_PAGEFAULT, UFFDIO_REGISTER_MODE_MISSING, uffd_msg, uffdio_api,
    uffdio_copy, uffdio_range, uffdio_register, uffdio_zeropage,
};
use rustix::mm::UserfaultfdFlags;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr};

use super::GuestRam;

ioctl_io_nr!(USERFAULTFD_IOC_NEW, UFFD_API, 0x00);
ioctl_iowr_nr!(UFFDIO_API, UFFD_API, 0x3f, uffdio_api);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFD_API, 0x00, uffdio_register);
ioctl_ior_nr!(UFFDIO_UNREGISTER, UFFD_API, 0x01, uffdio_range);
ioctl_ior_nr!(UFFDIO_WAKE, UFFD_API, 0x02, uffdio_range);
ioctl_iowr_nr!(UFFDIO_COPY, UFFD_API, 0x03, uffdio_copy);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFD_API, 0x04, uffdio_zeropage);

/// The device whose permissions say who may serve faults of the kernel itself, KVM's among them.
const DEVICE: &str = "/dev/userfaultfd";

/// A userfaultfd that also serves faults of the kernel, and covers no memory yet.
///
/// It is made early: a process in its jail can neither open the device, nor has it a right.
#[derive(Debug)]
pub(crate) struct UserfaultFd(File);

impl UserfaultFd {
    /// Through the device, or by right of CAP_SYS_PTRACE.
    ///
    /// # Errors
    /// When this process may not serve the kernel's faults.
    pub(crate) fn open() -> io::Result<Self> {
        through_device().or_else(|error: io::Error| by_right().map_err(|_| {
            let why = format!("{DEVICE}: {error}; this process needs read and write access to it, or CAP_SYS_PTRACE");
            io::Error::new(error.kind(), why)
        })).map(|descriptor| Self(descriptor.into()))
    }
}

/// Guest RAM whose pages are missing until they are put there.
///
/// Whoever touches a missing page, a vCPU or this process, waits until it is there. So the thread that serves faults
/// must never touch guest RAM otherwise than through this.
#[derive(Debug)]
pub(crate) struct Userfault {
    file: File,
    ram: Arc<GuestRam>,
}

impl Userfault {
    /// Makes all pages of `ram` missing, which nobody has touched yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new(UserfaultFd(file): UserfaultFd, ram: Arc<GuestRam>) -> io::Result<Self> {
        let mut api = uffdio_api { api: UFFD_API.into(), features: 0, ioctls: 0 };
        // SAFETY: UFFDIO_API (userfaultfd(2)) reads and writes `api`.
        check(unsafe { ioctl_with_mut_ref(&file, UFFDIO_API(), &mut api) })?;
        let fault = Self { file, ram };
        for range in fault.ranges() {
            let mode = UFFDIO_REGISTER_MODE_MISSING.into();
            let mut register = uffdio_register { range, mode, ioctls: 0 };
            // SAFETY: UFFDIO_REGISTER reads and writes `register`. The range is a mapping of `ram`: from now on an access
            // to it may wait, and sees no other bytes than it would have.
            check(unsafe { ioctl_with_mut_ref(&fault.file, UFFDIO_REGISTER(), &mut register) })?;
        }
        Ok(fault)
    }

    /// The next page that somebody waits for, if there is one.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn next_fault(&self) -> io::Result<Option<Gfn>> {
        /// Where the address stands in the message of a fault.
        const ADDRESS: std::ops::Range<usize> = 16..24;
        let mut message = [0_u8; size_of::<uffd_msg>()];
        match rustix::io::read(&self.file, &mut message) {
            Ok(length) if length == message.len() => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let address = message[ADDRESS].try_into().map(u64::from_le_bytes);
        let gfn = address.ok().and_then(|address| self.ram.page_at(address));
        let is_fault = u32::from(message[0]) == UFFD_EVENT_PAGEFAULT;
        match gfn.filter(|_| is_fault) {
            Some(gfn) => Ok(Some(gfn)),
            // No other event was asked for.
            None => Err(io::Error::other("userfaultfd reports what is no fault in guest memory")),
        }
    }

    /// Puts pages there, and wakes whoever waits for them. Pages that are there already stay as they are.
    ///
    /// # Errors
    /// When they are not RAM, or there is no memory for them.
    ///
    /// # Panics
    /// When `content` is not exactly as long as the run.
    pub(crate) fn put(&self, run: PageRun, content: &[u8]) -> io::Result<()> {
        assert_eq!(content.len() as u64, run.bytes(), "one byte for each byte of the run");
        let to = self.address(run)?;
        let mut done = 0;
        while done < content.len() {
            let (src, len) = (content[done..].as_ptr() as u64, (content.len() - done) as u64);
            let mut copy = uffdio_copy { dst: to + done as u64, src, len, mode: 0, copy: 0 };
            // SAFETY: UFFDIO_COPY reads `len` bytes at `src`, which are the rest of `content`, and writes `copy` and
            // missing pages of guest RAM, of which nobody holds a reference.
            let outcome =
                check(unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_COPY(), &mut copy) });
            done += self.progress(outcome, copy.copy, run, done)?;
        }
        Ok(())
    }

    /// Puts zeros there, and wakes whoever waits for them.
    ///
    /// # Errors
    /// When they are not RAM, or there is no memory for them.
    pub(crate) fn put_zeros(&self, run: PageRun) -> io::Result<()> {
        let (start, mut done) = (self.address(run)?, 0);
        while (done as u64) < run.bytes() {
            let range = uffdio_range { start: start + done as u64, len: run.bytes() - done as u64 };
            let mut zero = uffdio_zeropage { range, mode: 0, zeropage: 0 };
            // SAFETY: UFFDIO_ZEROPAGE reads and writes `zero`, and missing pages of guest RAM.
            let outcome =
                check(unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_ZEROPAGE(), &mut zero) });
            done += self.progress(outcome, zero.zeropage, run, done)?;
        }
        Ok(())
    }

    /// Ends it: what is missing still is zero from now on, as in any memory file. Whoever waits goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn finish(self) -> io::Result<()> {
        for range in self.ranges() {
            // SAFETY: UFFDIO_UNREGISTER reads `range`. What it ends is that accesses wait.
            check(unsafe { ioctl_with_ref(&self.file, UFFDIO_UNREGISTER(), &range) })?;
        }
        Ok(())
    }

    /// How many bytes further a call has come, at `done` bytes of a run: it says so itself, or it met a page that is
    /// there, or it was disturbed.
    fn progress(
        &self,
        outcome: io::Result<()>,
        reported: i64,
        run: PageRun,
        done: usize,
    ) -> io::Result<usize> {
        if let Ok(bytes @ 1..) = usize::try_from(reported) {
            return Ok(bytes);
        }
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let page = PageRun::new(Gfn(run.first().0 + (done / PAGE_BYTES) as u64), 1);
                self.wake(page.map_err(io::Error::other)?)?;
                Ok(PAGE_BYTES)
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(0),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("userfaultfd reports no progress")),
        }
    }

    /// Wakes whoever waits for pages that are there.
    ///
    /// # Errors
    /// When they are not RAM.
    pub(crate) fn wake(&self, run: PageRun) -> io::Result<()> {
        let range = uffdio_range { start: self.address(run)?, len: run.bytes() };
        // SAFETY: UFFDIO_WAKE reads `range`.
        check(unsafe { ioctl_with_ref(&self.file, UFFDIO_WAKE(), &range) })
    }

    fn address(&self, run: PageRun) -> io::Result<u64> {
        let address = self.ram.host_address(run);
        address.ok_or_else(|| io::Error::other(format!("{} is not RAM", run.first())))
    }

    fn ranges(&self) -> Vec<uffdio_range> {
        let regions = self.ram.host_regions();
        regions.map(|(region, start)| uffdio_range { start, len: region.size }).collect()
    }
}

const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

fn through_device() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(Path::new(DEVICE))?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let flags = libc::c_ulong::try_from(flags).expect("flags are positive");
    // SAFETY: USERFAULTFD_IOC_NEW takes flags by value.
    let descriptor = unsafe { ioctl_with_val(&device, USERFAULTFD_IOC_NEW(), flags) };
    check(descriptor)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn by_right() -> rustix::io::Result<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: what a userfaultfd lets its holder do is done in this module alone.
    unsafe { rustix::mm::userfaultfd(flags) }
}

fn check(outcome: i32) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryLayout;

    /// Two regions.
    fn ram() -> Arc<GuestRam> {
        Arc::new(GuestRam::new(MemoryLayout::new(32 << 20, 16 << 20).unwrap()).unwrap())
    }

    fn run(gfn: u64, pages: u64) -> PageRun {
        PageRun::new(Gfn(gfn), pages).unwrap()
    }

    #[test]
    fn whoever_touches_a_missing_page_waits_for_it_and_sees_what_is_put_there() {
        let ram = ram();
        let Ok(descriptor) = UserfaultFd::open() else {
            return eprintln!("skipped: this process may not serve the kernel's faults");
        };
        let fault = Userfault::new(descriptor, Arc::clone(&ram)).unwrap();
        let above = crate::memory::HOLE_END / PAGE_SIZE;
        let reader = Arc::clone(&ram);
        let reads = move || {
            let mut bytes = vec![0; 2 * PAGE_BYTES];
            reader.read_run(run(above + 7, 2), &mut bytes).unwrap();
            bytes
        };
        let reads = std::thread::spawn(reads);
        let mut touched = Vec::new();
        while touched.is_empty() {
            std::thread::yield_now();
            touched.extend(fault.next_fault().unwrap());
        }
        assert_eq!(touched, [Gfn(above + 7)]);
        // Of three pages the middle one is there already.
        fault.put(run(above + 8, 1), &[8; PAGE_BYTES]).unwrap();
        fault.put(run(above + 7, 3), &[7; 3 * PAGE_BYTES]).unwrap();
        let bytes = reads.join().unwrap();
        assert_eq!((bytes[0], bytes[PAGE_BYTES]), (7, 8));
        fault.put_zeros(run(above + 6, 4)).unwrap();
        fault.finish().unwrap();
        let mut bytes = vec![1; 5 * PAGE_BYTES];
        ram.read_run(run(above + 6, 5), &mut bytes).unwrap();
        let firsts: Vec<_> = bytes.chunks(PAGE_BYTES).map(|page| page[0]).collect();
        assert_eq!(firsts, [0, 7, 8, 7, 0]);
    }

    #[test]
    fn pages_that_are_no_ram_are_refused() {
        let Ok(descriptor) = UserfaultFd::open() else {
            return eprintln!("skipped: this process may not serve the kernel's faults");
        };
        let fault = Userfault::new(descriptor, ram()).unwrap();
        // Across the end of the first region, and in the hole.
        for (gfn, pages) in [(4095, 2), (5000, 1)] {
            assert!(fault.put_zeros(run(gfn, pages)).is_err(), "{gfn}");
        }
    }
}
