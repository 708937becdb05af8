//! A cursor over length-prefixed fields (RFC 8446 section 3).

/// What is left to read. Every read says what is wrong when the bytes run out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, len: usize, fault: &'static str) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(fault)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self, fault: &'static str) -> Result<u8, &'static str> {
        self.take(1, fault).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self, fault: &'static str) -> Result<u16, &'static str> {
        self.take(2, fault).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length is written in one byte.
    pub(super) fn vec8(&mut self, fault: &'static str) -> Result<&'a [u8], &'static str> {
        let len = usize::from(self.u8(fault)?);
        self.take(len, fault)
    }

    /// A vector whose length is written in two bytes.
    pub(super) fn vec16(&mut self, fault: &'static str) -> Result<&'a [u8], &'static str> {
        let len = usize::from(self.u16(fault)?);
        self.take(len, fault)
    }

    pub(super) fn end(self, fault: &'static str) -> Result<(), &'static str> {
        if self.is_empty() { Ok(()) } else { Err(fault) }
    }
}
