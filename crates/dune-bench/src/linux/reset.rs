//! Memory that goes back to what it was, in the ways that Linux has.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::pages::{Mapping, PAGE};
use super::{Refused, die};

/// A way back to a clean image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// munmap(2), and mmap(2) of the image again: private pages of a memfd.
    Map,
    /// madvise(2) with MADV_DONTNEED on such pages.
    Advise,
    /// ioctl(2) with PAGEMAP_SCAN of asynchronously write-protected memory, and a copy of what was written.
    Scan,
}

/// Memory with an image that it goes back to.
#[derive(Debug)]
pub(crate) struct Resettable {
    memory: Mapping,
    pages: usize,
    way: Way,
    image: Vec<u8>,
    file: OwnedFd,
    scan: Option<Scan>,
}

/// What PAGEMAP_SCAN needs.
#[derive(Debug)]
struct Scan {
    pagemap: File,
    _protector: OwnedFd,
    regions: Vec<[u64; 3]>,
}

impl Resettable {
    /// `pages` pages, each with bytes of its own.
    pub(crate) fn new(pages: usize, way: Way) -> Result<Resettable, Refused> {
        let image: Vec<u8> = (0..pages * PAGE).map(|at| (at / PAGE) as u8).collect();
        // SAFETY: the name is a string; the descriptor that comes is nobody else's.
        let file = unsafe {
            let file = libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(Refused::last("memfd_create"));
            }
            OwnedFd::from_raw_fd(file)
        };
        // SAFETY: reads the image, which is as long.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), image.as_ptr().cast(), image.len(), 0) };
        if written != image.len() as isize {
            return Err(Refused::last("pwrite"));
        }
        let memory = Mapping::private(pages)?;
        let mut all = Resettable { memory, pages, way, image, file, scan: None };
        match way {
            Way::Map | Way::Advise => all.map(),
            Way::Scan => {
                all.write_back(0, all.image.len());
                all.scan = Some(Scan::of(&all.memory, pages)?);
                all.reset();
            }
        }
        Ok(all)
    }

    pub(crate) fn memory(&self) -> &Mapping {
        &self.memory
    }

    fn map(&self) {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
        // SAFETY: in the place of the mapping, which is only accessed through raw pointers.
        let mapped = unsafe {
            let (start, bytes) = (self.memory.start().cast(), self.image.len());
            libc::mmap(start, bytes, access, flags, self.file.as_raw_fd(), 0)
        };
        if mapped == libc::MAP_FAILED {
            die("dune-bench: the image can not be mapped\n");
        }
    }

    fn write_back(&self, offset: usize, bytes: usize) {
        let from = &self.image[offset..offset + bytes];
        // SAFETY: pages of the mapping, which is as long as the image.
        unsafe { self.memory.start().add(offset).copy_from_nonoverlapping(from.as_ptr(), bytes) };
    }

    /// Goes back.
    pub(crate) fn reset(&mut self) {
        let (start, bytes) = (self.memory.start(), self.image.len());
        match self.way {
            Way::Map => {
                // SAFETY: the mapping is only accessed through raw pointers, and comes back at once.
                unsafe { libc::munmap(start.cast(), bytes) };
                self.map();
            }
            Way::Advise => {
                // SAFETY: as above.
                if unsafe { libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED) } != 0 {
                    die("dune-bench: MADV_DONTNEED is refused\n");
                }
            }
            Way::Scan => {
                let Some(scan) = &mut self.scan else { return };
                let Ok(found) = scan.written(start as u64, bytes as u64) else {
                    die("dune-bench: PAGEMAP_SCAN is refused\n")
                };
                let regions: Vec<_> = scan.regions[..found].to_vec();
                for [from, to, _] in &regions {
                    self.write_back((from - start as u64) as usize, (to - from) as usize);
                }
                // What was copied counts as written again.
                if let Some(scan) = &mut self.scan
                    && found > 0
                    && scan.written(start as u64, bytes as u64).is_err()
                {
                    die("dune-bench: PAGEMAP_SCAN is refused\n");
                }
            }
        }
    }

    /// Whether all bytes are those of the image.
    pub(crate) fn is_clean(&self) -> bool {
        // SAFETY: pages of the mapping, which nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.memory.start(), self.pages * PAGE) == self.image }
    }
}

impl Scan {
    fn of(memory: &Mapping, pages: usize) -> Result<Scan, Refused> {
        /// <linux/userfaultfd.h>
        const UFFDIO_API: u64 = 0xc018_aa3f;
        const UFFDIO_REGISTER: u64 = 0xc020_aa00;
        const WP_UNPOPULATED: u64 = 1 << 13;
        const WP_ASYNC: u64 = 1 << 15;
        const MODE_WP: u64 = 2;
        // SAFETY: a new descriptor, nobody else's.
        let protector = unsafe {
            let made = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            if made < 0 {
                return Err(Refused::last("userfaultfd"));
            }
            OwnedFd::from_raw_fd(made as i32)
        };
        let mut api = [0xaa, WP_UNPOPULATED | WP_ASYNC, 0];
        // SAFETY: structures of these sizes, which live as long.
        if unsafe { libc::ioctl(protector.as_raw_fd(), UFFDIO_API, &raw mut api) } != 0 {
            return Err(Refused::last("UFFDIO_API"));
        }
        let mut register = [memory.address() as u64, (pages * PAGE) as u64, MODE_WP, 0];
        // SAFETY: as above.
        if unsafe { libc::ioctl(protector.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) } != 0 {
            return Err(Refused::last("UFFDIO_REGISTER"));
        }
        let pagemap = File::open("/proc/self/pagemap")
            .map_err(|error| Refused { call: "open of /proc/self/pagemap", error })?;
        let mut scan = Scan { pagemap, _protector: protector, regions: vec![[0; 3]; pages] };
        scan.written(memory.address() as u64, (pages * PAGE) as u64)
            .map_err(|error| Refused { call: "PAGEMAP_SCAN", error })?;
        Ok(scan)
    }

    /// Finds the regions that were written to, and protects them again; how many there are.
    fn written(&mut self, start: u64, bytes: u64) -> io::Result<usize> {
        /// <linux/fs.h>
        const PAGEMAP_SCAN: u64 = 0xc060_6610;
        const WP_MATCHING: u64 = 1;
        const CHECK_WPASYNC: u64 = 2;
        const IS_WRITTEN: u64 = 1 << 1;
        let list = self.regions.as_mut_ptr() as u64;
        let mut scan = [
            12 * 8,
            WP_MATCHING | CHECK_WPASYNC,
            start,
            start + bytes,
            0,
            list,
            self.regions.len() as u64,
            0,
            0,
            IS_WRITTEN,
            0,
            IS_WRITTEN,
        ];
        // SAFETY: a structure of this size, with the list's true length.
        match unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) } {
            -1 => Err(io::Error::last_os_error()),
            found => Ok(found as usize),
        }
    }
}
