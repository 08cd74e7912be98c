//! Many budgets, one survey: the curve of cost and quality.

use super::{Answer, Ask, Knapsack, KnapsackSettings, Known, Policy, PolicyError, Survey};
use crate::assignment::Assignment;
use crate::history::History;
use crate::measurement::Fidelity;

/// Solves the knapsack for several values of the budget's one limit, and has each solution measured
/// in full as a probe under the limit's name. It adopts none.
///
/// Limits with the same solution share a probe, their names joined by `, `. A limit out of reach has none.
#[derive(Clone, Debug)]
pub struct Curve {
    knapsack: Knapsack,
    limits: Vec<(String, f64)>,
}

impl Curve {
    /// The curve through these limits, each with its name. `settings` go as for [`Knapsack`], the refinement apart.
    pub fn new(settings: KnapsackSettings, limits: Vec<(String, f64)>) -> Self {
        Curve {
            knapsack: Knapsack::new(settings),
            limits,
        }
    }

    fn plan(&mut self, known: &Known) -> Answer<Ask> {
        let settings = &self.knapsack.settings;
        let proxy = Fidelity::proxy(settings.proxy_samples.max(1));
        let mut survey = Survey::new(known, proxy, settings.cost_probes)?;
        if survey.variables.is_empty() || survey.limits.len() != 1 {
            return Ok(Ask::Done);
        }
        let frontiers = self.knapsack.frontiers(&survey);
        let mut found: Vec<(Assignment, String)> = Vec::new();
        for (name, limit) in &self.limits {
            survey.limits = vec![*limit];
            let solved = survey.audited(known, |offsets| survey.optimum(&frontiers, offsets))?;
            let Some(assignment) = solved.map(|choices| survey.assignment(&choices)) else {
                continue;
            };
            match found.iter_mut().find(|(other, _)| *other == assignment) {
                Some((_, names)) => *names = format!("{names}, {name}"),
                None => found.push((assignment, name.clone())),
            }
        }
        let assignments: Vec<Assignment> = found.iter().map(|(assignment, _)| assignment.clone()).collect();
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        known.judged(&assignments, &names)?;
        Ok(Ask::Done)
    }
}

impl Policy for Curve {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        let (Ok(ask) | Err(ask)) = self.plan(&Known::new(history));
        Ok(ask)
    }
}
