//! The file: a catalogue in sections within sections, the same for the same size.

use std::io::Write;

const COLOURS: [&str; 4] = ["copper", "green", "&lt;none&gt;", "black &amp; white"];
const WORDS: [&str; 8] =
    ["small", "a spring", "for doors", "&quot;best&quot;", "steel", "with screws", "cheap", "R&amp;D"];
/// Sections within each other.
const DEPTH: usize = 5;

/// `bytes` bytes of XML, or a little more.
pub(super) fn generate(bytes: usize) -> Vec<u8> {
    let mut file = Vec::with_capacity(bytes + 1024);
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut open = 0;
    file.extend_from_slice(b"<?xml version=\"1.0\"?>\n<!-- generated -->\n<catalogue>\n");
    for number in 0.. {
        if file.len() + 12 * (open + 1) >= bytes {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        match random % 8 {
            0 if open < DEPTH => {
                write(&mut file, format_args!("<section id=\"s{number}\" level='{open}'>\n"));
                open += 1;
            }
            1 if open > 0 => {
                write(&mut file, format_args!("</section>\n"));
                open -= 1;
            }
            _ => {
                let choose = |from: u32, list: &[&'static str]| list[(random >> from) as usize % list.len()];
                let (colour, one, two) = (choose(8, &COLOURS), choose(16, &WORDS), choose(24, &WORDS));
                let (price, stock) = (random >> 32 & 0xfff, random >> 44 & 0xff);
                write(
                    &mut file,
                    format_args!(
                        "<item sku=\"{number}\" colour=\"{colour}\"><name>{one} <b>{two}</b></name>\
                         <price currency='EUR'>{price}.{stock:02}</price><stock left=\"{stock}\"/></item>\n"
                    ),
                );
            }
        }
    }
    for _ in 0..open {
        write(&mut file, format_args!("</section>\n"));
    }
    write(&mut file, format_args!("</catalogue>\n"));
    file
}

fn write(file: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A `Vec` takes all.
    let _ = file.write_fmt(text);
}
