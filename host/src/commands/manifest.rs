//! `kmr manifest`: checks manifests and describes them.

use kmr_core::statistics::{StatisticsError, smallest_provable_drop, smallest_provable_mean_drop};
use kmr_manifest::{ErrorKind, Floor, Problem};
use serde::Serialize;

use crate::{
    arguments::{Common, Manifest},
    exit,
    failure::Failure,
    files,
    pipeline::{Plan, Splits},
    table::{Table, number},
};

pub fn execute(arguments: &Manifest, common: &Common) -> Result<u8, Failure> {
    let Manifest::Check { manifest } = arguments else {
        crate::terminal::line!("{:#}", kmr_manifest::schema());
        return Ok(exit::SUCCESS);
    };
    let plan = Plan::read(manifest, &[], &common.plugin_paths)?;
    let model = files::read_model(&plan.manifest.model.path.value)?;
    let splits = Splits::read(&plan.manifest, &model)?;
    let provable = match &splits.holdout {
        Some(holdout) => Some(Provable::of(holdout.len(), plan.resolved.quality.confidence).map_err(impossible)?),
        None => None,
    };
    let warning = match &provable {
        Some(provable) => provable.warning(&plan).map_err(impossible)?,
        None => None,
    };
    if let Some(warning) = &warning {
        eprintln!("{}", warning.render(crate::terminal::color()));
    }
    if common.json {
        let warnings = plan.resolved.warnings.iter().chain(&warning);
        let result = serde_json::json!({
            "schema": 1,
            "valid": true,
            "holdout": provable,
            "warnings": warnings.map(Problem::message).collect::<Vec<_>>(),
        });
        crate::terminal::line!("{result:#}");
        return Ok(exit::SUCCESS);
    }
    crate::terminal::line!("{} is valid", manifest.display());
    if let Some(provable) = &provable {
        crate::terminal::text!("{}", provable.words());
    }
    Ok(exit::SUCCESS)
}

fn impossible(error: StatisticsError) -> Failure {
    Failure::new(exit::INPUT, format!("the holdout can prove nothing: {error}"))
}

/// Shares of answers that a reduction may change, from harmless to heavy.
const CHANGED: [f64; 3] = [0.01, 0.03, 0.1];

/// What a holdout can prove of a model that is as good as the original.
#[derive(Debug, Serialize)]
struct Provable {
    /// The samples of the holdout.
    samples: usize,
    /// The confidence of the test, in (0, 1).
    confidence: f64,
    /// For scores that are 0 or 1, by how many answers change.
    drops: Vec<Drop>,
    /// For other scores: the smallest drop, in standard deviations of their differences.
    drop_in_deviations: f64,
}

/// The smallest drop that is proved when as many answers get worse as get better.
#[derive(Debug, Serialize)]
struct Drop {
    /// The share of answers that change, in [0, 1].
    changed: f64,
    /// The smallest margin of the quality floor that the test accepts.
    drop: f64,
}

impl Provable {
    fn of(samples: usize, confidence: f64) -> Result<Self, StatisticsError> {
        let drops = CHANGED.map(|changed| {
            let drop = smallest_provable_drop(samples, changed, confidence)?;
            Ok(Drop { changed, drop })
        });
        Ok(Self {
            samples,
            confidence,
            drops: drops.into_iter().collect::<Result<_, _>>()?,
            drop_in_deviations: smallest_provable_mean_drop(samples, 1.0, confidence)?,
        })
    }

    fn words(&self) -> String {
        let mut table = Table::new(&["answers changed", "smallest drop proved"]);
        for Drop { changed, drop } in &self.drops {
            table.row([format!("{} %", changed * 100.0), format!("{drop:.5}")]);
        }
        format!(
            "a holdout of {} samples at confidence {}, for scores that are 0 or 1:\n{}other scores: {:.5} standard \
             deviations of their differences\n",
            number(self.samples as f64),
            self.confidence,
            table.render(),
            self.drop_in_deviations,
        )
    }

    /// The warning that even a good result would not be proved to keep the floor.
    fn warning(&self, plan: &Plan) -> Result<Option<Problem>, StatisticsError> {
        let quality = &plan.manifest.quality;
        let (Floor::DropAtMost(floor), Some(least)) = (quality.floor.value, self.drops.first()) else {
            return Ok(None);
        };
        if floor <= 0.0 || floor > least.drop {
            return Ok(None);
        }
        let message = format!(
            "the holdout's {} samples cannot prove a drop of at most {floor}: with {} % of the answers changed they \
             prove {:.5}",
            number(self.samples as f64),
            least.changed * 100.0,
            least.drop
        );
        let help = format!(
            "where scores are 0 or 1, it takes {} samples",
            number(samples_for(floor, least.changed, self.confidence)? as f64)
        );
        let span = quality.floor.span.clone();
        Ok(Some(plan.manifest.problem(ErrorKind::Warning, span, message, help)))
    }
}

/// The samples that prove a drop of less than `floor`, which is positive, when a share `changed` of answers changes.
fn samples_for(floor: f64, changed: f64, confidence: f64) -> Result<usize, StatisticsError> {
    const MOST: usize = 1 << 40;
    let (mut few, mut enough) = (0, 1);
    while enough < MOST && smallest_provable_drop(enough, changed, confidence)? >= floor {
        (few, enough) = (enough, enough * 2);
    }
    while enough - few > 1 {
        let middle = few.midpoint(enough);
        match smallest_provable_drop(middle, changed, confidence)? >= floor {
            true => few = middle,
            false => enough = middle,
        }
    }
    Ok(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_samples_as_it_takes_and_no_more() {
        for floor in [0.1, 0.005, 0.0004] {
            let samples = samples_for(floor, 0.01, 0.95).unwrap();
            assert!(smallest_provable_drop(samples, 0.01, 0.95).unwrap() < floor);
            assert!(smallest_provable_drop(samples - 1, 0.01, 0.95).unwrap() >= floor);
        }
    }

    #[test]
    fn more_changed_answers_prove_less() {
        let provable = Provable::of(10_000, 0.95).unwrap();
        assert!(provable.drops.is_sorted_by(|one, next| one.drop < next.drop));
        assert!((provable.drop_in_deviations - 0.01645).abs() < 1e-4);
    }
}
