//! `kmr run`: brings a model within a budget, as a manifest says.

use std::{fs, path::Path, time::Instant};

use kmr_core::{EarlyRejection, OnNoProgress, Options, Policy, PolicyError, Stage, run_stages};
use kmr_manifest as manifest;
use kmr_run::{Report, RunFolder};

use crate::{
    arguments::{Common, Run},
    exit,
    failure::Failure,
    files,
    pipeline::{Chosen, Context, Finish, Plan, Recorder, Setup, Subject, finish, limits, search_failure, stages},
    table::{Table, change, number},
};

pub fn execute(arguments: &Run, common: &Common) -> Result<u8, Failure> {
    let started = Instant::now();
    let Setup {
        plan,
        context,
        chosen,
        mut subject,
        before,
        model,
    } = Setup::new(
        &arguments.manifest,
        &arguments.disable,
        arguments.engine,
        &arguments.out,
        common,
    )?;
    let limits = limits(&plan, &before)?;
    announce(&context, &plan, Path::new(&model.path), &limits, &before);
    let pipeline = stages(&plan, &limits, &before, subject.sign(&plan.resolved.quality.meter))?;
    let folder = RunFolder::create(&arguments.out)?;
    let quality_meter = &plan.resolved.quality.meter;
    let mut recorder = Recorder::new(
        context.clone(),
        folder.journal()?,
        &limits[0].0,
        quality_meter,
        subject.sign(quality_meter),
    );
    let options = Options {
        on_no_progress: match plan.resolved.policy.on_no_progress {
            manifest::OnNoProgress::Stop => OnNoProgress::Stop,
            manifest::OnNoProgress::Skip => OnNoProgress::Skip,
        },
        max_steps: plan
            .resolved
            .policy
            .max_steps
            .map(|steps| usize::try_from(steps).unwrap_or(usize::MAX)),
        early_rejection: pipeline.floor().map(|_| EarlyRejection::default()),
        ..Options::default()
    };
    let policies = prepare(&chosen, &subject, pipeline.stages().len())?;
    let mut policies = policies.into_iter();
    let next_policy = |_: &Stage| -> Box<dyn Policy> { policies.next().unwrap_or_else(|| Box::new(NoPolicy)) };
    let conclusion = run_stages(&mut subject, &pipeline, next_policy, &options, &mut recorder);
    let conclusion = conclusion.map_err(search_failure)?;
    let report = finish(Finish {
        plan: &plan,
        context: context.clone(),
        subject: &mut subject,
        recorder,
        conclusion,
        limits,
        folder: &folder,
        latency: !arguments.no_latency,
        model,
        manifest: files::file_report(&plan.path, &fs::read(&plan.path).unwrap_or_default()),
        started,
    })?;
    if report.exit_code != exit::INTERRUPTED {
        folder.remove_checkpoints()?;
    }
    context.progress.clear();
    conclude(&report, &folder, common);
    Ok(report.exit_code)
}

fn announce(context: &Context, plan: &Plan, model: &Path, limits: &[(String, f64)], before: &kmr_core::Costs) {
    for (meter, limit) in limits {
        let original = before.get(meter).copied().unwrap_or(f64::NAN);
        context.progress.line(&format!(
            "{}: {meter} {} -> at most {}",
            model.display(),
            number(original),
            number(*limit)
        ));
    }
    context.progress.line(&format!(
        "judged by {} on {} samples; policy {}, seed {}",
        plan.resolved.quality.meter,
        context.splits.search.len(),
        plan.resolved.policy.offer.id,
        context.seed
    ));
}

/// A policy for every stage, made before the search so that one that cannot be made costs nothing.
fn prepare(chosen: &Chosen, subject: &Subject, stages: usize) -> Result<Vec<Box<dyn Policy>>, Failure> {
    (0..stages).map(|_| chosen.policy(subject.plugins())).collect()
}

/// Stands where there are more stages than policies, which cannot be.
struct NoPolicy;

impl Policy for NoPolicy {
    fn next(&mut self, _: &kmr_core::History) -> Result<kmr_core::Ask, PolicyError> {
        Err(PolicyError::new("there is no policy for this stage"))
    }
}

