//! A column of up to 32 numbers in few bytes, without loss.
//!
//! Numbers from the wire are mostly decimal: the smallest power of ten that makes all of a column whole is found, then they
//! are kept as distances from the smallest (a frame of reference) or as differences from one to the next, whichever is
//! shorter, divided by what divides all of them, in as many bits as the largest takes. What is not decimal is kept as it is.
//!
//! ```text
//! head u8: mode (2 bits), power of ten (3 bits), whether a divisor follows (1 bit)
//! whole numbers   width u8 | [divisor varint] | first or smallest, zigzag varint | [smallest difference, zigzag varint] | bits
//! as they are     4 bytes each
//! all the same    4 bytes
//! ```

/// Most numbers of a column.
pub(super) const MOST: usize = 32;

const FRAME: u8 = 0;
const DELTA: u8 = 1;
const RAW: u8 = 2;
const SAME: u8 = 3;

const POWERS: [f64; 8] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

/// Whole numbers up to here are exact as doubles.
const LARGEST: f64 = (1_u64 << 53) as f64;

/// A number as the history keeps it: of single precision, finite, and without a negative zero.
pub(super) fn kept(value: f64) -> f32 {
    (value as f32).clamp(f32::MIN, f32::MAX) + 0.0
}

/// A column as whole numbers.
struct Whole {
    power: u8,
    divisor: u64,
    values: [i64; MOST],
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The whole numbers of a column; `None` if it has none.
fn whole(column: &[f32]) -> Option<Whole> {
    let mut values = [0; MOST];
    let scaled = |value: f32, power: usize| {
        let whole = (f64::from(value) * POWERS[power]).round();
        let fits = whole.abs() <= LARGEST && from_whole(whole as i64, power).to_bits() == value.to_bits();
        fits.then_some(whole as i64)
    };
    let (mut power, mut at) = (0, 0);
    while at < column.len() {
        match scaled(column[at], power) {
            Some(whole) => (values[at], at) = (whole, at + 1),
            None if power + 1 < POWERS.len() => (power, at) = (power + 1, 0),
            None => return None,
        }
    }
    let apart = |value: &i64| value.abs_diff(values[0]);
    let divisor = values[..column.len()].iter().map(apart).fold(0, gcd).max(1);
    Some(Whole { power: power as u8, divisor, values })
}

fn from_whole(whole: i64, power: usize) -> f32 {
    (whole as f64 / POWERS[power]) as f32
}

/// Appends a column of 1 to [`MOST`] numbers.
pub(super) fn encode(column: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    if let Some(whole) = whole(column) {
        whole.write(column.len(), out);
        if out.len() - start <= 4 * column.len() {
            return;
        }
        out.truncate(start);
    }
    let first = column[0].to_bits();
    if column.iter().all(|value| value.to_bits() == first) {
        out.push(SAME);
        out.extend_from_slice(&first.to_le_bytes());
        return;
    }
    out.push(RAW);
    column.iter().for_each(|value| out.extend_from_slice(&value.to_bits().to_le_bytes()));
}

impl Whole {
    fn write(&self, length: usize, out: &mut Vec<u8>) {
        let values = &self.values[..length];
        let least = values.iter().copied().min().unwrap_or(0);
        let bits = |largest: u64| u64::BITS - largest.leading_zeros();
        let apart = |value: &i64| value.abs_diff(least) / self.divisor;
        let frame = bits(values.iter().map(apart).max().unwrap_or(0));
        // Both are below 2^54, so that their differences fit.
        let step = |two: &[i64]| (two[1] - two[0]) / self.divisor as i64;
        let least_step = values.windows(2).map(step).min().unwrap_or(0);
        let above = |two: &[i64]| (step(two) - least_step) as u64;
        let delta = bits(values.windows(2).map(above).max().unwrap_or(0));
        let is_delta = (length - 1) * delta as usize + 16 < length * frame as usize;
        let (mode, width) = if is_delta { (DELTA, delta) } else { (FRAME, frame) };
        out.push(mode | self.power << 2 | u8::from(self.divisor > 1) << 5);
        out.push(width as u8);
        if self.divisor > 1 {
            write_varint(self.divisor, out);
        }
        let mut packed = Packer { out, bits: 0, count: 0 };
        if is_delta {
            write_varint(zigzag(values[0]), packed.out);
            write_varint(zigzag(least_step), packed.out);
            values.windows(2).for_each(|two| packed.push(above(two), width));
        } else {
            write_varint(zigzag(least), packed.out);
            values.iter().for_each(|value| packed.push(apart(value), width));
        }
        packed.end();
    }
}

struct Packer<'a> {
    out: &'a mut Vec<u8>,
    bits: u128,
    count: u32,
}

