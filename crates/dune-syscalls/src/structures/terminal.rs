//! `<asm-generic/termbits.h>`, `<asm-generic/termios.h>`.

use super::structures;

structures! {
    TERMIOS: "termios" 36 { 0 c_iflag: Hex, 4 c_oflag: Hex, 8 c_cflag: Hex, 12 c_lflag: Hex }
    TERMIOS2: "termios2" 44 { 0 c_iflag: Hex, 4 c_oflag: Hex, 8 c_cflag: Hex, 12 c_lflag: Hex }
    TERMIO: "termio" 18 { 0 c_iflag: Short, 2 c_oflag: Short, 4 c_cflag: Short, 6 c_lflag: Short }
    WINSIZE: "winsize" 8 { 0 ws_row: Short, 2 ws_col: Short, 4 ws_xpixel: Short, 6 ws_ypixel: Short }
}
