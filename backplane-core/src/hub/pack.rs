//! As much of MessagePack as the hub's messages need: a [`Writer`], and a [`Reader`] that trusts nothing.
//!
//! Written by hand rather than taken through a serialization framework, for what it must not do: reserve room by what a
//! count says (rule M1), copy payloads, recurse as deep as a message asks for, and refuse a message for fields
//! that a later version has added.

/// Writes values one after another.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

/// Not what was to be read: cut off, another type, or a count beyond the bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn nil(&mut self) {
        self.0.push(0xc0);
    }

    /// A number in the shortest form.
    pub(super) fn uint(&mut self, n: u64) {
        match n {
            0..0x80 => self.0.push(n as u8),
            0x80..0x100 => self.0.extend([0xcc, n as u8]),
            0x100..0x1_0000 => {
                self.0.push(0xcd);
                self.0.extend((n as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(0xce);
                self.0.extend((n as u32).to_be_bytes());
            }
            _ => {
                self.0.push(0xcf);
                self.0.extend(n.to_be_bytes());
            }
        }
    }

    pub(super) fn array(&mut self, len: usize) {
        match len {
            0..=15 => self.0.push(0x90 | len as u8),
            _ => self.header(len, None, 0xdc, 0xdd),
        }
    }

    pub(super) fn map(&mut self, len: usize) {
        match len {
            0..=15 => self.0.push(0x80 | len as u8),
            _ => self.header(len, None, 0xde, 0xdf),
        }
    }

    pub(super) fn str(&mut self, text: &str) {
        match text.len() {
            len @ 0..=31 => self.0.push(0xa0 | len as u8),
            len => self.header(len, Some(0xd9), 0xda, 0xdb),
        }
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bin(&mut self, bytes: &[u8]) {
        self.header(bytes.len(), Some(0xc4), 0xc5, 0xc6);
        self.0.extend_from_slice(bytes);
    }

    /// Values that are written already.
    pub(super) fn raw(&mut self, values: &[u8]) {
        self.0.extend_from_slice(values);
    }

    /// A length in the shortest form. One that has more than 32 bits belongs to no message that a broker takes.
    fn header(&mut self, len: usize, short: Option<u8>, medium: u8, long: u8) {
        match (short, len) {
            (Some(short), 0..=0xff) => self.0.extend([short, len as u8]),
            (_, 0..=0xffff) => {
                self.0.push(medium);
                self.0.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                self.0.push(long);
                self.0.extend_from_slice(&len.to_be_bytes());
            }
        }
    }
}

/// Reads values one after another. Allocates nothing.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Reads nil, if that is what comes.
    pub(super) fn nil(&mut self) -> bool {
        let is_nil = self.bytes.get(self.at) == Some(&0xc0);
        self.at += usize::from(is_nil);
        is_nil
    }

    pub(super) fn uint(&mut self) -> Result<u64, Malformed> {
        match self.byte()? {
            n @ 0..=0x7f => Ok(u64::from(n)),
            marker @ 0xcc..=0xcf => self.number(1 << (marker - 0xcc)),
            _ => Err(Malformed),
        }
    }

    /// The head of an array; it has as many values as are said, or the message ends before.
    pub(super) fn array(&mut self) -> Result<usize, Malformed> {
        let len = match self.byte()? {
            marker @ 0x90..=0x9f => u64::from(marker & 0xf),
            0xdc => self.number(2)?,
            0xdd => self.number(4)?,
            _ => return Err(Malformed),
        };
        self.count(len, 1)
    }

    /// The head of a map, likewise.
    pub(super) fn map(&mut self) -> Result<usize, Malformed> {
        let len = match self.byte()? {
            marker @ 0x80..=0x8f => u64::from(marker & 0xf),
            0xde => self.number(2)?,
            0xdf => self.number(4)?,
            _ => return Err(Malformed),
        };
        self.count(len, 2)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, Malformed> {
        let len = match self.byte()? {
            marker @ 0xa0..=0xbf => u64::from(marker & 0x1f),
            marker @ 0xd9..=0xdb => self.number(1 << (marker - 0xd9))?,
            _ => return Err(Malformed),
        };
        str::from_utf8(self.take(len)?).map_err(|_| Malformed)
    }

    pub(super) fn bin(&mut self) -> Result<&'a [u8], Malformed> {
        match self.byte()? {
            marker @ 0xc4..=0xc6 => {
                let len = self.number(1 << (marker - 0xc4))?;
                self.take(len)
            }
            _ => Err(Malformed),
        }
    }

    /// Passes over one value of any type, however deep.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        let mut values = 1_usize;
        while values > 0 {
            values -= 1;
            // Each of them takes a byte at least.
            values += match self.bytes.get(self.at).ok_or(Malformed)? {
                0x80..=0x8f | 0xde | 0xdf => 2 * self.map()?,
                0x90..=0x9f | 0xdc | 0xdd => self.array()?,
                _ => self.skip_flat()?,
            };
            if values > self.bytes.len() - self.at {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    /// Passes over a value that has no others in it: says how many, none.
    fn skip_flat(&mut self) -> Result<usize, Malformed> {
        let len = match self.byte()? {
            0..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 0,
            marker @ 0xa0..=0xbf => u64::from(marker & 0x1f),
            marker @ 0xc4..=0xc6 => self.number(1 << (marker - 0xc4))?,
            marker @ 0xc7..=0xc9 => self.number(1 << (marker - 0xc7))? + 1,
            0xca => 4,
            0xcb => 8,
            marker @ 0xcc..=0xcf => 1 << (marker - 0xcc),
            marker @ 0xd0..=0xd3 => 1 << (marker - 0xd0),
            marker @ 0xd4..=0xd8 => (1 << (marker - 0xd4)) + 1,
            marker @ 0xd9..=0xdb => self.number(1 << (marker - 0xd9))?,
            _ => return Err(Malformed),
        };
        self.take(len).map(|_| 0)
    }

    /// A count of things with so many values each. There is one byte at least for each value.
    fn count(&self, len: u64, values: u64) -> Result<usize, Malformed> {
        let left = (self.bytes.len() - self.at) as u64;
        match len * values <= left {
            true => usize::try_from(len).map_err(|_| Malformed),
            false => Err(Malformed),
        }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, Malformed> {
        let bytes = self.take(bytes)?;
        Ok(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let taken = rest.get(..len).ok_or(Malformed)?;
        self.at += len;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_every_border_survive() {
        for len in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let mut writer = Writer::default();
            writer.str(&"x".repeat(len));
            writer.bin(&vec![7; len]);
            writer.array(len);
            (0..len).for_each(|_| writer.nil());
            writer.map(len);
            (0..2 * len).for_each(|_| writer.uint(200));
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            let mut skipped = reader.clone();
            assert_eq!(reader.str().map(str::len), Ok(len));
            assert_eq!(reader.bin().map(<[u8]>::len), Ok(len));
            assert_eq!(reader.array(), Ok(len));
            assert!((0..len).all(|_| reader.nil()));
            assert_eq!(reader.map(), Ok(len));
            assert!((0..2 * len).all(|_| reader.uint() == Ok(200)));
            assert!(reader.is_at_end());
            assert!((0..4).all(|_| skipped.skip() == Ok(())));
            assert!(skipped.is_at_end());
        }
    }

    #[test]
    fn numbers_at_every_border_survive() {
        let mut borders = vec![0, u64::MAX];
        for bits in [7, 8, 16, 32] {
            borders.extend([(1 << bits) - 1, 1 << bits]);
        }
        for n in borders {
            let len = match n {
                0..0x80 => 1,
                0x80..0x100 => 2,
                0x100..0x1_0000 => 3,
                0x1_0000..0x1_0000_0000 => 5,
                _ => 9,
            };
            let mut writer = Writer::default();
            writer.uint(n);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            assert_eq!((reader.uint(), bytes.len()), (Ok(n), len));
        }
    }

    #[test]
    fn counts_beyond_the_bytes_are_refused_and_depth_costs_nothing() {
        for lie in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0x7f, 0xff, 0xff, 0xff, 0, 0],
            &[0xdb, 0xff, 0xff, 0xff, 0xff, 0],
            &[0xc6, 0xff, 0xff, 0xff, 0xff, 0],
            &[0xc9, 0xff, 0xff, 0xff, 0xff, 0, 0],
            &[0x92, 0x91, 0x00],
            &[0xc1],
            &[],
        ] {
            assert_eq!(Reader::new(lie).skip(), Err(Malformed), "{lie:x?}");
        }
        let mut deep = vec![0x91; 1_000_000];
        deep.push(0);
        assert_eq!(Reader::new(&deep).skip(), Ok(()));
    }
}
