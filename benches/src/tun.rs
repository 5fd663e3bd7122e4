//! A TUN device: IP packets of a namespace, read and written as they are.
#![allow(unsafe_code, reason = "the ioctls that make a file descriptor a network interface")]

use std::ffi::{c_int, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl, opcode};

const SET_INTERFACE: Opcode = opcode::write::<c_int>(b'T', 202);
const SET_OFFLOADS: Opcode = opcode::write::<c_uint>(b'T', 208);

/// IP packets without Ethernet's header, no header of the device's own, but that of virtio.
const FLAGS: u16 = 0x0001 | 0x1000 | 0x4000;
/// The kernel leaves checksums, and the segmentation of TCP over IPv4, to whoever reads.
const OFFLOADS: usize = 0x01 | 0x02;

/// `struct virtio_net_hdr`, before every packet.
pub(crate) const HEADER_BYTES: usize = 10;
const SEGMENTED_TCP: u8 = 1;
const ETHERNET_BYTES: u64 = 14;

/// `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    unused: [u8; 22],
}

/// Makes an interface in this thread's namespace; it goes with the descriptor, which never waits.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: FLAGS, unused: [0; 22] };
    // One byte less: the name ends with a zero.
    request.name[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, 40 bytes, of which it reads name and flags.
    let interface = unsafe { Setter::<SET_INTERFACE, Request>::new(request) };
    // SAFETY: as above; the kernel writes the name back into the value, which lives for the call.
    unsafe { ioctl(&file, interface) }?;
    // SAFETY: TUNSETOFFLOAD takes a set of flags in the place of the pointer.
    let offloads = unsafe { IntegerSetter::<SET_OFFLOADS>::new_usize(OFFLOADS) };
    // SAFETY: as above.
    unsafe { ioctl(&file, offloads) }?;
    Ok(file)
}

/// Bytes that a frame takes on an Ethernet. One that stands for many TCP segments has the headers of each.
pub(crate) fn wire_bytes(frame: &[u8]) -> u64 {
    let packet = frame.get(HEADER_BYTES..).unwrap_or_default();
    let plain = packet.len() as u64 + ETHERNET_BYTES;
    let segment = frame.get(4..6).map_or(0, |size| u64::from(size[0]) | u64::from(size[1]) << 8);
    let is_segmented = frame.get(1).is_some_and(|kind| kind & 0x7f == SEGMENTED_TCP);
    let (true, Some(headers)) = (is_segmented && segment > 0, header_bytes(packet)) else {
        return plain;
    };
    let segments = (packet.len() as u64).saturating_sub(headers).div_ceil(segment).max(1);
    plain + (segments - 1) * (headers + ETHERNET_BYTES)
}

/// Bytes of the headers of IPv4 and TCP.
fn header_bytes(packet: &[u8]) -> Option<u64> {
    let ip = usize::from(packet.first()? & 0xf) * 4;
    let tcp = usize::from(packet.get(ip + 12)? >> 4) * 4;
    Some((ip + tcp) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, segment: u16, payload: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES + 20 + 32 + payload];
        frame[1] = kind;
        frame[4..6].copy_from_slice(&segment.to_le_bytes());
        frame[HEADER_BYTES] = 0x45;
        frame[HEADER_BYTES + 20 + 12] = 0x80;
        frame
    }

    #[test]
    fn every_segment_has_headers() {
        let headers = 14 + 20 + 32;
        assert_eq!(wire_bytes(&frame(0, 0, 100)), headers + 100);
        assert_eq!(wire_bytes(&frame(SEGMENTED_TCP, 1448, 3000)), 3 * headers + 3000);
        assert_eq!(wire_bytes(&frame(SEGMENTED_TCP | 0x80, 1448, 1448)), headers + 1448);
    }

    #[test]
    fn what_is_cut_short_has_a_length_all_the_same() {
        for length in 0..HEADER_BYTES + 40 {
            let _ = wire_bytes(&frame(SEGMENTED_TCP, 1448, 0)[..length]);
        }
    }

    #[test]
    fn a_request_is_as_long_as_the_kernel_has_it() {
        assert_eq!(size_of::<Request>(), 40);
    }
}
