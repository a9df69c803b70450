//! A parser for XML without document types: elements, attributes, text, the five entities, comments and processing instructions.

use std::borrow::Cow;

/// What is told of what the parser finds.
pub(super) trait Events {
    fn open(&mut self, name: &[u8]);
    /// Of the element that was opened last.
    fn attribute(&mut self, name: &[u8], value: &[u8]);
    /// Text that is not white space alone.
    fn text(&mut self, text: &[u8]);
    fn close(&mut self);
}

/// Tells `events` what is in the file.
///
/// # Errors
///
/// The offset from which on it is not well-formed.
pub(super) fn parse(file: &[u8], events: &mut impl Events) -> Result<(), usize> {
    let mut parser = Parser { file, at: 0 };
    let (mut open, mut roots) = (Vec::new(), 0);
    while parser.at < file.len() {
        let start = parser.at;
        let text = parser.until(b'<');
        if !text.iter().all(u8::is_ascii_whitespace) {
            if open.is_empty() {
                return Err(start);
            }
            events.text(&decoded(text).ok_or(start)?);
        }
        let start = parser.at;
        if parser.take(b"<?") {
            parser.behind(b"?>")?;
        } else if parser.take(b"<!--") {
            parser.behind(b"-->")?;
        } else if parser.take(b"</") {
            let name = parser.name()?;
            parser.space();
            if open.pop() != Some(name) || !parser.take(b">") {
                return Err(start);
            }
            events.close();
        } else if parser.take(b"<") {
            roots += u32::from(open.is_empty());
            let name = parser.name()?;
            events.open(name);
            parser.attributes(events)?;
            if parser.take(b"/>") {
                events.close();
            } else if parser.take(b">") {
                open.push(name);
            } else {
                return Err(parser.at);
            }
        }
    }
    if open.is_empty() && roots == 1 { Ok(()) } else { Err(parser.at) }
}

struct Parser<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Parser<'f> {
    fn rest(&self) -> &'f [u8] {
        &self.file[self.at..]
    }

    /// All before `byte`, or to the end.
    fn until(&mut self, byte: u8) -> &'f [u8] {
        self.while_(|other| other != byte)
    }

    fn while_(&mut self, wanted: impl Fn(u8) -> bool) -> &'f [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !wanted(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn space(&mut self) {
        self.while_(|byte| byte.is_ascii_whitespace());
    }

    /// Whether `token` is here; then it is behind.
    fn take(&mut self, token: &[u8]) -> bool {
        let is_here = self.rest().starts_with(token);
        self.at += if is_here { token.len() } else { 0 };
        is_here
    }

    fn behind(&mut self, token: &[u8]) -> Result<(), usize> {
        let found = self.rest().windows(token.len()).position(|window| window == token);
        self.at += found.ok_or(self.at)? + token.len();
        Ok(())
    }

    fn name(&mut self) -> Result<&'f [u8], usize> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte) || byte >= 0x80;
        let name = self.while_(is_part);
        if name.is_empty() { Err(self.at) } else { Ok(name) }
    }

    fn attributes(&mut self, events: &mut impl Events) -> Result<(), usize> {
        loop {
            self.space();
            if matches!(self.rest().first(), None | Some(b'>' | b'/')) {
                return Ok(());
            }
            let name = self.name()?;
            let quote = if self.take(b"=\"") {
                b'"'
            } else if self.take(b"='") {
                b'\''
            } else {
                return Err(self.at);
            };
            let start = self.at;
            let value = self.until(quote);
            if !self.take(&[quote]) {
                return Err(start);
            }
            events.attribute(name, &decoded(value).ok_or(start)?);
        }
    }
}

/// The text without entities; none if one is unknown.
fn decoded(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    const ENTITIES: [(&[u8], u8); 5] =
        [(b"&amp;", b'&'), (b"&lt;", b'<'), (b"&gt;", b'>'), (b"&quot;", b'"'), (b"&apos;", b'\'')];
    if !text.contains(&b'&') {
        return Some(Cow::Borrowed(text));
    }
    let (mut all, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(&byte) = rest.first() {
        let (byte, length) = if byte == b'&' {
            let (entity, byte) = ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity))?;
            (*byte, entity.len())
        } else {
            (byte, 1)
        };
        all.push(byte);
        rest = &rest[length..];
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Events for String {
        fn open(&mut self, name: &[u8]) {
            *self += &format!("({}", String::from_utf8_lossy(name));
        }

        fn attribute(&mut self, name: &[u8], value: &[u8]) {
            *self += &format!(" {}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        }

        fn text(&mut self, text: &[u8]) {
            *self += &format!("[{}]", String::from_utf8_lossy(text));
        }

        fn close(&mut self) {
            self.push(')');
        }
    }

    #[test]
    fn what_is_there_is_told() {
        let mut told = String::new();
        let file = b"<?xml?><!-- <b> --><a x='1&amp;2' y=\"'\">\n <b/>t&lt;&apos;<c  >\n</c></a>\n";
        assert_eq!(parse(file, &mut told), Ok(()));
        assert_eq!(told, "(a x=1&2 y='(b)[t<'](c))");
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let refused: [(&[u8], usize); 9] = [
            (b"", 0),
            (b"<a>", 3),
            (b"<a></b>", 3),
            (b"<a>&no;</a>", 3),
            (b"<a x=1/>", 4),
            (b"<a x='1/>", 6),
            (b"<a/>text", 4),
            (b"<a/><b/>", 8),
            (b"<!-- ", 4),
        ];
        for (file, offset) in refused {
            let text = String::from_utf8_lossy(file);
            assert_eq!(parse(file, &mut String::new()), Err(offset), "{text}");
        }
    }
}
