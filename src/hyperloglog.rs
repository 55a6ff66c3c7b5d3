//! HyperLogLog: how many distinct values there were, in registers of one byte (Flajolet et al. 2007), read out with Ertl's
//! improved estimator (O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017, algorithm 6), which
//! needs no bias tables. With `N` registers, a power of two, the standard error is 1.04 / √N.
#![deny(clippy::disallowed_methods)]

/// Puts the hash of a value in; whether that changed a register.
#[inline]
pub(crate) fn observe<const N: usize>(registers: &mut [u8; N], hash: u64) -> bool {
    let precision = N.trailing_zeros();
    let register = &mut registers[(hash >> (64 - precision)) as usize];
    // A one after the remaining bits bounds the rank.
    let rest = (hash << precision) | (1 << (precision - 1));
    let rank = rest.leading_zeros() as u8 + 1;
    let is_news = rank > *register;
    if is_news {
        *register = rank;
    }
    is_news
}

/// Adds the values of another one.
pub(crate) fn merge<const N: usize>(registers: &mut [u8; N], other: &[u8; N]) {
    registers.iter_mut().zip(other).for_each(|(ours, &theirs)| *ours = (*ours).max(theirs));
}

/// How many distinct values were put in, about.
pub(crate) fn estimate<const N: usize>(registers: &[u8; N]) -> f64 {
    // The largest rank: the bits that do not select the register, plus one.
    let max_rank = 64 - N.trailing_zeros() as usize + 1;
    let mut counts = [0_u32; 66];
    for &rank in registers {
        counts[usize::from(rank).min(max_rank)] += 1;
    }
    let m = N as f64;
    let mut z = m * tau(1.0 - f64::from(counts[max_rank]) / m);
    for &count in counts[1..max_rank].iter().rev() {
        z = 0.5 * (z + f64::from(count));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rapidhash::v3::rapidhash_v3;

    fn error<const N: usize>(values: u64) -> f64 {
        let mut registers = [0_u8; N];
        (0..values).for_each(|n| _ = observe(&mut registers, rapidhash_v3(&n.to_le_bytes())));
        estimate(&registers) / values as f64 - 1.0
    }

    #[test]
    fn an_estimate_has_its_stated_error_at_every_size() {
        assert_eq!(estimate(&[0; 1024]), 0.0);
        for values in [10, 1000, 30_000, 1_000_000] {
            let errors = [error::<1024>(values), error::<4096>(values), error::<16384>(values)];
            for (error, registers) in errors.into_iter().zip([1024_f64, 4096.0, 16384.0]) {
                assert!(error.abs() < 3.5 * 1.04 / registers.sqrt(), "{values} in {registers}: {error}");
            }
        }
    }
}