impl Packer<'_> {
    fn push(&mut self, value: u64, width: u32) {
        self.bits |= u128::from(value) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.out.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    fn end(self) {
        if self.count > 0 {
            self.out.push(self.bits as u8);
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn from_zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 || shift > 63 {
            break;
        }
    }
    value
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

fn number(four: &[u8]) -> f32 {
    four.first_chunk().map_or(f32::NAN, |four| f32::from_bits(u32::from_le_bytes(*four)))
}

/// What stands before the numbers of a column.
struct Head {
    mode: u8,
    power: usize,
    width: usize,
    divisor: i64,
    first: i64,
    least_step: i64,
}

impl Head {
    fn read(bytes: &mut &[u8]) -> Head {
        let head = take(bytes, 1).first().copied().unwrap_or(RAW);
        let mode = head & 3;
        let mut read = Head { mode, power: usize::from(head >> 2 & 7), width: 0, divisor: 1, first: 0, least_step: 0 };
        if mode == FRAME || mode == DELTA {
            read.width = usize::from(take(bytes, 1).first().copied().unwrap_or(0));
            if head & 1 << 5 != 0 {
                read.divisor = read_varint(bytes) as i64;
            }
            read.first = from_zigzag(read_varint(bytes));
            if mode == DELTA {
                read.least_step = from_zigzag(read_varint(bytes));
            }
        }
        read
    }

    /// Bytes that follow it in a column of so many numbers.
    fn rest(&self, length: usize) -> usize {
        match self.mode {
            FRAME => (length * self.width).div_ceil(8),
            DELTA => ((length - 1) * self.width).div_ceil(8),
            RAW => 4 * length,
            _ => 4,
        }
    }
}

/// Takes a column of so many numbers, at least one, off the front of some bytes, and passes it over.
pub(super) fn skip(bytes: &mut &[u8], length: usize) {
    let head = Head::read(bytes);
    take(bytes, head.rest(length));
}

/// The same; whether it was there.
pub(super) fn is_there(bytes: &mut &[u8], length: usize) -> bool {
    let is_empty = bytes.is_empty();
    let head = Head::read(bytes);
    !is_empty && head.width <= 64 && take(bytes, head.rest(length)).len() == head.rest(length)
}

/// The same, and writes it to `out`, which has its length.
pub(super) fn decode(bytes: &mut &[u8], out: &mut [f32]) {
    let head = Head::read(bytes);
    let rest = take(bytes, head.rest(out.len()));
    match head.mode {
        RAW => out.iter_mut().zip(rest.chunks_exact(4)).for_each(|(value, four)| *value = number(four)),
        SAME => out.fill(number(rest)),
        mode => {
            let mut packed = Unpacker { rest, bits: 0, count: 0 };
            let mut whole = head.first;
            for (n, value) in out.iter_mut().enumerate() {
                // What was saved may be anything.
                if mode == FRAME {
                    let apart = (packed.next(head.width) as i64).wrapping_mul(head.divisor);
                    whole = head.first.wrapping_add(apart);
                } else if n > 0 {
                    let step = (packed.next(head.width) as i64).wrapping_add(head.least_step);
                    whole = whole.wrapping_add(step.wrapping_mul(head.divisor));
                }
                *value = from_whole(whole, head.power);
            }
        }
    }
}

struct Unpacker<'a> {
    rest: &'a [u8],
    bits: u128,
    count: usize,
}

impl Unpacker<'_> {
    fn next(&mut self, width: usize) -> u64 {
        while self.count < width {
            let byte = take(&mut self.rest, 1).first().copied().unwrap_or(0);
            self.bits |= u128::from(byte) << self.count;
            self.count += 8;
        }
        let value = self.bits & ((1 << width) - 1);
        self.bits >>= width;
        self.count -= width;
        value as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(column: &[f32]) -> usize {
        let mut bytes = Vec::new();
        encode(column, &mut bytes);
        bytes.extend_from_slice(b"end");
        let mut rest = &bytes[..];
        let mut back = vec![0.0; column.len()];
        decode(&mut rest, &mut back);
        assert_eq!(rest, b"end");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(column), "{column:?}");
        let mut rest = &bytes[..];
        skip(&mut rest, column.len());
        assert_eq!(rest, b"end");
        bytes.len() - 3
    }

    #[test]
    fn decimal_numbers_take_few_bytes_and_others_no_more_than_they_have() {
        let column = |of: &dyn Fn(usize) -> f32| (0..30).map(of).collect::<Vec<_>>();
        for (what, most, values) in [
            ("zeros", 3, column(&|_| 0.0)),
            ("a constant", 6, column(&|_| 0.1234567)),
            ("small counts", 19, column(&|n| (n * 7 % 13) as f32)),
            ("a line", 8, column(&|n| 1e6 + 17.0 * n as f32)),
            ("tenths", 31, column(&|n| (n * 37 % 101) as f32 / 10.0)),
            ("pages", 33, column(&|n| 4096.0 * (n * 41 % 97) as f32)),
            ("thirds", 121, column(&|n| n as f32 / 3.0)),
            ("extremes", 121, column(&|n| if n % 2 == 0 { f32::MAX } else { f32::MIN })),
        ] {
            let bytes = bytes_of(&values);
            assert!(bytes <= most, "{what}: {bytes} bytes");
        }
        assert_eq!((kept(1e300), kept(-1e300), kept(-0.0).to_bits()), (f32::MAX, f32::MIN, 0));
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            3 => (-2000_i32..2000).prop_map(|n| n as f32),
            2 => (-200_000_i32..200_000).prop_map(|n| n as f32 / 100.0),
            2 => any::<i32>().prop_map(|n| n as f32),
            2 => any::<f32>(),
            1 => (0_u32..8, any::<i32>()).prop_map(|(power, n)| (f64::from(n) / 10_f64.powi(power as i32)) as f32),
            1 => proptest::sample::select(vec![0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::NAN, 1e-45]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_column_comes_back_bit_by_bit(column in proptest::collection::vec(value(), 1..=MOST), same: bool) {
            let column = if same { vec![column[0]; column.len()] } else { column };
            let bytes = bytes_of(&column);
            prop_assert!(bytes <= 4 * column.len() + 1, "{bytes} bytes for {column:?}");
        }

        #[test]
        fn columns_of_one_kind_come_back(start in any::<i32>(), steps in proptest::collection::vec(-5000_i64..5000, 0..31), power in 0_i32..8) {
            let mut at = i64::from(start) / 1000;
            let mut column = vec![(at as f64 / 10_f64.powi(power)) as f32];
            for step in steps {
                at += step;
                column.push((at as f64 / 10_f64.powi(power)) as f32);
            }
            bytes_of(&column);
        }
    }
}
