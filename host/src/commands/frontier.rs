//! `kmr frontier`: one search, many budgets.

use std::path::Path;

use kmr_core::{Assignment, Curve, Options, Outcome, Pipeline, Policy, Stage, run_stages};
use kmr_run::{ContenderReport, FRONTIER_SCHEMA, FrontierPoint, RunFolder};

use crate::{
    arguments::{Common, Frontier},
    exit,
    failure::Failure,
    files,
    pipeline::{Recorder, Setup, absolute, measured, search_failure, stages},
    table::{Table, number},
};

pub fn execute(arguments: &Frontier, common: &Common) -> Result<u8, Failure> {
    let mut setup = Setup::new(
        &arguments.manifest,
        &arguments.disable,
        arguments.engine,
        &arguments.out,
        common,
    )?;
    let meter = single_limit(&setup)?;
    let limits = arguments.budgets.iter();
    let limits = limits.map(|(name, amount)| Ok((name.clone(), absolute(&meter, amount, &setup.before)?.1)));
    let limits: Vec<(String, f64)> = limits.collect::<Result<_, Failure>>()?;
    let folder = RunFolder::create(&arguments.out)?;
    let quality_meter = setup.plan.resolved.quality.meter.clone();
    let sign = setup.subject.sign(&quality_meter);
    let mut recorder = Recorder::new(setup.context.clone(), folder.journal()?, &meter, &quality_meter, sign);
    let least = limits.iter().map(|(_, limit)| *limit).fold(f64::INFINITY, f64::min);
    let pipeline = pipeline(&setup, &meter, least)?;
    let settings = setup.chosen.knapsack.clone().unwrap_or_default();
    let curve = limits.clone();
    let next_policy = move |_: &Stage| -> Box<dyn Policy> { Box::new(Curve::new(settings.clone(), curve.clone())) };
    let searched = run_stages(
        &mut setup.subject,
        &pipeline,
        next_policy,
        &Options::default(),
        &mut recorder,
    );
    if searched.map_err(search_failure)?.outcome == Outcome::Interrupted {
        return Err(Failure::new(
            exit::INTERRUPTED,
            "interrupted; a frontier is written when it is whole",
        ));
    }
    let mut points = Vec::new();
    for (assignment, contender) in std::mem::take(&mut recorder.contenders) {
        points.push(point(&mut setup, &arguments.out, &assignment, contender, &meter)?);
    }
    let missing: Vec<&str> = limits
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| {
            !points
                .iter()
                .any(|point| point.found.budgets.iter().any(|own| own == name))
        })
        .collect();
    let document = kmr_run::Frontier {
        schema: FRONTIER_SCHEMA,
        original: setup.before.get(&meter).copied(),
        quality_meter,
        model: setup.model,
        points: points.iter().map(|point| point.found.clone()).collect(),
        out_of_reach: missing.iter().map(|&name| name.to_owned()).collect(),
        meter: meter.clone(),
    };
    let path = arguments.out.join("frontier.json");
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Failure::new(exit::INTERNAL, error.to_string()))?
        + "\n";
    kmr_run::replace_file(&path, text.as_bytes())?;
    folder.keep_journal()?;
    folder.remove_checkpoints()?;
    setup.context.progress.clear();
    if common.json {
        crate::terminal::text!("{text}");
    } else {
        let mut table = Table::new(&["budget", &meter, &document.quality_meter, "holdout", "model"]);
        points.iter().for_each(|point| table.row(point.row.clone()));
        crate::terminal::text!("\n{}", table.render());
    }
    if missing.is_empty() {
        return Ok(exit::SUCCESS);
    }
    if !common.json {
        let message = format!("no assignment of the knobs reaches {} of {meter}", missing.join(", "));
        let failure = Failure::new(exit::BUDGET, message).help(format!(
            "the points that were reached are in {}; give rules stronger values",
            path.display()
        ));
        eprint!("{}", failure.render(crate::terminal::color()));
    }
    Ok(exit::BUDGET)
}

/// The meter of the budget's one limit.
fn single_limit(setup: &Setup) -> Result<String, Failure> {
    let resolved = &setup.plan.resolved;
    let refuse = |message: &str, help: &str| {
        let place = setup.plan.path.display().to_string();
        Err(Failure::new(exit::MANIFEST, message).at(place).help(help))
    };
    match (resolved.limits.as_slice(), resolved.stages.as_slice()) {
        ([limit], [_]) => Ok(limit.meter.clone()),
        ([_], _) => refuse("a frontier is that of one stage", "put the rules into one stage"),
        _ => refuse("a frontier is that of one limit", "leave one limit in [budget]"),
    }
}

/// The one stage, down to the least limit, whatever the quality.
fn pipeline(setup: &Setup, meter: &str, least: f64) -> Result<Pipeline, Failure> {
    let limits = [(meter.to_owned(), least)];
    let written = stages(&setup.plan, &limits, &setup.before, 1.0)?;
    let open = written.stages().iter().map(|stage| Stage {
        until: None,
        ..stage.clone()
    });
    Pipeline::new(open.collect(), written.budget().clone(), None)
        .map_err(|error| Failure::new(exit::MANIFEST, error.to_string()))
}

/// One budget's solution.
struct Point {
    found: FrontierPoint,
    row: [String; 5],
}

/// Makes a solution again, writes it, and reads its quality on the holdout.
fn point(
    setup: &mut Setup,
    out: &Path,
    assignment: &Assignment,
    contender: ContenderReport,
    meter: &str,
) -> Result<Point, Failure> {
    let candidate = measured(setup.subject.again(assignment))?;
    let cost = contender.costs.get(meter).copied();
    let file = format!("{}.onnx", cost.map_or("model".to_owned(), |cost| format!("{cost}")));
    files::write_model(&out.join(&file), &setup.context.files(&candidate.model)?)?;
    let quality = setup.plan.resolved.quality.meter.clone();
    let holdout = match setup.context.splits.holdout.clone() {
        None => None,
        Some(data) => {
            let context = setup.context.clone();
            Some(
                measured(
                    setup
                        .subject
                        .read_in(context.judge(), &quality, &candidate, &data, None),
                )?
                .value,
            )
        }
    };
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let row = [
        contender.label.clone(),
        shown(cost),
        shown(contender.quality),
        shown(holdout),
        file.clone(),
    ];
    Ok(Point {
        found: FrontierPoint {
            budgets: contender.label.split(", ").map(str::to_owned).collect(),
            file,
            costs: contender.costs,
            quality: contender.quality,
            samples: contender.samples,
            holdout,
            assignment: contender.assignment,
        },
        row,
    })
}
