//! A small Lisp whose values are in the collector's heap: it counts the ways to put queens on a board.
//!
//! `cargo run --release -p dune-gc --example lisp [TRACKER]`: mprotect, soft-dirty, none; or, where Dune mode works, dune-dirty and its
//! like.

use std::cell::Cell;
use std::collections::HashMap;
use std::error::Error;

use dune_gc::{Config, Gc, Heap, Root, Trace, Tracker};

const PROGRAM: &str = "
    (define append (lambda (a b) (if (null? a) b (cons (car a) (append (cdr a) b)))))
    (define range (lambda (from to) (if (= from to) () (cons from (range (+ from 1) to)))))
    (define safe (lambda (row distance queens)
        (if (null? queens) 1
            (if (= row (car queens)) 0
                (if (= row (+ (car queens) distance)) 0
                    (if (= row (- (car queens) distance)) 0
                        (safe row (+ distance 1) (cdr queens))))))))
    (define try (lambda (rows queens count)
        (if (null? rows) 0
            (+ (if (= 1 (safe (car rows) 1 queens)) (place (cons (car rows) queens) (- count 1)) 0)
               (try (cdr rows) queens count)))))
    (define place (lambda (queens count) (if (= count 0) 1 (try board queens count))))
    (define board (range 0 7))
    (place () 7)
";

/// What a Lisp program computes with.
#[derive(Trace, Clone, Copy)]
enum Value<'h> {
    Nil,
    Number(i64),
    Symbol(u32),
    Builtin(Function),
    Pair(Gc<'h, (Value<'h>, Value<'h>)>),
    Lambda(Gc<'h, Lambda<'h>>),
}

#[derive(Trace)]
struct Lambda<'h> {
    names: Value<'h>,
    body: Value<'h>,
    scope: Option<Gc<'h, Scope<'h>>>,
}

/// Names that have values, and the scope around.
#[derive(Trace)]
struct Scope<'h> {
    name: u32,
    value: Cell<Value<'h>>,
    outer: Option<Gc<'h, Scope<'h>>>,
}

/// What is built in.
type Function = fn(i64, i64) -> i64;

/// The innermost scope.
type Scopes<'h> = Cell<Option<Gc<'h, Scope<'h>>>>;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Lisp<'h> {
    heap: &'h Heap,
    symbols: HashMap<String, u32>,
    /// Not on the stack of values: a cell in the heap, which `globals` is a root of.
    globals: Root<'h, Scopes<'h>>,
}

impl<'h> Lisp<'h> {
    fn new(heap: &'h Heap) -> Lisp<'h> {
        let globals = heap.root(heap.alloc(Cell::new(None)));
        let mut lisp = Lisp { heap, symbols: HashMap::new(), globals };
        for name in ["quote", "if", "lambda", "define", "cons", "car", "cdr", "null?"] {
            lisp.symbol(name);
        }
        let numbers: [(&str, Function); 3] =
            [("+", |a, b| a + b), ("-", |a, b| a - b), ("=", |a, b| (a == b).into())];
        for (name, function) in numbers {
            let name = lisp.symbol(name);
            lisp.define(name, Value::Builtin(function));
        }
        lisp
    }

    fn symbol(&mut self, name: &str) -> u32 {
        let next = self.symbols.len() as u32;
        *self.symbols.entry(name.to_owned()).or_insert(next)
    }

    fn pair(&self, first: Value<'h>, rest: Value<'h>) -> Value<'h> {
        Value::Pair(self.heap.alloc((first, rest)))
    }

    fn scope(&self, name: u32, value: Value<'h>, outer: Option<Gc<'h, Scope<'h>>>) -> Gc<'h, Scope<'h>> {
        self.heap.alloc(Scope { name, value: Cell::new(value), outer })
    }

    fn define(&self, name: u32, value: Value<'h>) {
        let outer = self.globals.get().get();
        self.globals.get().set(Some(self.scope(name, value, outer)));
    }