/// The result for people, or for programs.
fn conclude(report: &Report, folder: &RunFolder, common: &Common) {
    if common.json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => crate::terminal::line!("{text}"),
            Err(error) => log::error!("the report cannot be printed: {error}"),
        }
        return;
    }
    crate::terminal::text!("{}", tables(report));
    let path = folder.path().join(&report.artifact.path);
    if report.exit_code == exit::SUCCESS {
        crate::terminal::line!(
            "budget met: {} ({} bytes)",
            path.display(),
            number(report.artifact.bytes as f64)
        );
        return;
    }
    let color = crate::terminal::color();
    let failure = Failure::new(report.exit_code, &report.message).help(format!(
        "the best model found is {}; its report is {}",
        path.display(),
        folder.path().join(RunFolder::REPORT).display()
    ));
    eprint!("{}", failure.render(color));
}

/// Meters and layers, before and after.
fn tables(report: &Report) -> String {
    let mut layers = Table::new(&["layer", "changed", "params", "MACs"]);
    for layer in report
        .layers
        .iter()
        .filter(|layer| layer.params.before != layer.params.after || !layer.changes.is_empty())
    {
        let changed = layer.changes.iter();
        let changed: Vec<String> = changed
            .map(|change| format!("{} {} -> {}", change.what, change.before, change.after))
            .collect();
        let params = match (layer.params.before, layer.params.after) {
            (0.0, 0.0) => "-".to_owned(),
            (before, after) => format!("{} -> {}", number(before), number(after)),
        };
        let macs = match (layer.macs.before, layer.macs.after) {
            (0.0, 0.0) => "-".to_owned(),
            (before, after) => change(before, after),
        };
        layers.row([layer.layer.clone(), changed.join(", "), params, macs]);
    }
    let mut meters = Table::new(&["meter", "before", "after", "change"]);
    let mut row = |name: String, before: f64, after: f64| {
        meters.row([name, number(before), number(after), change(before, after)]);
    };
    for (name, reading) in &report.meters {
        let name = if *name == report.quality.meter {
            format!("{name} (search)")
        } else {
            name.clone()
        };
        let beside = if name == "macs" { &report.latency[..] } else { &[] };
        row(name, reading.before, reading.after);
        for latency in beside {
            let name = format!("latency in ms (batch {}, {} thread)", latency.batch, latency.threads);
            row(name, latency.before, latency.after);
        }
    }
    let mut flips = String::new();
    if let Some(holdout) = &report.quality.holdout {
        let name = &report.quality.meter;
        row(format!("{name} (holdout)"), holdout.before, holdout.after);
        for reading in &holdout.engines {
            if (reading.before, reading.after) != (holdout.before, holdout.after) {
                let name = format!("{name} (holdout, {})", reading.engine);
                row(name, reading.before, reading.after);
            }
            if reading.binary && reading.engine == holdout.engine {
                flips = format!(
                    "holdout flips: {} right to wrong, {} wrong to right ({} samples, {} {})\n\n",
                    number(reading.lost as f64),
                    number(reading.gained as f64),
                    number(holdout.samples as f64),
                    reading.engine,
                    reading.version
                );
            }
        }
    }
    let contenders = if report.contenders.is_empty() {
        String::new()
    } else {
        format!("{}\n", contenders(report).render())
    };
    format!("\n{}\n{}\n{contenders}{flips}", layers.render(), meters.render())
}

/// What the policy chose from.
fn contenders(report: &Report) -> Table {
    let meter = &report.quality.meter;
    let (search, holdout) = (format!("{meter} (search)"), format!("{meter} (holdout)"));
    let mut table = Table::new(&["contender", &report.budget.meter, &search, &holdout]);
    for contender in &report.contenders {
        let cost = contender.costs.get(&report.budget.meter);
        let partial = contender
            .samples
            .filter(|samples| *samples < report.quality.search.samples);
        let partial = partial.map_or(String::new(), |samples| format!(" of {samples}"));
        let reading = |value: Option<f64>| value.map_or("-".to_owned(), number);
        table.row([
            contender.label.clone(),
            reading(cost.copied()),
            reading(contender.quality) + &partial,
            reading(contender.holdout),
        ]);
    }
    table
}
