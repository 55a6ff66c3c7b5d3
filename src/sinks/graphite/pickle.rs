//! Graphite's pickle protocol (carbon, `lib/carbon/protocols.py`): frames of a length, 4 bytes, big-endian, and a list
//! `[(name, (time, value)), …]` in Python's pickle format, version 2 (PEP 307; opcodes of `pickletools`).

/// Bytes of a frame from which on it is closed; carbon refuses a frame of more than a mebibyte.
const FRAME_BYTES: usize = 64 << 10;

/// PROTO 2, EMPTY_LIST, MARK.
const HEAD: [u8; 4] = [0x80, 2, b']', b'('];
/// APPENDS, STOP.
const TAIL: [u8; 2] = [b'e', b'.'];

/// An open frame, if there is one: where its length will stand.
#[derive(Debug, Default)]
pub(super) struct Frame(Option<usize>);

impl Frame {
    /// Appends a point: the parts of its name are joined as they are.
    pub(super) fn point(&mut self, bytes: &mut Vec<u8>, name: &[&str], time: i64, value: f64) {
        let start = *self.0.get_or_insert_with(|| {
            let start = bytes.len();
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&HEAD);
            start
        });
        // BINUNICODE
        bytes.push(b'X');
        let length: usize = name.iter().map(|part| part.len()).sum();
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        name.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
        // LONG1
        bytes.extend_from_slice(&[0x8a, 8]);
        bytes.extend_from_slice(&time.to_le_bytes());
        // BINFLOAT, and TUPLE2 twice
        bytes.push(b'G');
        bytes.extend_from_slice(&value.to_be_bytes());
        bytes.extend_from_slice(&[0x86, 0x86]);
        if bytes.len() - start > FRAME_BYTES {
            self.close(bytes);
        }
    }

    /// Ends the open frame.
    pub(super) fn close(&mut self, bytes: &mut Vec<u8>) {
        let Some(start) = self.0.take() else { return };
        bytes.extend_from_slice(&TAIL);
        let length = (bytes.len() - start - 4) as u32;
        bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_python_unpickles() {
        let (mut bytes, mut frame) = (Vec::new(), Frame::default());
        frame.point(&mut bytes, &["a.", "b"], 1_700_000_000, -1.5);
        frame.close(&mut bytes);
        frame.close(&mut bytes);
        // python3 -c 'import pickle; print(pickle.loads(bytes.fromhex("…")))' says [('a.b', (1700000000, -1.5))].
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let expected = concat!(
            "00000023",
            "80025d28",
            "5803000000612e62",
            "8a0800f1536500000000",
            "47bff8000000000000",
            "8686",
            "652e"
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_frame_stays_far_below_what_carbon_takes() {
        let (mut bytes, mut frame) = (Vec::new(), Frame::default());
        let name = "x".repeat(4096);
        (0..1000).for_each(|n| frame.point(&mut bytes, &[&name], n, 0.0));
        frame.close(&mut bytes);
        let mut rest = &bytes[..];
        let mut frames = 0;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            assert!(length < 80_000 && after[length - 1] == b'.', "{length}");
            rest = &after[length..];
            frames += 1;
        }
        assert!(frames > 50, "{frames}");
    }
}
