//! The programs are the examples: `variant`, `program` and `confined`. They are apart from `dune-tests` so that to link them in all ways does not
//! compile that crate's dependencies in all ways, too.
