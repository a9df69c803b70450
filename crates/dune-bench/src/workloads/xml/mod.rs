//! A generated XML file, parsed into a tree whose nodes know parents, children and siblings, as those of a DOM do.

mod file;
mod parser;

use std::cell::Cell;

use dune_gc::{Gc, Heap, Trace};

use parser::{Events, parse};

type Bytes<'h> = Gc<'h, [u8]>;
type Link<'h> = Cell<Option<Gc<'h, Node<'h>>>>;

#[derive(Trace)]
struct Node<'h> {
    kind: Kind<'h>,
    parent: Option<Gc<'h, Node<'h>>>,
    first: Link<'h>,
    last: Link<'h>,
    next: Link<'h>,
}

#[derive(Trace)]
enum Kind<'h> {
    Element { name: Bytes<'h>, attributes: Attributes<'h> },
    Text(Bytes<'h>),
}

type Attributes<'h> = Cell<Option<Gc<'h, Attribute<'h>>>>;

#[derive(Trace)]
struct Attribute<'h> {
    name: Bytes<'h>,
    value: Bytes<'h>,
    next: Attributes<'h>,
}

/// Makes the tree.
struct Builder<'h> {
    heap: &'h Heap,
    top: Option<Gc<'h, Node<'h>>>,
    /// The innermost open element, and its last attribute so far.
    open: Option<Gc<'h, Node<'h>>>,
    attribute: Option<Gc<'h, Attribute<'h>>>,
}

impl<'h> Builder<'h> {
    fn add(&mut self, kind: Kind<'h>) -> Gc<'h, Node<'h>> {
        let link = || Cell::new(None);
        let node = Node { kind, parent: self.open, first: link(), last: link(), next: link() };
        let node = self.heap.alloc(node);
        match self.open {
            Some(parent) => match parent.last.replace(Some(node)) {
                Some(before) => before.next.set(Some(node)),
                None => parent.first.set(Some(node)),
            },
            None => self.top = Some(node),
        }
        node
    }
}

impl Events for Builder<'_> {
    fn open(&mut self, name: &[u8]) {
        let name = self.heap.alloc_copy(name);
        self.open = Some(self.add(Kind::Element { name, attributes: Cell::new(None) }));
        self.attribute = None;
    }

    fn attribute(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (self.heap.alloc_copy(name), self.heap.alloc_copy(value));
        let attribute = self.heap.alloc(Attribute { name, value, next: Cell::new(None) });
        let before = self.attribute.replace(attribute);
        if let Some(before) = before {
            before.next.set(Some(attribute));
        } else if let Some(Kind::Element { attributes, .. }) = self.open.as_deref().map(|open| &open.kind) {
            attributes.set(Some(attribute));
        }
    }

    fn text(&mut self, text: &[u8]) {
        let text = self.heap.alloc_copy(text);
        self.add(Kind::Text(text));
    }

    fn close(&mut self) {
        self.open = self.open.and_then(|open| open.parent);
    }
}

/// Sums up what comes, in its order.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, what: u64, bytes: &[u8]) {
        let mut turn =
            |word: u64| self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        turn(what << 32 | bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| turn(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| turn((*byte).into()));
    }
}

impl Events for Digest {
    fn open(&mut self, name: &[u8]) {
        self.add(1, name);
    }

    fn attribute(&mut self, name: &[u8], value: &[u8]) {
        self.add(2, name);
        self.add(3, value);
    }

    fn text(&mut self, text: &[u8]) {
        self.add(4, text);
    }

    fn close(&mut self) {
        self.add(5, &[]);
    }
}

/// Gives the events that have made the tree at `top`.
fn walk(top: Option<Gc<'_, Node<'_>>>, events: &mut impl Events) {
    let mut at = top;
    while let Some(node) = at {
        match &node.kind {
            Kind::Element { name, attributes } => {
                events.open(name);
                let mut next = attributes.get();
                while let Some(attribute) = next {
                    events.attribute(&attribute.name, &attribute.value);
                    next = attribute.next.get();
                }
                if let Some(first) = node.first.get() {
                    at = Some(first);
                    continue;
                }
                events.close();
            }
            Kind::Text(text) => events.text(text),
        }
        // Up to where there is a next one.
        let mut from = node;
        at = loop {
            if let Some(next) = from.next.get() {
                break Some(next);
            }
            match from.parent {
                Some(parent) => {
                    events.close();
                    from = parent;
                }
                None => break None,
            }
        };
    }
}

fn parse_all(file: &[u8], events: &mut impl Events) {
    if let Err(offset) = parse(file, events) {
        panic!(
            "the generated XML file is not well-formed at byte {offset}: mend the generator or the parser"
        );
    }
}

/// A file of so many bytes, or a little more.
pub(super) fn file(bytes: usize) -> Vec<u8> {
    file::generate(bytes)
}

pub(super) fn run(heap: &Heap, file: &[u8]) -> u64 {
    let mut builder = Builder { heap, top: None, open: None, attribute: None };
    parse_all(file, &mut builder);
    let mut digest = Digest::default();
    walk(builder.top, &mut digest);
    digest.0
}

pub(super) fn expected(file: &[u8]) -> u64 {
    let mut digest = Digest::default();
    parse_all(file, &mut digest);
    digest.0
}

#[cfg(test)]
mod tests {
    use dune_gc::{Config, Tracker};

    use super::*;

    #[test]
    fn the_tree_is_the_file() {
        // SAFETY: objects are on the stack and in objects. (Other tests set handlers for SIGSEGV meanwhile.)
        let heap = unsafe { Heap::new(Config::new(Tracker::None).young_bytes(64 << 10).checked()) }.unwrap();
        let file = file(200_000);
        assert!((200_000..201_000).contains(&file.len()), "{}", file.len());
        assert_eq!(run(&heap, &file), expected(&file));
        let changed = String::from_utf8(file.clone()).unwrap().replacen("copper", "cooper", 1).into_bytes();
        assert_ne!(run(&heap, &changed), expected(&file));
        assert!(heap.stats().full_collections > 3, "{:?}", heap.stats());
    }
}