    /// The next value of a text.
    fn read(&mut self, words: &mut std::iter::Peekable<impl Iterator<Item = String>>) -> Result<Value<'h>> {
        let word = words.next().ok_or("the program ends too early")?;
        if word == "(" {
            return self.read_rest(words);
        }
        Ok(word.parse().map_or_else(|_| Value::Symbol(self.symbol(&word)), Value::Number))
    }

    fn read_rest(
        &mut self,
        words: &mut std::iter::Peekable<impl Iterator<Item = String>>,
    ) -> Result<Value<'h>> {
        if words.next_if(|word| word == ")").is_some() {
            return Ok(Value::Nil);
        }
        let first = self.read(words)?;
        let rest = self.read_rest(words)?;
        Ok(self.pair(first, rest))
    }

    fn lookup(&self, name: u32, scope: Option<Gc<'h, Scope<'h>>>) -> Result<Value<'h>> {
        for mut at in [scope, self.globals.get().get()] {
            while let Some(scope) = at {
                if scope.name == name {
                    return Ok(scope.value.get());
                }
                at = scope.outer;
            }
        }
        Err("a name has no value".into())
    }

    fn eval(&self, value: Value<'h>, scope: Option<Gc<'h, Scope<'h>>>) -> Result<Value<'h>> {
        let (head, rest) = match value {
            Value::Symbol(name) => return self.lookup(name, scope),
            Value::Pair(pair) => *pair,
            other => return Ok(other),
        };
        let argument = |index| self.eval(item(rest, index)?, scope);
        match head {
            Value::Symbol(0) => item(rest, 0),
            Value::Symbol(1) => {
                let is_true = !matches!(argument(0)?, Value::Nil | Value::Number(0));
                self.eval(item(rest, if is_true { 1 } else { 2 })?, scope)
            }
            Value::Symbol(2) => {
                let (names, body) = (item(rest, 0)?, item(rest, 1)?);
                Ok(Value::Lambda(self.heap.alloc(Lambda { names, body, scope })))
            }
            Value::Symbol(3) => {
                let Value::Symbol(name) = item(rest, 0)? else { return Err("define wants a name".into()) };
                self.define(name, argument(1)?);
                Ok(Value::Nil)
            }
            Value::Symbol(4) => Ok(self.pair(argument(0)?, argument(1)?)),
            Value::Symbol(5) => Ok(pair(argument(0)?)?.0),
            Value::Symbol(6) => Ok(pair(argument(0)?)?.1),
            Value::Symbol(7) => Ok(Value::Number(matches!(argument(0)?, Value::Nil).into())),
            _ => match self.eval(head, scope)? {
                Value::Builtin(function) => match (argument(0)?, argument(1)?) {
                    (Value::Number(one), Value::Number(two)) => Ok(Value::Number(function(one, two))),
                    _ => Err("numbers are wanted".into()),
                },
                Value::Lambda(lambda) => {
                    let (mut inner, mut names, mut index) = (lambda.scope, lambda.names, 0);
                    while let Value::Pair(name) = names {
                        let Value::Symbol(symbol) = name.0 else { return Err("lambda wants names".into()) };
                        inner = Some(self.scope(symbol, argument(index)?, inner));
                        (names, index) = (name.1, index + 1);
                    }
                    self.eval(lambda.body, inner)
                }
                _ => Err("this is no function".into()),
            },
        }
    }
}

fn pair<'h>(value: Value<'h>) -> Result<(Value<'h>, Value<'h>)> {
    if let Value::Pair(pair) = value { Ok(*pair) } else { Err("a pair is wanted".into()) }
}

fn item(list: Value<'_>, index: usize) -> Result<Value<'_>> {
    let mut list = pair(list)?;
    for _ in 0..index {
        list = pair(list.1)?;
    }
    Ok(list.0)
}

fn main() -> Result<()> {
    let tracker = std::env::args().nth(1).map_or(Ok(Tracker::Mprotect), |name| name.parse())?;
    if tracker.needs_dune_mode() {
        dune::enter()?;
    }
    // SAFETY: 1. values are on the stack and in objects; the interpreter keeps its one pointer in a root; 2. and 3. there is no other code.
    let heap = unsafe { Heap::new(Config::new(tracker).young_bytes(256 << 10))? };
    let mut lisp = Lisp::new(&heap);
    let text = PROGRAM.replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().map(str::to_owned).peekable();
    let mut result = Value::Nil;
    while words.peek().is_some() {
        let value = lisp.read(&mut words)?;
        result = lisp.eval(value, None)?;
    }
    let Value::Number(ways) = result else { return Err("the program gives no number".into()) };
    println!("7 queens: {ways} ways");
    let stats = heap.stats();
    println!(
        "{tracker}: {} young and {} full collections, {} KiB allocated, {} pages of old objects written to, {} edges now",
        stats.young_collections,
        stats.full_collections,
        stats.allocated_bytes >> 10,
        stats.written_pages,
        heap.check()?
    );
    Ok(())
}
