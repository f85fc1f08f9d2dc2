//! TensorBoard's event files: records of a length, a checksum, a protobuf message and its checksum.
//!
//! Only what scalars need is written: `Event { wall_time = 1, step = 2, file_version = 3, summary = 5 }`,
//! `Summary { value = 1 }`, `Value { tag = 1, simple_value = 2 }` (event.proto and summary.proto of TensorBoard).

/// One number at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// What it is, with `/` between group and name.
    pub tag: String,
    /// At which step.
    pub step: i64,
    /// When, in seconds since 1970.
    pub wall_time: f64,
    /// The number.
    pub value: f32,
}

/// The bytes of an event file.
pub fn encode<'a>(scalars: impl IntoIterator<Item = &'a Scalar>, begin: f64) -> Vec<u8> {
    let mut version = wall_time(begin);
    field(&mut version, 3, b"brain.Event:2");
    let mut out = record(&version);
    for scalar in scalars {
        let mut value = vec![];
        field(&mut value, 1, scalar.tag.as_bytes());
        // Field 2, 32 bits.
        value.push(2 << 3 | 5);
        value.extend(scalar.value.to_le_bytes());
        let mut summary = vec![];
        field(&mut summary, 1, &value);
        let mut event = wall_time(scalar.wall_time);
        // Field 2, a varint; negative numbers take ten bytes, as in two's complement.
        event.push(2 << 3);
        varint(&mut event, scalar.step as u64);
        field(&mut event, 5, &summary);
        out.extend(record(&event));
    }
    out
}

/// Field 1, 64 bits.
fn wall_time(seconds: f64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(seconds.to_le_bytes());
    out
}

/// A field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted, so that a checksum of data that holds checksums stays a good one.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 by Castagnoli's polynomial, bits reversed. Bit by bit: these files are small.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !data.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_are_laid_out_as_the_format_has_them() {
        let scalar = Scalar {
            tag: "a".into(),
            step: 300,
            wall_time: 1.0,
            value: 0.5,
        };
        let bytes = encode([&scalar], 0.0);
        let first = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(first, 9 + 2 + 13);
        assert_eq!(&bytes[12 + first - 13..12 + first], b"brain.Event:2");
        let second = &bytes[16 + first..];
        let length = u64::from_le_bytes(second[..8].try_into().unwrap()) as usize;
        let event = &second[12..12 + length];
        let expected: Vec<u8> = [
            &[0x09][..],
            &1f64.to_le_bytes(),
            &[0x10, 0xac, 0x02, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15],
            &0.5f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(event, expected);
        assert_eq!(second.len(), 16 + length);
    }
}
