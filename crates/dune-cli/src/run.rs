//! `dune run`: a program that is not trusted, in ring 3.

mod ask;
mod json;
mod layer;
mod stats;

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process;

use dune_sandbox::policy::{self, Additions, Decision, FromFile, Policy};
use dune_sandbox::{Effective, Files, Filter, Observation, Sandbox};

use crate::arguments::{LayerOptions, RunOptions};
use crate::failure::Failure;
use crate::output;

/// Becomes the program, or its launcher. Returns only if that fails.
pub(crate) fn run(options: &RunOptions) -> Result<Infallible, Failure> {
    if let Some(path) = &options.explain {
        let effective = Effective::of(&*policy_of(path, &additions(options))?);
        match &options.json {
            Some(to) => json::Target::open(to)?.write(&json::explained(&effective))?,
            None => output::line(&effective.words())?,
        }
        process::exit(0);
    }
    let program = options.command.first().expect("the command line requires a program");
    let usual = if options.learn.is_some() { "allow-all" } else { "compute" };
    let policy = options.policy.as_deref().unwrap_or(usual.as_ref());
    let policy = policy_of(policy, &additions(options))?;
    let LayerOptions { layer, diff, apply, discard } = &options.layer;
    let asks_for_layer = layer.is_some() || *diff || *apply || *discard;
    if asks_for_layer && !policy.files().is_some_and(Files::has_layers) {
        return Err(Failure::NoLayer { policy: policy.name().to_owned() });
    }
    let asks = policy.denial() == Decision::Ask;
    if options.ask.ask.is_some() && !asks {
        return Err(Failure::AsksNothing { policy: policy.name().to_owned() });
    }
    // Somebody has to be there who ends all processes at a limit, makes private directories, and asks.
    let is_elsewhere = policy.files().is_some_and(Files::are_elsewhere);
    if !is_observed(options) && !policy.limits().is_any() && !is_elsewhere && !asks {
        let sandbox = Sandbox::new(policy).best_effort(options.best_effort);
        return Ok(sandbox.run(program, &options.command)?);
    }
    // All that is to be written to is opened before anything runs.
    let target = options.json.as_deref().map(json::Target::open).transpose()?;
    let learnt = match &options.learn {
        Some(path) => Some((path, create(path)?)),
        None => None,
    };
    let effective = target.is_some().then(|| Effective::of(&*policy));
    let unit = (target.is_some() || options.stats).then(dune_bench::Unit::of_this_computer);
    let mut sandbox = Sandbox::new(policy).best_effort(options.best_effort);
    if let Some(directory) = layer {
        sandbox = sandbox.layer(directory);
    }
    let mut observation = observation(options)?;
    let mut questions = None;
    if asks {
        let mut asker = ask::Asker::open(&options.ask)?;
        questions = Some(asker.told());
        observation = observation.answers(move |question| asker.decide(question));
    }
    let mut report = sandbox.run_observed(program, &options.command, observation)?;
    if let Some(why) = &report.outcome.not_started {
        eprintln!("dune: {}", why.why);
    }
    let is_left_over = match &mut report.layer {
        Some(kept) => layer::after(kept, &report.outcome, &options.layer),
        None => Ok(()),
    };
    if let (true, Some(unit)) = (options.stats, unit) {
        // Whoever reads standard error may have gone.
        let _ = io::stderr().write_all(stats::text(&report, unit).as_bytes());
    }
    if let (Some((path, mut file)), Some(text)) = (learnt, &report.learnt) {
        let write = file.write_all(text.as_bytes());
        write.map_err(|why| Failure::Create { path: path.to_owned(), why })?;
    }
    if let (Some(target), Some(effective), Some(unit)) = (target, effective, unit) {
        let questions = questions.map(|told| told.take());
        target.write(&json::report(&options.command, &effective, &report, questions, unit))?;
    }
    is_left_over?;
    report.end()
}

/// What the command line lets the program do besides what the policy says.
fn additions(options: &RunOptions) -> Additions {
    let mut more = Additions::default();
    more.write.clone_from(&options.write);
    more.connect.clone_from(&options.connect);
    more
}

fn policy_of(path: &Path, more: &Additions) -> Result<Box<dyn Policy>, Failure> {
    let name = path.to_str();
    if let Some(policy) = name.and_then(|name| FromFile::shipped(name, more)) {
        return Ok(Box::new(policy?));
    }
    match name.and_then(policy::by_name) {
        Some(_) if !more.is_empty() => Err(Failure::AddsNothing { policy: path.to_owned() }),
        Some(policy) => Ok(policy?),
        None => Ok(Box::new(FromFile::read_with(path, more)?)),
    }
}

/// Whether somebody wants to know more than what the program does itself.
fn is_observed(options: &RunOptions) -> bool {
    let RunOptions { trace, trace_file, stats, json, learn, .. } = options;
    trace.is_some() || trace_file.is_some() || *stats || json.is_some() || learn.is_some()
}

fn observation(options: &RunOptions) -> Result<Observation, Failure> {
    if !is_observed(options) {
        return Ok(Observation::outcome());
    }
    let observation = Observation::new().learn(options.learn.is_some());
    if options.trace.is_none() && options.trace_file.is_none() {
        return Ok(observation);
    }
    let filter = options.trace.clone().unwrap_or_else(Filter::all);
    let out = match &options.trace_file {
        Some(file) => Box::new(BufWriter::new(create(file)?)) as Box<dyn Write>,
        None => Box::new(io::stderr()),
    };
    Ok(observation.trace(filter, out, options.trace_file.is_some()))
}

/// A file for what is told.
fn create(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.map_err(|why| Failure::Create { path: path.to_owned(), why })
}
